"""The fast forward is exact: fp32 against stock TRL, over models, losses and odd pairs."""

import math
import random
from pathlib import Path
from unittest import mock

import pytest
import torch
import transformers
from datasets import Dataset
from peft import LoraConfig
from trl import DPOConfig, DPOTrainer

from fast import rows as row_choice
from fast.columns import REFERENCE_COLUMNS
from fast.trainer import PreferenceTrainer

SIZES = {
    "vocab_size": 96, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0,
    "max_position_embeddings": 128,
}  # fmt: skip
MODELS = {
    "llama": (transformers.LlamaConfig, {}),
    "qwen3": (transformers.Qwen3Config, {}),
    "phi3": (transformers.Phi3Config, {}),
    "mistral": (transformers.MistralConfig, {"sliding_window": 6}),
    "gemma": (transformers.GemmaConfig, {}),
    "gemma3": (
        transformers.Gemma3TextConfig,
        {"num_hidden_layers": 3, "sliding_window": 6, "final_logit_softcapping": 5.0,
         "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
    ),
}  # fmt: skip
LOSSES = {
    "sigmoid": {},
    "sigmoid_sft": {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.5]},
    "ipo": {"loss_type": ["ipo"]},
    "sigmoid_norm": {"loss_type": ["sigmoid_norm"]},
    "apo_zero": {"loss_type": ["apo_zero"]},
    "ld_alpha": {"ld_alpha": 0.3},
}


def make_rows(count: int, seed: int = 0) -> list[dict[str, list[int]]]:
    """Random pairs of token ids; odd ones first: one-token answers, equal prompts, a long pair."""
    draw = random.Random(seed)

    def ids(low: int, high: int) -> list[int]:
        return [draw.randrange(1, 96) for _ in range(draw.randint(low, high))]

    rows = [
        {"prompt_ids": ids(3, 14), "chosen_ids": ids(1, 12), "rejected_ids": ids(1, 12)}
        for _ in range(count)
    ]
    rows[0] |= {"chosen_ids": ids(1, 1), "rejected_ids": ids(1, 1)}
    rows[1]["prompt_ids"] = rows[0]["prompt_ids"]
    rows[2] |= {"prompt_ids": ids(30, 30), "chosen_ids": ids(25, 25)}
    rows[3]["prompt_ids"] = ids(1, 1)
    return rows


