"""Attention where shapes vary and nothing is trained runs without cuDNN; training may have it.

The switch is one of torch's and is there on every machine; cuDNN itself needs a GPU.
"""

import pytest
import torch
from test_fast import make_rows, make_trainer
from transformers import AutoModelForCausalLM

from attention_plans import without_cudnn_plans
from config import Config
from evaluation.drift import measure_drift
from generation import generate_answers, stream_answer
from merging.measure import read_logits
from merging.sample import Sample
from preferences import Pair
from scoring import score_padded, score_pairs
from utils.formatting import format_prompt

PROMPT = format_prompt("What does DP stand for?")
PAIR = {"prompt_ids": [5, 6, 7], "chosen_ids": [8, 9], "rejected_ids": [10]}
IDS = torch.tensor([[5, 6, 7, 8], [5, 6, 7, 10]])
PADDED = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS), "completion_mask": IDS > 7}
SAMPLE = Sample([Pair(PROMPT, "Dynamic Positioning", "Drill Pipe", "here:1")], [])


@pytest.fixture
def switches(monkeypatch) -> set[tuple[bool, bool]]:
    """(gradients, cuDNN allowed) of every attention call."""
    seen: set[tuple[bool, bool]] = set()
    stock = torch.nn.functional.scaled_dot_product_attention

    def attend(*arguments, **options):
        seen.add((torch.is_grad_enabled(), torch.backends.cuda.cudnn_sdp_enabled()))
        return stock(*arguments, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", attend)
    return seen


def test_the_switch_is_put_back_and_left_alone_where_gradients_flow():
    with pytest.raises(ValueError), torch.no_grad(), without_cudnn_plans():
        assert not torch.backends.cuda.cudnn_sdp_enabled()
        raise ValueError
    assert torch.backends.cuda.cudnn_sdp_enabled()
    with without_cudnn_plans():
        assert torch.backends.cuda.cudnn_sdp_enabled()


@pytest.mark.parametrize(
    "work",
    [
        lambda model, tokenizer: generate_answers(model, tokenizer, [PROMPT], 2),
        lambda model, tokenizer: list(stream_answer(model, tokenizer, PROMPT, 2)),
        lambda model, tokenizer: score_pairs(model, 0, [PAIR]),
        lambda model, tokenizer: torch.no_grad()(score_padded)(model, PADDED),
        lambda model, tokenizer: list(read_logits(model, tokenizer, Config(), SAMPLE, "merge")),
        lambda model, tokenizer: measure_drift(model, tokenizer, ["Rain fell."], False, "drift"),
    ],
    ids=["answers", "streamed", "scores", "padded", "merging", "drift"],
)
def test_asking_and_scoring_run_without_it(work, tiny_model, tokenizer, switches):
    work(AutoModelForCausalLM.from_pretrained(tiny_model), tokenizer)
    assert switches == {(False, False)}
    assert torch.backends.cuda.cudnn_sdp_enabled()


def test_the_reference_pass_runs_without_it_and_training_with_it(tmp_path, tokenizer, switches):
    trainer = make_trainer(tmp_path, "llama", True, tokenizer, make_rows(4), max_steps=1)
    config = trainer.model.get_base_model().config
    trainer.train()
    config._attn_implementation = "sdpa"  # not the CPU's own attention, which torch has no part in
    switches.clear()
    trainer.compute_reference(trainer.train_dataset, "again", 2)
    assert switches == {(False, False)}
    trainer.compute_loss(trainer.model.train(), trainer.collate(list(trainer.train_dataset)))
    assert switches == {(False, False), (True, True)}
