"""Long pairs: batches of like length, the same after a resume; short pairs keep their order."""

import random

import torch
from test_fast import make_rows, make_trainer

from fast.sampling import LikeLengths

LENGTHS = random.Random(0).choices(range(400, 1000), k=203)


def count_padded(order: list[int], batch: int) -> int:
    """Tokens of all rows when each batch is as wide as its longest pair."""
    groups = [order[i : i + batch] for i in range(0, len(order), batch)]
    return sum(len(group) * max(LENGTHS[i] for i in group) for group in groups)


def test_every_pair_comes_once_and_batches_are_of_like_length():
    order = list(LikeLengths(LENGTHS, 8, seed=1))
    assert sorted(order) == list(range(len(LENGTHS)))
    drawn = random.Random(2).sample(range(len(LENGTHS)), len(LENGTHS))
    assert count_padded(drawn, 8) > 1.2 * sum(LENGTHS)
    assert count_padded(order, 8) < 1.06 * sum(LENGTHS)


def test_the_order_follows_from_seed_and_epoch():
    first, second = LikeLengths(LENGTHS, 8, seed=1), LikeLengths(LENGTHS, 8, seed=1)
    torch.rand(3)  # no other draw of the run matters
    assert list(first) == list(second)
    second.set_epoch(1)
    assert list(first) != list(second)
    widths = [max(LENGTHS[i] for i in list(first)[k : k + 8]) for k in range(0, 160, 8)]
    assert widths != sorted(widths) and widths != sorted(widths, reverse=True)


def make_long_rows(count: int) -> list[dict[str, list[int]]]:
    """Pairs of 420 to 700 tokens."""
    draw = random.Random(3)
    sizes = [draw.randrange(140, 230) for _ in range(count)]
    names = ("prompt_ids", "chosen_ids", "rejected_ids")
    return [{name: draw.choices(range(1, 96), k=size) for name in names} for size in sizes]


def train_losses(trainer, resume: str | None = None) -> list[float]:
    """The logged losses."""
    trainer.train(resume_from_checkpoint=resume)
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def test_a_resumed_run_goes_on_in_the_same_order(tmp_path, tokenizer):
    options = {"max_length": 800, "num_train_epochs": 2, "logging_steps": 1, "save_steps": 3}
    found = []
    for resume in (None, str(tmp_path / "checkpoint-3")):
        trainer = make_trainer(tmp_path, "llama", True, tokenizer, make_long_rows(8), **options)
        trainer.args.per_device_train_batch_size = trainer._train_batch_size = 2
        assert isinstance(trainer._get_train_sampler(), LikeLengths)
        found.append(train_losses(trainer, resume))
    assert len(found[0]) == len(found[1]) == 8
    assert found[0] == found[1]


def test_the_order_does_not_depend_on_how_a_step_is_split(tmp_path, tokenizer):
    trainer = make_trainer(tmp_path, "llama", True, tokenizer, make_long_rows(16), max_length=800)
    orders = []
    for batch, steps in ((4, 1), (2, 2), (1, 4)):
        trainer.args.per_device_train_batch_size = trainer._train_batch_size = batch
        trainer.args.gradient_accumulation_steps = steps
        orders.append(list(trainer._get_train_sampler()))
    assert orders[0] == orders[1] == orders[2]


def test_short_pairs_and_stock_trl_keep_trainers_order(tmp_path, tokenizer):
    for name, rows, fast in (("stock", make_long_rows(8), False), ("short", make_rows(8), True)):
        trainer = make_trainer(tmp_path / name, "llama", fast, tokenizer, rows, max_length=800)
        trainer.args.per_device_train_batch_size = trainer._train_batch_size = 2
        assert not isinstance(trainer._get_train_sampler(), LikeLengths)
