"""Base models and adapters: where models come from, number formats, LoRA targets, 4 bit."""

import math
import os
import shutil
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from peft import get_peft_model
from safetensors.torch import save_file

import base_models
from base_models import EMBEDDED_PREFIX, ModelSource, load_tokenizer, resolve_model
from checkpoints import check_adapter_files
from config import Config
from errors import UserError
from hardware import GIB, Device, choose_gpu, find_device
from qlora import (
    build_lora_config,
    choose_precision,
    count_parameters,
    list_linear_names,
    load_base,
    load_policy,
)
from trainable_weights import cast_adapter_to_fp32, scale_adapter

LINEAR_NAMES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
CPU_BF16 = Device("cpu", "new processor", GIB, GIB, True, 1)
CPU_OLD = Device("cpu", "old processor", GIB, GIB, False, 1)
GPU = Device("cuda", "H100", GIB, GIB, True, 1, capability="9.0")
GPU_OLD = Device("cuda", "Tesla T4", GIB, GIB, False, 1, capability="7.5")
APPLE = Device("mps", "Apple arm64", GIB, GIB, True, 1)
PAGED = "paged_adamw_8bit"
# What the original project's dpo.json says about number formats.
ORIGINAL = {"fp16": True, "bf16": False, "optim": PAGED, "bnb_4bit_compute_dtype": "float16"}
FUSED = "adamw_torch_fused"
TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def refuse(call, *arguments) -> str:
    """The one-line text of the UserError that `call` raises."""
    with pytest.raises(UserError) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Where a base model comes from.


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("embedded:gpt-7", "embedded:gpt-7: unknown; there is embedded:smollm2-135m-instruct"),
        ("embedded:", "unknown; there is embedded:"),
        ("/no/such/folder", "no such folder, and not a hub id like"),
        ("./missing", "no such folder, and not a hub id like"),
        ("04_models/base/missing", "no such folder, and not a hub id like"),
        ("llama", "no such folder, and not a hub id like"),
        ("meta llama/Llama 3", "no such folder, and not a hub id like"),
        ("https://huggingface.co/a/b", "no such folder, and not a hub id like"),
        ("models\\mine", "no such folder, and not a hub id like"),
        ("04_models/missing.gguf", "04_models/missing.gguf: no such file"),
        ("01_data", "01_data holds no config.json; not a model folder"),
    ],
)
def test_model_that_does_not_exist_is_refused_by_name(name, text):
    found = refuse(resolve_model, Config(model_name=name))
    assert found.startswith("model_name: ")
    assert text in found


def test_adapter_folder_is_refused_with_the_command_that_merges_it(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}", encoding="utf-8")
    text = refuse(resolve_model, Config(model_name=str(tmp_path)))
    assert text.startswith(f"model_name: {tmp_path} holds an adapter")
    assert "python 02_src/merge_lora.py" in text


def test_hub_id_keeps_revision_and_code_switch():
    config = Config(model_name="org/model", model_revision="v1", trust_remote_code=True)
    source = resolve_model(config)
    assert source == ModelSource("org/model", "org/model", "v1", True)
    assert source.load_options()["revision"] == "v1"
    assert not resolve_model(Config(model_name="org/model")).load_options()["trust_remote_code"]


def test_local_folder_loads_without_network(tiny_model):
    source = resolve_model(Config(model_name=str(tiny_model)))
    assert source.is_local
    assert source.load_options() == {"trust_remote_code": False, "local_files_only": True}


def test_embedded_model_is_found_and_ready(embedded_model):
    source = resolve_model(Config(model_name=f"{EMBEDDED_PREFIX}{embedded_model.name}"))
    assert Path(source.location) == embedded_model
    tokenizer = load_tokenizer(source)
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.pad_token is not None


