# ruff: noqa: F811 (fixtures are imported by name)
"""Loss and gradient that are not numbers, fp16 overflow, a learning rate that diverges."""

import math
from pathlib import Path

import pytest
import torch
from tiny_run import tiny_config  # noqa: F401
from transformers import TrainerCallback

from checkpoints import list_checkpoints
from config import Config
from errors import UserError
from failure_watch import History, find_failures
from safe_files import find_damage
from safe_trainer import OverflowCount

DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
# The embedded model on the quickstart's data, batch 4, learning_rate 0.1 without warm-up.
DIVERGING = (3.209, 21.148, 34.968, 40.551, 48.382, 37.190, 25.282, 18.315)


class Spoil(TrainerCallback):
    """Breaks a number before step 3: of the frozen base, or of a gradient."""

    def __init__(self, what: str, value: float) -> None:
        self.what, self.value = what, value
        self.before: dict[str, torch.Tensor] = {}

    def on_step_begin(self, args, state, control, model=None, **kwargs) -> None:
        """Keep the adapter as it is now, then break something."""
        if state.global_step != 2:
            return
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.before = {name: p.detach().clone() for name, p in trained.items()}
        if self.what == "gradient":
            next(iter(trained.values())).register_hook(lambda grad: grad * self.value)
        else:
            name = "model.norm.weight"
            norm = next(p for n, p in model.named_parameters() if n.endswith(name))
            norm.data.fill_(self.value)


@pytest.fixture
def build(tiny_config):
    """build(name): (trainer, config) of a tiny run that saves at each step."""

    def make(name: str, device_name: str = "cpu"):
        from hardware import find_device
        from preferences import load_preferences
        from qlora import load_policy
        from trainer_setup import build_trainer

        config = tiny_config(
            name,
            save_steps=1,
            eval_steps=9,
            load_in_4bit=False,
            bf16=False,
            device=device_name,
        )
        device, data = find_device(config), load_preferences(config)
        return build_trainer(config, device, *load_policy(config, device), data), config

    return make


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("what", "value"),
    [("loss", math.nan), ("gradient", math.nan), ("gradient", math.inf)],
)
def test_bad_number_stops_before_the_weights_are_spoilt_and_names_the_rows(
    build, what, value, device
):
    from train_dpo import train

    trainer, config = build(f"{what}-{value}-{device}", device)
    spoil = Spoil(what, value)
    trainer.add_callback(spoil)
    with pytest.raises(UserError) as caught:
        train(trainer, config)
    text = str(caught.value)
    assert f"the {what} is not a finite number at step 3" in text
    lines = {f"{config.dataset_hf}:{n}" for n in range(1, 17)}
    assert sum(f"{line}," in text or f"{line}:" in text for line in lines) == 4  # one batch
    assert "checkpoint-2 is whole" in text and "learning_rate (now 0.005)" in text
    for name, parameter in trainer.model.named_parameters():
        if name in spoil.before:
            assert torch.equal(parameter, spoil.before[name]), name
    kept = list_checkpoints(Path(config.output_dir))
    assert [path.name for path in kept] == ["checkpoint-1", "checkpoint-2"]
    assert all(find_damage(path) is None for path in kept)
    assert not (Path(config.output_dir) / "training_summary.json").exists()


def test_the_rows_named_are_those_of_the_batch(build):
    trainer, _ = build("rows")
    for batch in trainer.get_train_dataloader():
        for ids, mask in zip(batch["input_ids"][:4], batch["attention_mask"][:4], strict=True):
            source = trainer.find_source(ids, mask)
            row = trainer.train_dataset[trainer.sources.index(source)]
            assert row["prompt_ids"] + row["chosen_ids"] == ids[mask.bool()].tolist()


def test_diverging_learning_rate_is_noticed_at_the_fourth_record():
    history = History(Config(learning_rate=0.1), max_steps=8)
    found = []
    for step, loss in enumerate(DIVERGING, 1):
        history.add({"step": step, "loss": loss, "grad_norm": 1.0})
        found.append(find_failures(history).get("diverging"))
    assert [text is not None for text in found] == [False] * 3 + [True] * 5
    assert "from 3.21 to 40.6: training diverges" in found[3]
    assert "lower learning_rate (now 0.1; try a tenth)" in found[3]


def test_healthy_losses_are_not_called_diverging():
    history = History(Config(loss_type="sigmoid"), max_steps=100)
    for step, loss in enumerate((0.69, 0.9, 0.8, 0.7, 0.95, 0.9, 0.85), 1):
        history.add({"step": step, "loss": loss, "grad_norm": 1.0})
        assert find_failures(history) == {}


def test_gradient_overflow_under_fp16_is_not_called_a_failure():
    history = History(Config(fp16=True, bf16=False, loss_type="sigmoid"), max_steps=100)
    history.add({"step": 1, "loss": 0.69, "grad_norm": math.inf})
    assert find_failures(history) == {}
    history.add({"step": 2, "loss": math.inf, "grad_norm": 1.0})
    assert list(find_failures(history)) == ["nan"]


def test_scaler_leaves_an_overflowing_step_out_and_it_is_said_at_powers_of_two():
    weight = torch.ones(2, requires_grad=True)
    optimizer, scaler = torch.optim.SGD([weight], lr=0.1), torch.amp.GradScaler("cpu")
    count, said = OverflowCount(), []
    for step in range(1, 6):
        weight.grad = torch.full((2,), math.inf)
        scaler.scale(torch.zeros(()))  # starts the scaler
        scaler.step(optimizer)
        scaler.update()
        said.append(count.describe(step, scaler.get_scale()))
    assert torch.equal(weight, torch.ones(2))
    assert [line is not None for line in said] == [True, True, False, True, False]
    assert "fp16 overflow at step 1" in said[0] and "32768" in said[0]


def test_fp16_that_no_scale_can_save_stops(build):
    trainer, _ = build("scale")
    trainer.compute_loss(trainer.model.train(), next(iter(trainer.get_train_dataloader())))
    trainer.note_overflow(1024.0)
    with pytest.raises(UserError, match="gradient is not a finite number"):
        trainer.note_overflow(0.5)