def make_trainer(
    folder: Path, name: str, fast: bool, tokenizer, rows: list[dict], **options
) -> PreferenceTrainer:
    """A trainer over a tiny random model with a non-zero adapter, the same for fast and stock."""
    config_class, extra = MODELS[name]
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(
        config_class(**{**SIZES, **extra}), attn_implementation="sdpa"
    )
    rehearsal = options.pop("rehearsal", None)
    arguments = DPOConfig(
        output_dir=str(folder), use_cpu=True, bf16=False, report_to="none", disable_tqdm=True,
        per_device_train_batch_size=len(rows), precompute_ref_log_probs=True,
        gradient_checkpointing=False, max_length=options.pop("max_length", 64), **options,
    )  # fmt: skip
    trainer = PreferenceTrainer(
        fast_forward=fast,
        reference_cache=folder / f"cache-{fast}",
        rehearsal=rehearsal,
        model=model,
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    torch.manual_seed(1)
    for parameter_name, parameter in trainer.model.named_parameters():
        if "lora_B" in parameter_name:
            parameter.data.normal_(0, 0.1)
    return trainer


def run_step(trainer: PreferenceTrainer) -> tuple[float, dict, dict]:
    """(loss, logged metrics, gradients) of one training batch."""
    trainer.model.train()
    rows = [trainer.train_dataset[i] for i in range(len(trainer.train_dataset))]
    loss = trainer.compute_loss(trainer.model, trainer.collate(rows))
    loss.backward()
    metrics = {name: values[-1] for name, values in trainer._metrics["train"].items()}
    gradients = {
        name: parameter.grad
        for name, parameter in trainer.model.named_parameters()
        if parameter.requires_grad
    }
    return loss.item(), metrics, gradients


def assert_same_step(folder: Path, name: str, tokenizer, rows: list[dict], **options) -> None:
    """Fast and stock agree: loss, every metric, every gradient."""
    fast = make_trainer(folder, name, True, tokenizer, rows, **dict(options))
    stock = make_trainer(folder, name, False, tokenizer, rows, **dict(options))
    assert fast.fast_obstacle is None
    for column in ("ref_chosen_logps", "ref_rejected_logps"):
        assert_close(fast.train_dataset[column], stock.train_dataset[column])
    (loss, metrics, gradients), (loss_0, metrics_0, gradients_0) = run_step(fast), run_step(stock)
    assert_close([loss], [loss_0])
    assert metrics.keys() == metrics_0.keys()
    for key in metrics:
        assert_close([metrics[key]], [metrics_0[key]], key)
    for key, gradient in gradients_0.items():
        difference = (gradients[key] - gradient).norm() / gradient.norm()
        assert difference <= 1e-5, f"{key}: {difference}"


def assert_close(found, expected, label: str = "") -> None:
    """|a - b| <= 1e-5 max(1, |b|) for each value."""
    for a, b in zip(list(found), list(expected), strict=True):
        assert abs(a - b) <= 1e-5 * max(1, abs(b)), f"{label}: {a} against {b}"


@pytest.mark.parametrize("name", MODELS)
def test_packed_step_equals_stock_trl_for_each_architecture(name, tmp_path, tokenizer):
    assert_same_step(tmp_path, name, tokenizer, make_rows(7), loss_type=["sigmoid", "sft"])


@pytest.mark.parametrize("loss", LOSSES)
def test_packed_step_equals_stock_trl_for_each_loss(loss, tmp_path, tokenizer):
    assert_same_step(tmp_path, "llama", tokenizer, make_rows(6, seed=3), **LOSSES[loss])


def test_truncated_pairs_equal_stock_trl(tmp_path, tokenizer):
    assert_same_step(tmp_path, "llama", tokenizer, make_rows(6, seed=5), max_length=33)


def test_a_batch_of_one_equals_stock_trl(tmp_path, tokenizer):
    assert_same_step(tmp_path, "qwen3", tokenizer, make_rows(5)[2:3])


@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_shared_headers_and_pairs_longer_than_a_row_equal_stock_trl(
    name, tmp_path, tokenizer, monkeypatch
):
    monkeypatch.setattr(row_choice, "WIDEST_PACKED", 48)
    rows = make_rows(9, seed=7)
    for row in rows[4:]:
        row["prompt_ids"] = [5, 6, 7, 8, 9, 10, 11, 12, *row["prompt_ids"]]
    rows[5]["prompt_ids"] = rows[6]["prompt_ids"]
    rows[7]["chosen_ids"] = rows[7]["rejected_ids"][:1] + rows[7]["chosen_ids"]
    assert_same_step(tmp_path, name, tokenizer, rows, loss_type=["sigmoid", "sft"])


def test_pairs_share_tokens_unless_dropout_would_tie_them(tmp_path, tokenizer):
    rows = make_rows(4)
    assert make_trainer(tmp_path, "llama", True, tokenizer, rows).data_collator.share
    dropped = make_trainer(tmp_path, "llama", True, tokenizer, rows, disable_dropout=False)
    assert not dropped.data_collator.share


def test_switched_off_it_is_stock_trl(tmp_path, tokenizer):
    class StockTrainer(DPOTrainer):
        """TRL's own, over token ids."""

        def _prepare_dataset(self, dataset, *_):
            return dataset

    rows = make_rows(6, seed=4)
    off = make_trainer(tmp_path, "llama", False, tokenizer, rows)
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(transformers.LlamaConfig(**SIZES))
    stock = StockTrainer(
        model=model,
        args=off.args,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    stock.model.load_state_dict(off.model.state_dict())
    stock.collate = lambda batch: stock._prepare_inputs(stock.data_collator(batch))
    found, expected = run_step(off), run_step(stock)
    assert found[:2] == expected[:2]
    assert all(torch.equal(found[2][name], gradient) for name, gradient in expected[2].items())


def test_eager_attention_falls_back_to_stock_trl_and_says_so(tmp_path, tokenizer, capsys):
    model = transformers.AutoModelForCausalLM.from_config(
        transformers.LlamaConfig(**SIZES), attn_implementation="eager"
    )
    trainer = PreferenceTrainer(
        fast_forward=True,
        reference_cache=tmp_path / "cache",
        model=model,
        args=DPOConfig(
            output_dir=str(tmp_path), use_cpu=True, bf16=False, report_to="none",
            precompute_ref_log_probs=True, disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list(make_rows(4)),
        processing_class=tokenizer,
        peft_config=LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"),
    )  # fmt: skip
    assert "eager" in trainer.fast_obstacle
    assert "fast forward is off" in capsys.readouterr().out
    assert "packed_ids" not in trainer.collate([trainer.train_dataset[0]])


def test_reference_cache_is_used_again_and_a_damaged_one_is_recomputed(tmp_path, tokenizer):
    rows = make_rows(5)
    first = make_trainer(tmp_path, "llama", True, tokenizer, rows)
    (file,) = (tmp_path / "cache-True").glob("*.safetensors")
    stamp = file.stat().st_mtime_ns
    make_trainer(tmp_path, "llama", True, tokenizer, rows)
    assert file.stat().st_mtime_ns == stamp
    file.write_bytes(b"damaged")
    again = make_trainer(tmp_path, "llama", True, tokenizer, rows)
    assert again.train_dataset["ref_chosen_logps"][:] == first.train_dataset["ref_chosen_logps"][:]
    assert file.read_bytes() != b"damaged"


def test_the_reference_pass_switches_the_adapter_off_once(tmp_path, tokenizer):
    trainer = make_trainer(tmp_path, "llama", True, tokenizer, make_rows(6))
    model = trainer.model
    with mock.patch.object(model, "disable_adapter", wraps=model.disable_adapter) as off:
        found = trainer.compute_reference(trainer.train_dataset, "again", 2)
    assert off.call_count == 1
    for column, logps in zip(REFERENCE_COLUMNS, found, strict=True):
        assert_close(logps.tolist(), trainer.train_dataset[column])


def test_initial_loss_is_ln_2_for_a_fresh_adapter_and_not_for_a_moved_one(tmp_path, tokenizer):
    trainer = make_trainer(
        tmp_path, "llama", True, tokenizer, make_rows(6), loss_type=["sigmoid", "sft"]
    )
    assert abs(trainer.measure_initial_loss() - math.log(2)) > 1e-4
    for name, parameter in trainer.model.named_parameters():
        if "lora_B" in name:
            parameter.data.zero_()
    assert abs(trainer.measure_initial_loss() - math.log(2)) < 1e-5
    assert trainer.loss_types == ["sigmoid", "sft"]
