"""What a run writes down while it trains: metrics.jsonl, training.log and the curves.

Needs no torch; readers (monitor, notebook, quickstart) use it too.
"""

import json
import math
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from config import show_path, write_text
from errors import UserError
from processes import is_main
from safe_files import replacing

METRICS_FILE = "metrics.jsonl"
TEXT_LOG = "training.log"
CURVES_FILE = "training_curves.png"
LN2 = math.log(2)


class RunLog:
    """Appends to a run's metrics.jsonl and training.log, line by line."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write_metrics(self, record: dict[str, Any]) -> None:
        """Append one record; NaN and infinities are written as null, so readers stay simple."""
        clean = {k: None if is_bad_number(v) else v for k, v in record.items()}
        self.append(METRICS_FILE, json.dumps(clean))

    def write_line(self, text: str) -> None:
        """Append a time-stamped line to training.log."""
        self.append(TEXT_LOG, f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} {text}")

    def append(self, name: str, line: str) -> None:
        """Append one line to a file of the run; only the main process does."""
        if not is_main():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / name).open("a", encoding="utf-8", newline="\n") as stream:
            stream.write(line + "\n")

    def drop_after(self, step: int) -> None:
        """Forget metrics beyond `step`: a resumed run writes them again."""
        records = read_metrics(self.folder) if is_main() else []
        if not records:
            return
        kept = [record for record in records if record.get("step", 0) <= step]
        text = "".join(json.dumps(record) + "\n" for record in kept)
        write_text(self.folder / METRICS_FILE, text)


def is_bad_number(value: Any) -> bool:
    """Whether JSON cannot hold `value`."""
    return isinstance(value, float) and not math.isfinite(value)


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Records of a run's metrics.jsonl so far; a half-written last line is left out."""
    file = folder / METRICS_FILE
    records = []
    text = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
    for line in text.splitlines():
        with suppress(ValueError, RecursionError):
            records.append(json.loads(line))
    return [record for record in records if isinstance(record, dict)]


def select_series(records: Sequence[dict], name: str) -> tuple[list[int], list[float]]:
    """(steps, values) of one metric."""
    points = [(r["step"], r[name]) for r in records if r.get(name) is not None and "step" in r]
    return [step for step, _ in points], [value for _, value in points]


def describe_step(record: dict[str, Any]) -> str:
    """One training record as a short line."""
    shown = (
        ("loss", "loss", ".3f"),
        ("rewards/margins", "margin", ".2f"),
        ("rewards/accuracies", "accuracy", ".2f"),
        ("logps/chosen", "chosen logp", ".1f"),
        ("logps/rejected", "rejected logp", ".1f"),
        ("rehearsal_kl", "kl", ".3f"),
    )
    prefix = "eval_" if "eval_loss" in record else ""
    parts = [
        f"{label} {record[prefix + name]:{form}}"
        for name, label, form in shown
        if record.get(prefix + name) is not None
    ]
    return f"step {record.get('step', 0)}: {'validation ' if prefix else ''}{', '.join(parts)}"


def plot_curves(folder: Path) -> Path:
    """Draw loss, margin, accuracy and log-probs of a run into training_curves.png.

    Raises:
        UserError: the run has no metrics yet.
    """
    from matplotlib.figure import Figure

    records = read_metrics(folder)
    if not any("loss" in record for record in records):
        raise UserError(f"{show_path(folder)}: no metrics yet; train first")
    figure = Figure(figsize=(10, 6.5), layout="constrained")
    panels = (
        ("loss", ["loss"], "training loss"),
        ("margin", ["rewards/margins"], "reward margin"),
        ("accuracy", ["rewards/accuracies"], "share of pairs ranked right"),
        ("log-probability", ["logps/chosen", "logps/rejected"], "log p of an answer, summed"),
    )
    for axes, (title, names, label) in zip(figure.subplots(2, 2).flat, panels, strict=True):
        draw_panel(axes, records, title, names, label)
    with replacing(folder / CURVES_FILE) as scratch:
        figure.savefig(scratch, format="png", dpi=110)
    return folder / CURVES_FILE


def draw_panel(axes, records: list[dict], title: str, names: list[str], label: str) -> None:
    """One panel of the curves: training as a line, validation as points."""
    for name in names:
        line = axes.plot(*select_series(records, name), label=name.split("/")[-1])[0]
        steps, values = select_series(records, f"eval_{name}")
        if steps:
            axes.plot(steps, values, "o", color=line.get_color(), label=f"validation {name}")
    if title == "loss":
        axes.axhline(LN2, color="grey", linestyle=":", label="ln 2 (DPO loss at the start)")
    axes.set_title(title)
    axes.set_xlabel("optimizer step")
    axes.set_ylabel(label)
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
