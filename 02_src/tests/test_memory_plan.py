"""The memory plan: counts against real models and real runs, the search, the recovery."""

import dataclasses

import pytest
import torch

from config import Config
from hardware import GIB, Device
from memory.activations import (
    MicroStep,
    Setting,
    measure_scoring,
    measure_training,
    size_layer,
)
from memory.batches import shape_batch
from memory.plan import plan_memory
from memory.search import choose_plan, find_smaller, fit_plan, list_plans
from memory.shape import describe_model
from memory.speed import Rates
from memory.table import draw_plan, format_plan
from memory.weights import size_training, size_weights

MIB = 2**20
LLAMA_1B = {
    "vocab_size": 128256, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
    "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64,
    "tie_word_embeddings": True,
}  # fmt: skip
RATES = Rates(((64, 1e14), (1024, 5e14)), 2e12, 4e-6, 4e-6)
SHORT = [(70, 24)] * 64
# One H200, torch 2.11, 2026-11-28: 8 rows of 2048 tokens, 8192 scored, MiB allocated.
MEASURED = {"weights": 980.1, "peak": 20861.2}


@pytest.fixture(scope="module")
def llama():
    from transformers import AutoConfig

    return describe_model(AutoConfig.for_model("llama", **LLAMA_1B))


@pytest.fixture(autouse=True)
def with_kernels(monkeypatch):
    """Plan as on Linux with an NVIDIA card, where Triton is installed."""
    monkeypatch.setattr("memory.plan.find_kernels", object)


def make_gpu(free_gib: float) -> Device:
    return Device("cuda", "card", int(free_gib * GIB), 80 * GIB, True, 4, "580", "9.0")


def make_config(**keys) -> Config:
    return Config(**{"per_device_train_batch_size": 8, "gradient_accumulation_steps": 2, **keys})


def test_parts_agree_with_what_a_gpu_measured(llama):
    weights = sum(size_weights(llama, True, True, 2).values())
    trained = sum(size_training(llama, 16, "adamw_torch_fused", True, 2).values())
    moving = measure_training(llama, MicroStep(8, 2048, 8192), Setting())
    assert weights / MIB == pytest.approx(MEASURED["weights"], rel=1e-3)
    total = (weights + trained + sum(moving.values())) / MIB + 4 * 32
    assert total == pytest.approx(MEASURED["peak"], rel=2e-3)


def test_a_layers_share_is_what_autograd_keeps():
    """Count the tensors that one fused layer saves, on the CPU, in fp32."""
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    from fast.fused_layers import fuse_layers
    from fast.layout import build_attention_mask
    from fast.lora_linear import fuse_lora_layers

    config = LlamaConfig(
        vocab_size=64, hidden_size=64, intermediate_size=160, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True,
    )  # fmt: skip
    shape = describe_model(config)
    model = LlamaForCausalLM(config).requires_grad_(False)
    lora = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear"))
    fuse_lora_layers(lora), fuse_layers(lora)
    step = MicroStep(2, 48, 40)
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        own = {p.untyped_storage().data_ptr() for p in lora.parameters()}
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    hidden = torch.randn(2, 48, 64, requires_grad=True)
    mask = build_attention_mask(torch.ones(2, 48, dtype=torch.long))
    angles = model.model.rotary_emb(hidden, torch.arange(48)[None].expand(2, -1))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = model.model.layers[0](hidden, attention_mask=mask, position_embeddings=angles)
    assert out.requires_grad
    shared = sum(angle.untyped_storage().nbytes() for angle in angles)
    counted = sum(size_layer(shape, step, Setting(item=4, rank=4, kernels=False)).values())
    assert sum(kept.values()) - shared == pytest.approx(counted, rel=0.03)


def test_shape_of_other_architectures():
    from transformers import AutoConfig

    keys = {**LLAMA_1B, "vocab_size": 1000, "num_hidden_layers": 2, "tie_word_embeddings": False}
    qwen = describe_model(AutoConfig.for_model("qwen3", **keys), ["q_proj"])
    assert qwen.head_norms and qwen.embeddings == 2 * 1000 * 2048
    assert qwen.count_adapter(8) == 2 * 8 * (2048 + 2048)
    assert sum(linear.adapted for linear in qwen.linears) == 2