@pytest.mark.parametrize("name", ["nobody/no-such-model", "04_models/missing"])
def test_hub_model_that_cannot_be_reached_is_one_line_with_a_hint(name):
    text = refuse(load_tokenizer, resolve_model(Config(model_name=name)))
    assert text.startswith(f"model_name: {name} cannot be loaded: ")
    assert "embedded:smollm2-135m-instruct" in text


def break_config(folder: Path) -> None:
    """config.json is not JSON."""
    (folder / "config.json").write_text("{", encoding="utf-8")


def change_architecture(folder: Path) -> None:
    """config.json names an unknown kind of model."""
    (folder / "config.json").write_text('{"model_type": "no_such_kind"}', encoding="utf-8")


def remove_weights(folder: Path) -> None:
    """No weights."""
    (folder / "model.safetensors").unlink()


def cut_weights(folder: Path) -> None:
    """A download that stopped half-way."""
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:100_000])


def break_tokenizer(folder: Path) -> None:
    """tokenizer.json is not JSON."""
    (folder / "tokenizer.json").write_text("{", encoding="utf-8")


@pytest.mark.parametrize(
    "damage", [break_config, change_architecture, remove_weights, cut_weights, break_tokenizer]
)
def test_damaged_model_folder_is_one_line(tiny_model, tmp_path, damage):
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    damage(folder)
    text = refuse(load_policy, Config(model_name=str(folder), load_in_4bit=False), CPU_OLD)
    assert text.startswith(f"model_name: {folder} cannot be loaded: ")


