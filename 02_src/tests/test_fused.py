"""Fused layers compute what the layers they replace compute; batches split by tokens."""

import bitsandbytes
import pytest
import torch
from merge_run import make_adapter
from peft.tuners.lora import LoraLayer
from test_fast import make_rows, make_trainer

from config import load_run_config
from fast.frozen_weights import keep_weights
from fast.fused_layers import is_plain_norm
from fast.lora_linear import fuse_lora_layers, is_plain
from fast.lora_stack import list_weights, project
from fast.reference import split_by_tokens
from fast.tree_attention import find_layers, fuse_attention
from hardware import find_device
from trained_models import load_adapter


def run(model: torch.nn.Module, ids: torch.Tensor) -> tuple[torch.Tensor, dict]:
    """(logits, gradients of the adapter) of a forward over `ids`."""
    model.zero_grad()
    logits = model(input_ids=ids).logits
    logits.square().mean().backward()
    return logits, {n: p.grad for n, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma"])
def test_fused_layers_equal_the_stock_ones(name, tmp_path, tokenizer):
    trainer = make_trainer(tmp_path, name, True, tokenizer, make_rows(4))
    model = trainer.model
    changed = [m for m in model.get_base_model().modules() if "forward" in vars(m)]
    changed.remove(model.get_base_model())  # TRL's and our forward of the whole model
    assert len(changed) >= 14
    ids = torch.arange(1, 21)[None]
    fused = run(model, ids)
    for module in changed:
        del module.forward
    stock = run(model, ids)
    assert torch.allclose(fused[0], stock[0], rtol=1e-5, atol=1e-6)
    for key, gradient in stock[1].items():
        assert (fused[1][key] - gradient).norm() <= 1e-5 * gradient.norm(), key


def test_norms_of_another_formula_are_left_alone(tmp_path, tokenizer):
    model = make_trainer(tmp_path, "gemma", False, tokenizer, make_rows(4)).model
    norms = [m for m in model.modules() if type(m).__name__.endswith("RMSNorm")]
    for norm in norms:
        torch.nn.init.constant_(norm.weight, 0.3)
    assert norms and not any(is_plain_norm(norm) for norm in norms)


def test_dropout_and_switched_off_adapters_keep_pefts_forward(tmp_path, tokenizer):
    trainer = make_trainer(tmp_path, "llama", False, tokenizer, make_rows(4))
    layer = next(m for m in trainer.model.modules() if is_plain(m))
    layer.lora_dropout["default"] = torch.nn.Dropout(0.1)
    assert not is_plain(layer)
    model = trainer.model
    with model.disable_adapter():
        off = model(input_ids=torch.arange(1, 9)[None]).logits
    fuse_lora_layers(model)
    with model.disable_adapter():
        assert torch.equal(model(input_ids=torch.arange(1, 9)[None]).logits, off)


@pytest.mark.parametrize("bias", [False, True])
def test_4_bit_layers_without_lora_compute_what_bitsandbytes_does(bias):
    torch.manual_seed(0)
    layer = bitsandbytes.nn.Linear4bit(
        128, 64, bias=bias, compute_dtype=torch.float32, quant_type="nf4", compress_statistics=True
    ).to("cpu")
    layer.weight.quant_state.dtype = torch.float32
    x = torch.randn(2, 5, 128)
    found = []
    for changed in (False, True):
        assert fuse_lora_layers(torch.nn.Sequential(layer)) == [layer] if changed else True
        entry = x.clone().requires_grad_()
        y = layer(entry)
        y.square().sum().backward()
        found.append((y.detach(), entry.grad))
    assert torch.allclose(found[0][0], found[1][0], rtol=1e-5, atol=1e-5)
    assert torch.allclose(found[0][1], found[1][1], rtol=1e-5, atol=1e-4)
    del layer.forward
    assert torch.equal(layer(x), found[0][0])


def make_stack(four_bit: bool, biased: bool) -> torch.nn.ModuleList:
    """Two linear layers with adapters of different ranks over one input."""
    from peft import LoraConfig, inject_adapter_in_model

    torch.manual_seed(3)

    def make_layer(out: int) -> torch.nn.Module:
        if not four_bit:
            return torch.nn.Linear(64, out, bias=biased)
        layer = bitsandbytes.nn.Linear4bit(
            64, out, bias=biased, compute_dtype=torch.float32, quant_type="nf4"
        )
        return layer.to("cpu")

    layers = torch.nn.ModuleDict({"first": make_layer(32), "second": make_layer(96)})
    lora = LoraConfig(r=4, lora_alpha=12, target_modules=["first", "second"],
                      rank_pattern={"second": 8})  # fmt: skip
    inject_adapter_in_model(lora, layers)
    for name, parameter in layers.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, 0, 0.2)
        parameter.requires_grad_("lora_" in name)
    for layer in layers.values():
        if four_bit:
            layer.get_base_layer().weight.quant_state.dtype = torch.float32
    return torch.nn.ModuleList([layers["first"], layers["second"]])


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("four_bit", [False, True])
def test_layers_over_one_input_run_as_one(four_bit, biased, kept):
    x, found = torch.randn(3, 7, 64), []
    for stacked in (False, True):
        layers = make_stack(four_bit, biased)
        entry = x.clone().requires_grad_()
        if stacked:
            fuse_lora_layers(layers)
            keep_weights([list_weights(layers)] if kept else [])
            y = project(layers, entry)
        else:
            y = torch.cat([layer(entry) for layer in layers], -1)
        y.square().sum().backward()
        adapters = [p.grad for p in layers.parameters() if p.requires_grad]
        found.append([y.detach(), entry.grad, *adapters])
    for ours, theirs in zip(*found, strict=True):
        assert (ours - theirs).norm() <= 1e-5 * theirs.norm()