def test_less_budget_means_a_smaller_setting_and_the_same_batch(llama):
    seen = []
    for budget in (40, 6, 3, 2.5):
        config = make_config(memory_budget_gib=budget)
        plan = fit_plan(config, make_gpu(79), llama, [(860, 560)] * 64, RATES)
        assert plan.process <= budget * GIB and plan.batch * plan.accumulation == 16
        assert plan.apply(config).effective_batch == 16
        seen.append((plan.process, plan.step_seconds))
    assert [process for process, _ in seen] == sorted((p for p, _ in seen), reverse=True)
    assert [seconds for _, seconds in seen] == sorted(seconds for _, seconds in seen)
    assert fit_plan(make_config(), make_gpu(1), llama, SHORT, RATES) is None


def test_a_setting_that_is_fast_enough_is_left_alone(llama):
    plans = list_plans(make_config(), make_gpu(79), llama, SHORT, RATES)
    as_fast = dataclasses.replace(plans[0], step_seconds=1.0)
    little_faster = dataclasses.replace(plans[1], step_seconds=0.95)
    much_faster = dataclasses.replace(plans[1], step_seconds=0.5)
    assert choose_plan([as_fast, little_faster]) is as_fast
    assert choose_plan([as_fast, much_faster]) is much_faster


def test_the_small_card_goal_is_planned_below_two_gib(llama, monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:2:16:8")
    config = make_config(gradient_checkpointing=True, gradient_accumulation_steps=1)
    plan = plan_memory(config, make_gpu(79), llama, SHORT)
    assert plan.peak < 1.35 * GIB and plan.process < 2.05 * GIB


def test_table_and_chart_show_every_part(llama, tmp_path):
    plan = plan_memory(make_config(), make_gpu(8), llama, SHORT, RATES)
    text = format_plan(plan)
    assert all(name in text for name, size in plan.parts.items() if size)
    assert "left" in text and "GiB" in text
    assert draw_plan(plan, tmp_path).stat().st_size > 10_000


def test_stock_path_takes_more_and_says_it_is_rough(llama):
    fast = plan_memory(make_config(), make_gpu(79), llama, SHORT)
    stock = plan_memory(make_config(fast_forward=False), make_gpu(79), llama, SHORT)
    assert stock.peak > fast.peak and stock.rough and "roughly" in format_plan(stock)


def test_find_smaller_gives_none_at_the_end(llama):
    plans = list_plans(make_config(), make_gpu(79), llama, SHORT, RATES)
    assert find_smaller(plans, min(plans, key=lambda plan: plan.process)) is None


def test_plan_of_several_processes_is_that_of_one_gpu_and_sharding_cuts_the_base(
    llama, monkeypatch
):
    config, gpu = make_config(), make_gpu(80)
    alone = plan_memory(config, gpu, llama, SHORT)
    monkeypatch.setenv("WORLD_SIZE", "2")
    both = plan_memory(config, gpu, llama, SHORT)
    assert both.parts == alone.parts
    assert "on each of 2 devices" in both.describe() and "devices" not in alone.describe()
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    sharded = plan_memory(config, gpu, llama, SHORT)
    for name in ("base, 4 bit", "embedding and head", "norms"):
        assert sharded.parts[name] == alone.parts[name] / 2
    assert sharded.parts["adapter"] == alone.parts["adapter"]
    assert sharded.parts["gathered weights"] > llama.vocabulary * llama.hidden * 2
    assert sharded.rough and not alone.rough


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("length", [70, 860, 16_000])
def test_the_reference_pass_takes_a_training_batch_at_once_and_less_memory(
    llama, length, checkpointing
):
    lengths = [(length, length // 2)] * 64
    config = make_config(gradient_checkpointing=checkpointing, auto_fit=False)
    plan = plan_memory(config, make_gpu(79), llama, lengths)
    assert plan.stages["reference pass"] < plan.stages["training"]
    pairs = max(8, 2048 // (length + 1))
    whole = measure_scoring(llama, shape_batch(lengths[:pairs], False), Setting())
    scored = plan.stages["reference pass"] - sum(whole.values())
    weights = sum(size_weights(llama, True, True, 2).values())
    assert weights <= scored <= weights + 200 * MIB  # beside them the adapter and cuBLAS
