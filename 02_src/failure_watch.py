"""Known ways for preference training to go wrong, recognised from the metrics, in plain words.

Each check reads the run's records so far and returns a sentence with the config key that helps,
or None. Falling log-probabilities of the better answers: Razin et al. 2024 (arXiv 2410.08847);
margins that grow by length: Park et al. 2024 (arXiv 2403.19159).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from config import Config

RECENT = 3  # records that have to agree
STUCK_MARGIN = 0.02  # reward margin that leaves the DPO loss at ln 2
STUCK_AFTER = 0.25  # share of the run after which it should have moved
FALLEN_NATS = 3.0  # per answer; e^3 = 20 times less likely
LENGTH_CORRELATION = 0.8
MOVED_BY_STEP = 5
DIVERGED = 1.5  # times the loss at the start, in all of the recent records

Record = dict[str, float | None]


@dataclass
class History:
    """What the checks read."""

    config: Config
    max_steps: int = 0
    training: list[Record] = field(default_factory=list)
    validation: list[Record] = field(default_factory=list)
    adapter_moved: bool | None = None  # None until it is known

    def add(self, record: Record) -> None:
        """Sort a logged record in."""
        if "loss" in record:
            self.training.append(record)
        elif any(name.startswith("eval_") for name in record):
            self.validation.append(record)

    def recent(self, name: str) -> list[float]:
        """The last values of a training metric; empty until there are enough."""
        values = [r[name] for r in self.training[-RECENT:] if r.get(name) is not None]
        return values if len(values) == RECENT else []


def find_nan(history: History) -> str | None:
    """A loss or gradient that is not a number."""
    last: Record = history.training[-1] if history.training else {}
    # With fp16 the gradient may overflow: the scaler leaves such a step out.
    watched = ("loss",) if history.config.fp16 else ("loss", "grad_norm")
    names = [n for n in watched if not math.isfinite(last.get(n) or 0.0)]
    if not names:
        return None
    half = " and bf16=true instead of fp16" if history.config.fp16 else ""
    return (
        f"{names[0]} is not a number at step {last.get('step')}: nothing is learned from here on; "
        f"start again with a lower learning_rate (now {history.config.learning_rate:g}){half}"
    )


def find_diverging(history: History) -> str | None:
    """A loss that stands well above where it began."""
    losses = history.recent("loss")
    first = history.training[0].get("loss") if history.training else None
    if not losses or len(history.training) <= RECENT or not first or first <= 0:
        return None
    if min(losses) < DIVERGED * first:
        return None
    return (
        f"the loss has grown from {first:.3g} to {losses[-1]:.3g}: training diverges; start again "
        f"with a lower learning_rate (now {history.config.learning_rate:g}; try a tenth), or a "
        f"higher warmup_ratio (now {history.config.warmup_ratio:g})"
    )


def find_stuck(history: History) -> str | None:
    """A DPO loss that stays at ln 2: the rewards do not separate the answers."""
    margins = history.recent("rewards/margins")
    late = history.training and history.training[-1]["step"] >= STUCK_AFTER * history.max_steps
    if not margins or not late or max(map(abs, margins)) > STUCK_MARGIN:
        return None
    return (
        "the DPO loss is stuck at ln 2 = 0.693 (reward margin "
        f"{sum(margins) / RECENT:.3f}): raise learning_rate "
        f"(now {history.config.learning_rate:g}), or lora_r (now {history.config.lora_r})"
    )


def find_still_adapter(history: History) -> str | None:
    """An adapter whose weights do not change."""
    if history.adapter_moved is not False:
        return None
    return (
        f"the adapter has not moved in {MOVED_BY_STEP} steps: raise learning_rate "
        f"(now {history.config.learning_rate:g}), and check lora_target_modules"
    )


def find_falling(history: History) -> str | None:
    """Better answers that become less likely while the margin grows."""
    rewards, margins = history.recent("rewards/chosen"), history.recent("rewards/margins")
    nats = [reward / history.config.dpo_beta for reward in rewards]
    if not nats or max(nats) > -FALLEN_NATS or not margins or min(margins) <= 0:
        return None
    helps = (
        "raise the weight of sft in loss_weights"
        if "sft" in history.config.losses
        else 'add "sft" to loss_type'
    )
    return (
        f"the better answers have become {-sum(nats) / RECENT:.0f} nats less likely than before "
        "training, and only the worse ones fall faster: the model may end up saying neither; "
        f"{helps}, or lower learning_rate (now {history.config.learning_rate:g})"
    )


def find_length_bias(history: History) -> str | None:
    """Margins that follow the difference in length."""
    last: Record = history.validation[-1] if history.validation else {}
    correlation = last.get("eval_length_correlation")
    if correlation is None or abs(correlation) < LENGTH_CORRELATION:
        return None
    return (
        f"the reward margin follows the length of the answers (correlation {correlation:.2f}): "
        "the model may learn length instead of content; balance the lengths in the data, or set "
        "ld_alpha=0.5, or use sigmoid_norm in loss_type"
    )


CHECKS: dict[str, Callable[[History], str | None]] = {
    "nan": find_nan,
    "diverging": find_diverging,
    "stuck": find_stuck,
    "still_adapter": find_still_adapter,
    "falling": find_falling,
    "length_bias": find_length_bias,
}


def find_failures(history: History, known: Sequence[str] = ()) -> dict[str, str]:
    """Name and sentence of every failure that shows now and is not `known` yet."""
    found = {name: check(history) for name, check in CHECKS.items() if name not in known}
    return {name: text for name, text in found.items() if text}