def write_gguf(file: Path) -> Path:
    """A one-layer random Llama with a tokenizer of single bytes, as a .gguf file."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    words = [chr(code) for code in printable] + [chr(256 + i) for i in range(68)]
    words += ["in", "<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_context_length(128)
    writer.add_embedding_length(32)
    writer.add_block_count(1)
    writer.add_feed_forward_length(64)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(words))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(words)
    writer.add_token_types([1] * (len(words) - 3) + [3] * 3)
    writer.add_token_merges(["i n"])
    writer.add_bos_token_id(words.index("<|im_start|>"))
    writer.add_eos_token_id(words.index("<|im_start|>"))  # wrong on purpose, as in real files
    writer.add_chat_template(TEMPLATE)
    shapes = {"token_embd": (len(words), 32), "output_norm": (32,)}
    for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
        shapes[f"blk.0.{name}"] = (32, 32)
    shapes |= {"blk.0.attn_norm": (32,), "blk.0.ffn_norm": (32,), "blk.0.ffn_gate": (64, 32)}
    shapes |= {"blk.0.ffn_up": (64, 32), "blk.0.ffn_down": (32, 64)}
    draw = np.random.default_rng(0)
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", draw.normal(0, 0.02, shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def test_gguf_file_becomes_a_plain_model_once_in_a_fresh_clone(tmp_path, monkeypatch):
    monkeypatch.setattr(base_models, "BASE_FOLDER", tmp_path / "04_models" / "base")
    config = Config(model_name=str(write_gguf(tmp_path / "tiny.gguf")), load_in_4bit=False)
    source = resolve_model(config)
    tokenizer = load_tokenizer(source)
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")
    assert tokenizer.chat_template == TEMPLATE
    model = load_base(config, CPU_OLD, source)
    assert model.config.eos_token_id == tokenizer.eos_token_id
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    weights = Path(source.location) / "model.safetensors"
    before = weights.stat().st_mtime_ns
    assert resolve_model(config) == source
    assert weights.stat().st_mtime_ns == before
    assert [path.name for path in Path(source.location).parent.iterdir()] == [weights.parent.name]


@pytest.mark.parametrize(
    "cut", [slice(0, 0), slice(0, 4), slice(0, 3000), slice(0, -3000), slice(1, None)]
)
def test_damaged_gguf_file_is_one_line_and_leaves_nothing(tmp_path, monkeypatch, cut):
    monkeypatch.setattr(base_models, "BASE_FOLDER", tmp_path / "base")
    whole = write_gguf(tmp_path / "tiny.gguf").read_bytes()
    file = tmp_path / "damaged.gguf"
    file.write_bytes(whole[cut])
    text = refuse(resolve_model, Config(model_name=str(file)))
    assert text.startswith("model_name: damaged.gguf: not a readable GGUF model: ")
    assert not list((tmp_path / "base").glob("*"))


# Number formats.


@pytest.mark.parametrize(
    ("values", "device", "base", "optim", "notices"),
    [
        ({"bf16": True, "optim": PAGED}, GPU, torch.bfloat16, PAGED, []),
        ({"fp16": True, "bf16": False}, GPU, torch.float16, FUSED, []),
        ({"fp16": True, "bf16": False}, GPU_OLD, torch.float16, FUSED, []),
        ({"bf16": False}, GPU, torch.float32, FUSED, []),
        ({"bf16": True}, CPU_BF16, torch.bfloat16, FUSED, []),
        ({"bf16": True}, APPLE, torch.bfloat16, FUSED, []),
        ({"bf16": True}, GPU_OLD, torch.float16, FUSED, ["Tesla T4 has no fast bf16: using fp16"]),
        ({"bf16": True}, CPU_OLD, torch.float32, FUSED, ["old processor has no fast bf16: using"]),
        (
            {"fp16": True, "bf16": False},
            CPU_BF16,
            torch.bfloat16,
            FUSED,
            ["fp16 needs an NVIDIA GPU: using bf16 on cpu"],
        ),
        (
            {"fp16": True, "bf16": False},
            CPU_OLD,
            torch.float32,
            FUSED,
            ["fp16 needs an NVIDIA GPU: using fp32 on cpu"],
        ),
        (
            {"fp16": True, "bf16": False},
            APPLE,
            torch.bfloat16,
            FUSED,
            ["fp16 needs an NVIDIA GPU: using bf16 on mps"],
        ),
        ({"optim": PAGED}, CPU_BF16, torch.bfloat16, FUSED, [f"optim {PAGED} needs an NVIDIA GPU"]),
        ({"optim": "adamw_bnb_8bit"}, APPLE, torch.bfloat16, FUSED, ["optim adamw_bnb_8bit needs"]),
        ({"optim": "paged_adamw"}, CPU_BF16, torch.bfloat16, FUSED, ["optim paged_adamw needs"]),
        ({"optim": "adamw_torch"}, CPU_BF16, torch.bfloat16, "adamw_torch", []),
        (
            {"bnb_4bit_compute_dtype": "float16"},
            GPU,
            torch.bfloat16,
            FUSED,
            ["bnb_4bit_compute_dtype float16 does not match: using "],
        ),
        ({"bnb_4bit_compute_dtype": "bfloat16"}, GPU, torch.bfloat16, FUSED, []),
        (
            {"bnb_4bit_compute_dtype": "float16", "load_in_4bit": False},
            GPU,
            torch.bfloat16,
            FUSED,
            [],
        ),
        (ORIGINAL, GPU_OLD, torch.float16, PAGED, []),
        (ORIGINAL, GPU, torch.float16, PAGED, []),
        (
            ORIGINAL,
            CPU_BF16,
            torch.bfloat16,
            FUSED,
            ["fp16 needs", "optim paged_adamw_8bit needs", "bnb_4bit_compute_dtype float16"],
        ),
    ],
)
def test_format_the_device_lacks_is_replaced_with_one_reason(values, device, base, optim, notices):
    precision = choose_precision(Config(**values), device)
    assert (precision.base, precision.optim) == (base, optim)
    assert precision.fp16 == (base == torch.float16)
    assert precision.bf16 == (base == torch.bfloat16)
    assert len(precision.notices) == len(notices)
    for found, expected in zip(precision.notices, notices, strict=True):
        assert found.startswith(expected)


def test_cpu_is_found_and_described_where_it_is_asked_for():
    device = find_device(Config(device="cpu"))
    assert device.kind == "cpu"
    assert 0 < device.free_bytes <= device.total_bytes
    assert "GiB free" in device.describe()


def test_one_gpu_stays_visible_where_the_user_made_several_visible(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,1")
    choose_gpu(None)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "3"


# LoRA targets.


@pytest.fixture(scope="module")
def plain_model(tiny_model):
    """The tiny model in fp32, not quantised; shared, so do not change it."""
    config = Config(model_name=str(tiny_model), load_in_4bit=False, bf16=False)
    return load_base(config, CPU_OLD)


@pytest.mark.parametrize("targets", [["query"], ["q_proj", "w1"], "proj", ["q"]])
def test_target_that_matches_nothing_lists_the_real_names(plain_model, targets):
    text = refuse(build_lora_config, Config(lora_target_modules=targets), plain_model)
    wrong = targets if isinstance(targets, str) else targets[-1]
    assert text.startswith(f"lora_target_modules: {wrong} ")
    assert ", ".join(LINEAR_NAMES) in text


@pytest.mark.parametrize("target", ["model", "self_attn", "mlp", "norm", "act_fn"])
def test_target_that_is_no_linear_layer_lists_the_real_names(plain_model, target):
    text = refuse(build_lora_config, Config(lora_target_modules=[target]), plain_model)
    assert text.startswith(f"lora_target_modules: {target} ")
    assert ", ".join(LINEAR_NAMES) in text


def test_output_head_is_refused_as_a_target(plain_model):
    text = refuse(build_lora_config, Config(lora_target_modules=["q_proj", "lm_head"]), plain_model)
    assert text.startswith("lora_target_modules: lm_head cannot be adapted; choose from q_proj")


def test_linear_names_leave_out_the_head(plain_model):
    assert list_linear_names(plain_model) == LINEAR_NAMES


@pytest.mark.parametrize(
    ("targets", "adapted"),
    [
        ("all-linear", LINEAR_NAMES),
        (["q_proj", "v_proj"], ["q_proj", "v_proj"]),
        ("q_proj", ["q_proj"]),
        (["self_attn.q_proj"], ["q_proj"]),
    ],
)
def test_named_layers_and_no_others_get_adapters(tiny_model, targets, adapted):
    config = Config(
        model_name=str(tiny_model), load_in_4bit=False, bf16=False, lora_target_modules=targets
    )
    model = load_base(config, CPU_OLD)
    policy = get_peft_model(model, build_lora_config(config, model))
    found = {
        n.split(".lora_A")[0].split(".")[-1] for n, _ in policy.named_parameters() if ".lora_A" in n
    }
    assert found == set(adapted)


def test_adapter_gets_fp32_master_weights_and_the_base_keeps_its_dtype(tiny_model):
    config = Config(model_name=str(tiny_model), load_in_4bit=False)
    model = load_base(config, CPU_BF16)
    policy = get_peft_model(model, build_lora_config(config, model), autocast_adapter_dtype=False)
    cast_adapter_to_fp32(policy)
    for name, parameter in policy.named_parameters():
        assert parameter.requires_grad == ("lora_" in name)
        assert parameter.dtype == (torch.float32 if "lora_" in name else torch.bfloat16)


def test_scaling_an_adapter_scales_what_it_adds_and_nothing_else(tiny_model):
    config = Config(model_name=str(tiny_model), load_in_4bit=False)
    model = load_base(config, CPU_OLD)
    policy = get_peft_model(model, build_lora_config(config, model))
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    layer = policy.base_model.model.model.layers[0].mlp.up_proj
    x = torch.randn(3, layer.base_layer.in_features)
    added = layer(x) - layer.base_layer(x)
    frozen = layer.base_layer.weight.clone()
    scale_adapter(policy, 0.8)
    torch.testing.assert_close(layer(x) - layer.base_layer(x), 0.8 * added)
    assert torch.equal(layer.base_layer.weight, frozen)


# 4 bit.


@pytest.fixture
def quantised(tiny_model):
    """(config, policy with LoRA, tokenizer): the tiny model in NF4, as training sees it."""
    torch.manual_seed(0)
    config = Config(model_name=str(tiny_model), load_in_4bit=True, lora_r=4)
    model, tokenizer = load_policy(config, CPU_BF16)
    policy = get_peft_model(model, build_lora_config(config, model))
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:  # zero at the start, which would hide every other gradient
            torch.nn.init.normal_(parameter, std=0.1)
    cast_adapter_to_fp32(policy)
    return config, policy, tokenizer


def test_base_is_nf4_with_double_quantisation_and_nothing_is_upcast(tiny_model):
    model, _ = load_policy(Config(model_name=str(tiny_model)), CPU_BF16)
    packed = [p for p in model.parameters() if p.__class__.__name__ == "Params4bit"]
    assert len(packed) == 2 * len(LINEAR_NAMES)
    assert all(p.quant_state.quant_type == "nf4" and p.quant_state.nested for p in packed)
    assert all(p.quant_state.dtype == torch.bfloat16 for p in packed)
    assert {p.dtype for p in model.parameters()} == {torch.uint8, torch.bfloat16}
    assert not any(p.requires_grad for p in model.parameters())


def test_parameter_count_sees_two_values_in_a_byte(tiny_model, plain_model, quantised):
    _, policy, _ = quantised
    trainable, total = count_parameters(policy)
    assert trainable == sum(p.numel() for p in policy.parameters() if p.requires_grad)
    assert total - trainable == sum(p.numel() for p in plain_model.parameters())


def measure_gradients(policy, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """Gradients of one training step's language-model loss, by LoRA weight."""
    policy.train()
    policy.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        policy(input_ids=ids, labels=ids).loss.backward()
    return {n: p.grad.clone() for n, p in policy.named_parameters() if p.requires_grad}