def test_layers_of_unlike_kinds_run_one_by_one():
    layers = make_stack(four_bit=False, biased=False)
    x = torch.randn(2, 64)
    wanted = torch.cat([layer(x) for layer in layers], -1)
    fuse_lora_layers(torch.nn.ModuleList([layers[0]]))
    assert torch.allclose(project(layers, x), wanted, atol=1e-5)
    fuse_lora_layers(torch.nn.ModuleList([layers[1]]))
    layers[1].enable_adapters(False)
    with torch.no_grad():
        parts = project(layers, x)[:, :32], project(layers, x)[:, 32:]
    assert torch.allclose(parts[0], wanted[:, :32], atol=1e-5)
    assert not torch.allclose(parts[1], wanted[:, 32:], atol=1e-2)


@pytest.mark.parametrize(
    ("name", "changes", "taken"),
    [
        ("Llama", {}, True),
        ("Llama", {"attention_dropout": 0.1}, False),
        ("Llama", {"head_dim": 24}, False),
        ("Mistral", {"sliding_window": 64}, False),
        ("Mistral", {"sliding_window": None}, True),
        ("Olmo", {"clip_qkv": 8.0}, False),
        ("Qwen3", {}, False),  # norms of queries and keys
        ("Cohere", {}, False),  # another rotation
        ("Gemma2", {}, False),
    ],
)
def test_only_attention_that_the_kernels_compute_is_taken(name, changes, taken):
    import transformers

    sizes = {
        "vocab_size": 64, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0, "eos_token_id": 1,
        "bos_token_id": 2, "head_dim": 16,
    }  # fmt: skip
    config = getattr(transformers, f"{name}Config")(**sizes | changes)
    model = transformers.AutoModelForCausalLM.from_config(config)
    assert len(find_layers(model)) == (2 if taken else 0)
    assert fuse_attention(model) == [] and not model.attends_trees  # no GPU here


def test_batches_split_by_tokens_hold_everything_once():
    lengths = [5, 30, 7, 7, 100, 1]
    batches = split_by_tokens(lengths, 40, 3)
    assert sorted(i for batch in batches for i in batch) == list(range(6))
    assert batches[0] == [4]
    assert all(sum(lengths[i] for i in b) <= 40 or len(b) == 1 for b in batches)
    assert max(map(len, batches)) <= 3


# bitsandbytes multiplies 4-bit weights by 16-bit numbers on some CPUs, ours by 32-bit ones here
@pytest.mark.parametrize(("load_in_4bit", "tolerance"), [(False, 1e-4), (True, 1e-2)])
def test_a_loaded_run_answers_as_peft_does(load_in_4bit, tolerance, make_run, tiny_model):
    folder = make_run(load_in_4bit=load_in_4bit, bf16=False, fp16=False)
    make_adapter(tiny_model, folder, scale=0.3)
    device = find_device(load_run_config(folder))
    stock, fused = (load_adapter(folder, device, fused=fused)[0] for fused in (False, True))
    ids = torch.arange(5, 25).view(2, 10)

    def score(model: torch.nn.Module) -> list[torch.Tensor]:
        with torch.no_grad():
            tuned = model(input_ids=ids).logits
            with model.disable_adapter():
                return [tuned, model(input_ids=ids).logits]

    wanted, found = score(stock), score(fused)
    assert not is_plain(next(m for m in fused.modules() if isinstance(m, LoraLayer)))
    assert not torch.allclose(*wanted, atol=0.1)  # the adapter does something
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours.float(), theirs.float(), atol=tolerance, rtol=tolerance)
