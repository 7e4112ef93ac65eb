"""Head and attention of the fast forward equal the stock ones; kept weights are bit-identical."""

import bitsandbytes
import psutil
import pytest
import torch
from test_fast import make_rows, make_trainer
from torch.nn import functional as F
from trl.kernels.chunked_logprob import ChunkedLogProbFunction

from fast import head
from fast.attention import NAME, DenseAttention
from fast.frozen_weights import keep_weights, multiply_frozen, read_weight
from fast.head import OUTPUTS, ScoredHead


@pytest.mark.parametrize("softcap, scale, biased", [(None, 1.0, False), (4.0, 0.5, True)])
def test_the_head_equals_trls(softcap, scale, biased, monkeypatch):
    monkeypatch.setattr(head, "LOGITS_AT_ONCE", 3 * 50)  # four chunks
    torch.manual_seed(0)
    hidden, weight = torch.randn(11, 16).requires_grad_(), torch.randn(50, 16)
    bias, targets = torch.randn(50) if biased else None, torch.randint(0, 50, (11,))
    targets[0] = (F.linear(hidden[0], weight, bias) * scale).argmax()
    gradient = torch.randn(11)
    log_probs, rest = ScoredHead.apply(hidden, weight, bias, targets, softcap, scale)
    (found,) = torch.autograd.grad(log_probs, hidden, gradient)
    stock = ChunkedLogProbFunction.apply(
        hidden, weight, bias, targets, 1.0, 32, softcap, scale, OUTPUTS
    )
    (expected,) = torch.autograd.grad(stock[0], hidden, gradient)
    entropy, mean, is_top = rest
    assert torch.allclose(log_probs, stock[0], atol=1e-5)
    assert torch.allclose(entropy, stock[1], atol=1e-5) and torch.allclose(mean, stock[3])
    assert is_top[0] == 1 and torch.equal(is_top > 0, stock[4])
    assert (found - expected).norm() <= 1e-5 * expected.norm()


def test_without_gradients_the_head_keeps_nothing():
    hidden = torch.randn(3, 8)
    with torch.no_grad():
        log_probs, _ = ScoredHead.apply(
            hidden, torch.randn(20, 8), None, torch.tensor([1, 2, 3]), None, 1.0
        )
    assert not log_probs.requires_grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_memory_of_logits_is_used_again_and_results_are_not(dtype, monkeypatch):
    monkeypatch.setattr(head, "SCRATCH", head.Scratch())
    torch.manual_seed(0)
    weight, targets = torch.randn(50, 8).to(dtype), torch.arange(9)
    both = [torch.randn(rows, 8).to(dtype).requires_grad_() for rows in (9, 4)]

    def score(hidden):
        return ScoredHead.apply(hidden, weight, None, targets[: len(hidden)], None, 1.0)[0]

    alone = [torch.autograd.grad(score(hidden).sum(), hidden)[0] for hidden in both]
    places = {name: kept.data_ptr() for name, kept in head.SCRATCH.kept.items()}
    first, second = map(score, both)  # the second forward lies between the first and its backward
    together = torch.autograd.grad(first.sum() + second.sum(), both)
    assert all(map(torch.equal, together, alone))
    assert torch.equal(first, score(both[0]))
    assert places == {name: kept.data_ptr() for name, kept in head.SCRATCH.kept.items()}
    logits = (both[0] @ weight.t()).float()
    assert torch.allclose(first, logits.log_softmax(-1)[range(9), targets], atol=1e-5)


def test_dense_attention_equals_sdpa():
    torch.manual_seed(0)
    query = torch.randn(2, 6, 9, 8).requires_grad_()
    key, value = (torch.randn(2, 2, 9, 8).requires_grad_() for _ in range(2))
    mask = (torch.rand(2, 1, 9, 9) < 0.5) | torch.eye(9, dtype=torch.bool)
    found = DenseAttention.apply(query, key, value, mask, 0.3)
    expected = F.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, scale=0.3, enable_gqa=True
    )
    assert torch.allclose(found, expected, atol=1e-6)
    weights = torch.randn_like(found)
    tensors = (query, key, value)
    for a, b in zip(
        torch.autograd.grad((found * weights).sum(), tensors),
        torch.autograd.grad((expected * weights).sum(), tensors),
        strict=True,
    ):
        assert torch.allclose(a, b, atol=1e-5)


def test_generation_from_left_padded_prompts_is_not_changed(tmp_path, tokenizer):
    trainer = make_trainer(tmp_path, "llama", True, tokenizer, make_rows(4))
    model = trainer.model.eval()
    config = model.get_base_model().config
    ids = torch.tensor([[0, 0, 0, 5, 6], [7, 8, 9, 10, 11]])
    padding = (ids > 0).long()
    options = {"attention_mask": padding, "max_new_tokens": 6, "do_sample": False}
    options |= {"output_logits": True, "return_dict_in_generate": True, "eos_token_id": None}
    assert config._attn_implementation == NAME
    found = model.generate(ids, **options)
    config._attn_implementation = "sdpa"
    expected = model.generate(ids, **options)
    assert torch.equal(found.sequences, expected.sequences)
    assert torch.allclose(torch.stack(found.logits), torch.stack(expected.logits), atol=1e-5)


@pytest.mark.parametrize("free, kept", [(1 << 40, True), (0, False)])
def test_kept_weights_are_those_the_library_multiplies_with(free, kept, monkeypatch):
    memory = psutil.virtual_memory()._replace(available=free)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    layer = bitsandbytes.nn.Linear4bit(
        64, 32, bias=False, compute_dtype=torch.bfloat16, quant_type="nf4"
    ).to(torch.bfloat16).to("cpu")  # fmt: skip
    rows = torch.randn(5, 64, dtype=torch.bfloat16)
    before = read_weight(layer.weight, torch.bfloat16)
    product = multiply_frozen(rows, [layer.weight], [None])
    keep_weights([[layer.weight]])
    assert hasattr(layer.weight, "dequantised") is kept
    assert torch.equal(read_weight(layer.weight, torch.bfloat16), before)
    assert torch.equal(multiply_frozen(rows, [layer.weight], [None]), product)
