# ruff: noqa: F811 (fixtures are imported by name)
"""What happens beside training: validation answers that disturb nothing, warnings, early stopping.

Real training on a tiny model; known failures as hand-made metrics.
"""

import math
import os
import signal
from pathlib import Path

import pytest
import torch
from tiny_run import tiny_config, train_tiny  # noqa: F401
from transformers.trainer_callback import TrainerControl, TrainerState

from config import Config
from failure_watch import History, find_failures
from train_callbacks import PatienceCallback, StopCallback

VALIDATION_FIGURES = {"eval_grounding", "eval_confusion", "eval_displaced"}


def read_adapter(trainer) -> dict[str, torch.Tensor]:
    """The trained tensors."""
    return {name: p.detach() for name, p in trainer.model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_asking_validation_questions_changes_nothing_in_training(train_tiny, dropout):
    name = f"d{int(10 * dropout)}"
    asked, records, log = train_tiny(f"asked{name}", lora_dropout=dropout)
    silent, plain, _ = train_tiny(f"silent{name}", lora_dropout=dropout, validation_answers=0)
    before = read_adapter(silent)
    for key, tensor in read_adapter(asked).items():
        assert torch.equal(tensor, before[key]), key
    steps = [r["step"] for r in records if set(r) >= VALIDATION_FIGURES]
    assert steps == [1, 2, 3, 4]
    assert not any(set(r) & VALIDATION_FIGURES for r in plain)
    assert "of 4 validation questions" in log


def test_figures_reach_tensorboard(train_tiny):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trainer, _, _ = train_tiny("board")
    folder = Path(trainer.args.output_dir).parents[1] / "logs" / "board"
    events = EventAccumulator(str(folder)).Reload()
    assert {"eval/grounding", "eval/displaced"} <= set(events.Tags()["scalars"])


def test_base_is_neither_grounded_nor_displaced_before_the_first_step(tiny_config):
    from hardware import find_device
    from preferences import load_preferences
    from qlora import load_policy
    from trainer_setup import build_trainer
    from validation_sample import ValidationSample, undisturbed

    config = tiny_config("start")
    device, data = find_device(config), load_preferences(config)
    model, tokenizer = load_policy(config, device)
    trainer = build_trainer(config, device, model, tokenizer, data)
    sample = ValidationSample(data.validation, list(trainer.eval_dataset), tokenizer, 3)
    trainer.model.train()
    modes = [module.training for module in trainer.model.modules()]
    state = torch.random.get_rng_state()
    figures = sample.measure(trainer.model)
    assert figures["eval_displaced"] == 0.0 and figures["eval_grounding"] == 0.0
    assert [module.training for module in trainer.model.modules()] == modes
    assert torch.equal(torch.random.get_rng_state(), state)
    with undisturbed(trainer.model):
        assert not trainer.model.training and torch.rand(3) is not None
    assert torch.equal(torch.random.get_rng_state(), state)


def test_early_stopping_ends_a_finished_run_with_its_best_adapter(train_tiny, capsys):
    trainer, records, log = train_tiny("patient", max_steps=9, early_stopping_patience=2)
    assert trainer.state.global_step == 3  # nothing is ever right: 1 is the best, 2 and 3 no better
    assert trainer.args.metric_for_best_model == "eval_grounding"
    assert "stopped early at step 3" in log
    assert (Path(trainer.args.output_dir) / "training_summary.json").is_file()
    assert records[-1]["stopped_early"] and records[-1]["max_steps"] == 3
    state = Path(trainer.args.output_dir) / "checkpoint-3" / "trainer_state.json"
    resumed = PatienceCallback(2, None)  # goes on counting where the checkpoint was
    control = TrainerControl()
    resumed.on_train_begin(trainer.args, TrainerState.load_from_json(str(state)), control)
    assert control.should_training_stop and resumed.early_stopping_patience_counter == 2
    best = Path(trainer.args.output_dir) / "checkpoint-1" / "adapter_model.safetensors"
    from safetensors.torch import load_file

    saved = load_file(best)
    for name, tensor in read_adapter(trainer).items():
        assert torch.equal(tensor, saved[name.replace(".default", "")].float()), name


def test_an_adapter_that_cannot_move_is_named(train_tiny):
    _, records, log = train_tiny("still", max_steps=6, learning_rate=1e-30)
    assert "the adapter has not moved in 5 steps" in log and "learning_rate" in log
    assert {r["warning"] for r in records if "warning" in r} == {"stuck", "still_adapter"}


@pytest.fixture
def history() -> History:
    """A run of 100 steps, nothing logged yet."""
    return History(Config(loss_type="sigmoid", learning_rate=1e-3), max_steps=100)


def log_steps(history: History, **values: float) -> None:
    """Three healthy records at steps 30, 40, 50, with some values replaced."""
    healthy = {"loss": 0.4, "grad_norm": 1.0, "rewards/margins": 2.0, "rewards/chosen": 0.5}
    for step in (30, 40, 50):
        history.add({"step": step, **healthy, **values})


def test_a_healthy_run_gets_no_warning(history):
    log_steps(history)
    history.add({"step": 50, "eval_length_correlation": 0.3})
    history.adapter_moved = True
    assert find_failures(history) == {}


@pytest.mark.parametrize(
    ("values", "name", "words"),
    [
        ({"loss": math.nan}, "nan", ("loss", "learning_rate (now 0.001)")),
        ({"grad_norm": math.nan}, "nan", ("grad_norm", "learning_rate")),
        ({"loss": 0.693, "rewards/margins": 0.004}, "stuck", ("ln 2", "lora_r")),
        ({"rewards/chosen": -0.8}, "falling", ("8 nats", 'add "sft" to loss_type')),
    ],
)
def test_known_failures_are_named_with_the_key_that_helps(history, values, name, words):
    log_steps(history, **values)
    found = find_failures(history)
    assert list(found) == [name]
    assert all(word in found[name] for word in words)
    assert find_failures(history, known=[name]) == {}


def test_margins_that_follow_length_are_named(history):
    log_steps(history)
    history.add({"step": 50, "eval_length_correlation": -0.93})
    assert "ld_alpha" in find_failures(history)["length_bias"]


def test_the_start_of_a_run_is_not_called_stuck(history):
    for step in (1, 2, 3):
        history.add({"step": step, "loss": 0.693, "rewards/margins": 0.0, "rewards/chosen": 0.0})
    assert find_failures(history) == {}


def test_keeping_the_best_without_validation_is_refused(tiny_config):
    from errors import UserError
    from trainer_setup import choose_best_metric

    with pytest.raises(UserError, match="keep_best: needs validation pairs"):
        choose_best_metric(tiny_config("none", keep_best=True), validates=False, asks=False)


def test_only_the_process_that_trains_answers_ctrl_c(capfd, monkeypatch):
    """Loading processes are forked from it and inherit the handler."""
    callback = StopCallback()
    callback.on_train_begin(None, None, None)
    try:
        handler = signal.getsignal(signal.SIGINT)
        with monkeypatch.context() as worker:
            worker.setattr(os, "getpid", lambda: callback.owner + 1)
            handler()
        assert not callback.asked and "stopping" not in "".join(capfd.readouterr())
        handler()
        assert callback.asked and "stopping after this step" in "".join(capfd.readouterr())
    finally:
        callback.on_train_end(None, None, None)