def test_gradients_through_a_4bit_base_survive_a_forward_in_eval_mode(quantised):
    """bitsandbytes repacks CPU weights on such a forward; the repacked kernel has no backward."""
    _, policy, tokenizer = quantised
    ids = tokenizer("Rate of penetration fell in the chert.", return_tensors="pt")["input_ids"]
    before = measure_gradients(policy, ids)
    policy.eval()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        policy(input_ids=ids)
    after = measure_gradients(policy, ids)
    assert before.keys() == after.keys()
    for name, gradient in before.items():
        assert gradient.abs().sum() > 0, name
        assert torch.equal(gradient, after[name]), name


def test_4bit_training_lowers_the_loss(quantised):
    _, policy, tokenizer = quantised
    ids = tokenizer("Rate of penetration.", return_tensors="pt")["input_ids"]
    optimizer = torch.optim.AdamW([p for p in policy.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        loss = policy(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert math.isfinite(losses[-1])
    assert losses[-1] < losses[0] - 0.5


# Adapters on disk.


@pytest.mark.parametrize("name", ["adapter_model.bin", "pytorch_model.bin"])
def test_pickled_adapter_is_refused_even_beside_safetensors(tmp_path, name):
    for file in ("adapter_model.safetensors", "adapter_config.json", name):
        (tmp_path / file).write_bytes(b"")
    text = refuse(check_adapter_files, tmp_path)
    assert text.startswith(f"{tmp_path / name}: a file of this kind can run code")


@pytest.mark.parametrize("missing", ["adapter_model.safetensors", "adapter_config.json"])
def test_unfinished_run_names_the_command_that_goes_on(tmp_path, missing):
    for file in {"adapter_model.safetensors", "adapter_config.json"} - {missing}:
        (tmp_path / file).write_bytes(b"")
    text = refuse(check_adapter_files, tmp_path)
    assert text.startswith(f"{tmp_path}: holds no {missing}")
    assert "--resume" in text


def test_complete_adapter_folder_is_accepted(tmp_path):
    save_file({"w": torch.zeros(2)}, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    check_adapter_files(tmp_path)
