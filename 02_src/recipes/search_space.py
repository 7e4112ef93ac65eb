"""What a sweep may change: a range or a list of choices per config key.

{"learning_rate": {"low": 1e-4, "high": 4e-3, "log": true}, "lora_r": {"choices": [8, 16, 32]}}
Beside config keys: sft_weight, the weight of the sft loss in loss_weights. lora_r sets lora_alpha
to twice itself where lora_alpha is not searched too.
"""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError, model_validator

from config import Config, check_key, describe_problem, load_config, read_json_object, show_path
from errors import UserError

SFT_WEIGHT = "sft_weight"
DEFAULT_SPACE = {
    "learning_rate": {"low": 2e-4, "high": 5e-3, "log": True},
    SFT_WEIGHT: {"low": 0.3, "high": 3.0, "log": True},
    "dpo_beta": {"low": 0.03, "high": 0.5, "log": True},
    "lora_r": {"choices": [8, 16, 32, 64]},
    "num_train_epochs": {"choices": [2, 3, 5]},
}


class Range(BaseModel):
    """Values a key may take: from `low` to `high`, or one of `choices`."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    low: int | float | None = None
    high: int | float | None = None
    log: bool = False
    choices: list[Any] | None = None

    @model_validator(mode="after")
    def check_form(self) -> "Range":
        """Either choices or low < high; raises ValueError."""
        if self.choices is not None:
            if not self.choices or (self.low, self.high) != (None, None):
                raise ValueError("give choices (at least one), or low and high")
        elif self.low is None or self.high is None or not self.low < self.high:
            raise ValueError("needs choices, or low and high with low below high")
        elif self.log and self.low <= 0:
            raise ValueError("log needs low above 0")
        return self

    @property
    def ends(self) -> tuple[Any, Any]:
        """The first and the last value, to try the config with."""
        return (self.choices[0], self.choices[-1]) if self.choices else (self.low, self.high)


Space = dict[str, Range]


def load_space(file: Path | None) -> Space:
    """Read a search space; None is the default one.

    Raises:
        UserError: with `file: key: what was expected (what was found)`.
    """
    where = show_path(file) if file else "search space"
    values = read_json_object(file) if file else DEFAULT_SPACE
    for name in values:
        if name != SFT_WEIGHT:
            check_key(name, where)
    try:
        space = TypeAdapter(Space).validate_python(values)
    except ValidationError as error:
        raise UserError(f"{where}: {describe_problem(error.errors()[0])}") from None
    if not space:
        raise UserError(f"{where}: names no key to search")
    return space


def suggest(trial, space: Space) -> dict[str, Any]:
    """Optuna's next values, one per key of the space."""
    values = {}
    for name, found in space.items():
        if found.choices:
            values[name] = trial.suggest_categorical(name, found.choices)
        elif isinstance(found.low, int) and isinstance(found.high, int):
            values[name] = trial.suggest_int(name, found.low, found.high, log=found.log)
        else:
            values[name] = trial.suggest_float(name, found.low, found.high, log=found.log)
    return values


def make_overrides(values: dict[str, Any], base: Config) -> dict[str, Any]:
    """Config overrides of one trial.

    Raises:
        UserError: sft_weight is searched and the config's loss_type has no sft.
    """
    overrides = {name: value for name, value in values.items() if name != SFT_WEIGHT}
    if "lora_r" in values and "lora_alpha" not in values:
        overrides["lora_alpha"] = 2 * values["lora_r"]
    if SFT_WEIGHT in values:
        losses = base.losses
        if "sft" not in losses or len(losses) < 2:
            raise UserError(f'{SFT_WEIGHT}: needs loss_type ["sigmoid", "sft"], not {losses}')
        weights = base.loss_weights or [1.0] * len(losses)
        pairs = zip(losses, weights, strict=True)
        overrides["loss_weights"] = [values[SFT_WEIGHT] if n == "sft" else w for n, w in pairs]
    return overrides


def check_space(space: Space, config_file: str, given: dict[str, Any]) -> Config:
    """Refuse a space whose values no config may have; returns the base config.

    Raises:
        UserError: names the key.
    """
    base = load_config(config_file, given)
    for end in range(2):
        values = {name: found.ends[end] for name, found in space.items()}
        load_config(config_file, {**given, **make_overrides(values, base)})
    if base.validation_file is None:
        raise UserError(f"{config_file}: validation_file: a sweep needs one to judge trials by")
    return base
