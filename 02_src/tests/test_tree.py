"""The GPU's kernels, run by Triton's interpreter on the CPU; needs `pip install triton`.

    TRITON_INTERPRET=1 python -m pytest -m triton 02_src/tests/test_tree.py

The attention over token trees against a dense one in float64, whole training steps against stock
TRL. 03_scripts/check_gpu.py checks the compiled kernels.
"""

import random

import pytest
import test_fast
import torch
import transformers
from test_fast import assert_same_step, make_rows

from fast import fused_layers, tree_attention
from fast.layout import build_attention_mask

pytestmark = pytest.mark.triton
SIZES = {**test_fast.SIZES, "head_dim": 16}
MODELS = {
    "llama": (transformers.LlamaConfig, {}),
    "qwen2": (transformers.Qwen2Config, {}),  # biases
    "mistral": (transformers.MistralConfig, {"sliding_window": None}),
    "granite": (transformers.GraniteConfig, {"attention_multiplier": 0.2}),
    "olmo": (transformers.OlmoConfig, {}),
    "starcoder2": (transformers.Starcoder2Config, {}),
    "one_group": (transformers.LlamaConfig, {"num_key_value_heads": 1}),
}


@pytest.fixture(autouse=True)
def interpreted(monkeypatch):
    """Triton's kernels run on the CPU, on models that take them."""
    from fast import gated_kernels

    monkeypatch.setattr(fused_layers, "find_kernels", lambda: gated_kernels)
    monkeypatch.setattr(fused_layers, "GPU", "cpu")
    monkeypatch.setattr(tree_attention, "GPU", "cpu")
    monkeypatch.setattr(tree_attention, "find_kernels", lambda: gated_kernels)
    monkeypatch.setattr(test_fast, "SIZES", SIZES)
    monkeypatch.setattr(test_fast, "MODELS", MODELS)


@pytest.mark.parametrize(
    ("rows", "size", "heads", "groups", "width", "dtype", "tolerance"),
    [
        (2, 80, 3, 1, 16, torch.float32, 1e-6),
        (1, 208, 4, 2, 32, torch.float32, 1e-6),
        (2, 150, 6, 2, 64, torch.float32, 1e-6),
        (1, 144, 2, 2, 128, torch.float32, 1e-6),
        (2, 150, 6, 2, 64, torch.float16, 1e-3),
    ],
)
def test_attention_over_trees_equals_a_dense_one(
    rows, size, heads, groups, width, dtype, tolerance
):
    torch.manual_seed(0)
    ends = draw_ends(rows, size, random.Random(1))
    qkv = torch.randn(rows, size, heads + 2 * groups, width, dtype=dtype)
    angles = torch.rand(rows, size, width) * 6  # unlike halves, too
    cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)
    slope = torch.randn(rows, size, heads, width)
    exact, ours = qkv.double().requires_grad_(), qkv.clone().requires_grad_()
    wanted = attend_densely(exact, ends, cos.double(), sin.double(), heads)
    mask = tree_attention.make_tree_mask(ends)
    # times 1: the kernels rotate in place what the projections have just made
    found = tree_attention.TreeAttention.apply(ours * 1, mask, cos, sin, heads, width**-0.5)
    wanted.backward(slope.double())
    found.backward(slope.to(dtype))
    assert (found - wanted).norm() <= tolerance * wanted.norm()
    assert (ours.grad - exact.grad).norm() <= tolerance * exact.grad.norm()


def draw_ends(rows: int, size: int, draw: random.Random) -> torch.Tensor:
    """Random trees: a shared header, then pairs of two branches each, then unused places."""
    ends = torch.zeros(rows, size, dtype=torch.long)
    for row in ends:
        used, at = size - draw.randrange(30), 5
        row[:at] = used
        while at < used:
            end = min(at + draw.randint(10, 90), used)
            fork = draw.randint(at, end)
            second = draw.randint(fork, end)
            row[at:fork], row[fork:second], row[second:end] = end, second, end
            at = end
    return ends


def attend_densely(
    qkv: torch.Tensor, ends: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, heads: int
) -> torch.Tensor:
    """[R, S, H, d] by whole score matrices, rotation and masks as the models have them."""

    def rotate(x: torch.Tensor) -> torch.Tensor:
        first, second = x.chunk(2, -1)
        return x * cos[:, :, None] + torch.cat([-second, first], -1) * sin[:, :, None]

    groups = (qkv.shape[2] - heads) // 2
    q, k, v = qkv.split([heads, groups, groups], 2)
    k, v = (x.repeat_interleave(heads // groups, 2) for x in (rotate(k), v))
    scores = torch.einsum("rqhd,rkhd->rhqk", rotate(q), k) * qkv.shape[-1] ** -0.5
    scores = scores.masked_fill(~build_attention_mask(ends), -1e30)
    return torch.einsum("rhqk,rkhd->rqhd", scores.softmax(-1), v)


def test_every_model_type_is_tried_and_blocks_are_alike():
    from fast import tree_kernels

    assert tree_kernels.BLOCK == tree_attention.BLOCK
    tried = {config_class.model_type for config_class, _ in MODELS.values()}
    assert tried == set(tree_attention.MODEL_TYPES)


def test_kernels_that_differ_or_fail_are_not_used(tmp_path, tokenizer, monkeypatch, capsys):
    from fast import tree_kernels

    def spoil(qkv, mask, out, lse, scale):
        out.normal_()

    def fail(*_):
        raise RuntimeError("out of shared memory")

    for broken in (spoil, fail):
        monkeypatch.setattr(tree_kernels, "launch_forward", broken)
        trainer = test_fast.make_trainer(tmp_path, "llama", True, tokenizer, make_rows(4))
        assert trainer.fast_obstacle is None
        assert not trainer.model.get_base_model().attends_trees
        assert "attention over token trees is off" in capsys.readouterr().out
    assert_same_step(tmp_path, "llama", tokenizer, make_rows(5))


@pytest.mark.parametrize("name", MODELS)
def test_a_step_over_trees_equals_stock_trl(name, tmp_path, tokenizer, monkeypatch):
    seen = []
    stock = tree_attention.TreeAttention.apply
    monkeypatch.setattr(
        tree_attention.TreeAttention, "apply", lambda *a: (seen.append(1), stock(*a))[1]
    )
    assert_same_step(tmp_path, name, tokenizer, make_rows(7), loss_type=["sigmoid", "sft"])
    assert seen
