"""Compare runs: what differs in their configs, and what came of it, as a table and a figure.

table = compare_runs([Path("05_logs/quickstart"), Path("04_models/adapters/output_dpo")])
picture = plot_runs([...], Path("05_logs/comparison/runs.png"))

Needs no torch. A run is named by its log folder or by its run folder.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from config import (
    REPOSITORY,
    RUN_CONFIG,
    Config,
    load_run_config,
    log_folder,
    read_json_object,
    show_path,
)
from errors import UserError
from run_log import LN2, METRICS_FILE, read_metrics, select_series
from safe_files import replacing
from statistics_of_runs import Share

EVALUATION_FILE = "evaluation.json"
PLACES = {"output_dir", "logging_dir", "merged_dir"}  # differ between any two runs, and say nothing
LAST = {
    "loss": "loss",
    "eval_loss": "validation loss",
    "rewards/margins": "margin",
    "eval_rewards/margins": "validation margin",
    "logps/chosen": "chosen logp",
    "logps/rejected": "rejected logp",
    "eval_grounding": "validation: says it right",
    "eval_confusion": "validation: another sense",
    "memory_gib": "memory, GiB",
}
SHARES = {"grounding": "says it right", "confusion": "another sense"}
PANELS = (
    ("loss", "training loss"),
    ("rewards/margins", "reward margin"),
    ("logps/chosen", "log p of the chosen answer, nats"),
    ("eval_grounding", "validation: says it right"),
)
INK = "#808080"  # reads on white and on dark pages; the background is transparent


@dataclass(frozen=True)
class LoggedRun:
    """One run as it is found on disk."""

    name: str
    records: list[dict]
    config: Config | None = None  # None where no run folder is found for the log
    splits: dict[str, dict] = field(default_factory=dict)  # of evaluation.json, the trained model


def compare_runs(folders: Sequence[Path]) -> pd.DataFrame:
    """One row a run: the config keys that differ, then steps, seconds, last figures, evaluation.

    Args:
        folders: log folders (05_logs/x) or run folders (04_models/adapters/x).

    Returns:
        Indexed by run. Log-probabilities in nats summed over an answer; shares of the evaluation
        as text with their 95 % intervals; what a run does not have is missing.

    Raises:
        UserError: a folder is no run, or has no metrics yet.
    """
    runs = read_runs(folders)
    rows = [
        select_keys(run, list_differences(runs)) | summarize_run(run) | list_shares(run)
        for run in runs
    ]
    return pd.DataFrame(rows, index=pd.Index([run.name for run in runs], name="run"))


def read_runs(folders: Sequence[Path]) -> list[LoggedRun]:
    """The runs in the order given, each under a name of its own."""
    if not folders:
        raise UserError("no run to compare; name folders such as 05_logs/quickstart")
    names = Counter(folder.resolve().name for folder in folders)
    return [
        read_run(folder, show_path(folder) if names[folder.resolve().name] > 1 else None)
        for folder in folders
    ]


def read_run(folder: Path, name: str | None = None) -> LoggedRun:
    """One run from its log folder or its run folder.

    Raises:
        UserError: naming the folder and what to do.
    """
    folder = folder.expanduser().resolve()
    if not folder.is_dir():
        raise UserError(f"{show_path(folder)}: no such folder; runs are in 05_logs/")
    holds_metrics = (folder / METRICS_FILE).is_file()
    if not holds_metrics and not (folder / RUN_CONFIG).is_file():
        raise UserError(
            f"{show_path(folder)}: holds neither {METRICS_FILE} nor {RUN_CONFIG}; "
            "name a folder of 05_logs/ or of 04_models/adapters/"
        )
    home = find_run_folder(folder) if holds_metrics else folder
    config = load_run_config(home) if home else None
    logs = folder if holds_metrics or config is None else log_folder(config)
    records = read_metrics(logs)
    if not any("loss" in record for record in records):
        raise UserError(f"{show_path(logs)}: no metrics yet; train first, or wait for the first")
    return LoggedRun(name or folder.name, records, config, read_splits([home, logs]))


def find_run_folder(logs: Path) -> Path | None:
    """The run folder whose config logs into `logs`; None where it was moved or deleted."""
    if (logs / RUN_CONFIG).is_file():
        return logs
    for file in (REPOSITORY / "04_models").glob(f"*/{logs.name}/{RUN_CONFIG}"):
        if log_folder(load_run_config(file.parent)).resolve() == logs:
            return file.parent
    return None


def read_splits(places: Sequence[Path | None]) -> dict[str, dict]:
    """Figures by test split of the first evaluation.json in `places`: the trained model's."""
    files = [folder / EVALUATION_FILE for folder in places if folder]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        return {}
    try:
        models = read_json_object(file)["models"]
        return next(model["splits"] for name, model in models.items() if name != "base")
    except (KeyError, TypeError, AttributeError, StopIteration):
        raise UserError(
            f"{show_path(file)}: not a report of evaluate_dpo.py; evaluate the run again"
        ) from None


def list_differences(runs: Sequence[LoggedRun]) -> list[str]:
    """Config keys whose values are not the same in all runs that have a config."""
    configs = [run.config for run in runs if run.config]
    return [
        name
        for name in Config.model_fields
        if name not in PLACES
        and any(getattr(c, name) != getattr(configs[0], name) for c in configs)
    ]


def select_keys(run: LoggedRun, names: Sequence[str]) -> dict[str, object]:
    """A run's values of some config keys; lists as text, so that a table can hold them."""
    if run.config is None:
        return dict.fromkeys(names)
    values = {name: getattr(run.config, name) for name in names}
    return {k: str(v) if isinstance(v, list | dict) else v for k, v in values.items()}


def summarize_run(run: LoggedRun) -> dict[str, float | None]:
    """Steps, seconds, and the last value of every figure in LAST."""
    steps = [record["step"] for record in run.records if "step" in record]
    row: dict[str, float | None] = {"steps": max(steps), "seconds": sum_seconds(run.records)}
    for name, label in LAST.items():
        _, values = select_series(run.records, name)
        row[label] = values[-1] if values else None
    return row


def sum_seconds(records: Sequence[dict]) -> float:
    """Seconds of training; a resumed run's clock starts again, so the parts are added up."""
    seconds = [record["seconds"] for record in records if record.get("seconds") is not None]
    ends = [a for a, b in zip(seconds, seconds[1:], strict=False) if b < a]
    return round(sum([*ends, *seconds[-1:]]), 1)


def list_shares(run: LoggedRun) -> dict[str, str]:
    """Evaluation figures of every split, with 95 % intervals, and what happened to other text."""
    found = {}
    for split, figures in run.splits.items():
        for name, label in SHARES.items():
            if (figures.get(name) or {}).get("n"):
                found[f"{split}: {label}"] = str(Share(**figures[name]))
        if ratio := figures.get("perplexity_ratio"):
            interval = f"{ratio['low']:.3f}-{ratio['high']:.3f}"
            found[f"{split}: perplexity, times the base's"] = f"{ratio['value']:.3f} ({interval})"
    return found


def plot_runs(folders: Sequence[Path], file: Path) -> Path:
    """Draw loss, margin, chosen log-probability and grounding, a line per run, into a PNG.

    Raises:
        UserError: a folder is no run, or has no metrics yet.
    """
    from matplotlib.figure import Figure

    runs = read_runs(folders)
    figure = Figure(figsize=(10, 6.5), layout="constrained")
    panels = list(figure.subplots(2, 2).flat)
    for axes, (name, title) in zip(panels, PANELS, strict=True):
        draw_runs(axes, runs, name, title)
    lines, labels = panels[0].get_legend_handles_labels()
    legend = figure.legend(lines, labels, loc="outside lower center", ncols=min(len(lines), 4))
    legend.get_frame().set_alpha(0)
    for text in legend.get_texts():
        text.set_color(INK)
    with replacing(file) as scratch:
        figure.savefig(scratch, format="png", dpi=110, transparent=True)
    return file


def draw_runs(axes, runs: Sequence[LoggedRun], name: str, title: str) -> None:
    """One metric of every run; few points are marked, or a single one would not be seen."""
    for run in runs:
        steps, values = select_series(run.records, name)
        axes.plot(steps, values, label=run.name, marker="o" if len(steps) < 12 else None)
    if name == "loss":
        axes.axhline(LN2, color=INK, linestyle=":", label="ln 2 (DPO alone, untrained)")
    if name == "eval_grounding":
        axes.set_ylim(-0.05, 1.05)
    axes.set_title(title, color=INK)
    axes.set_xlabel("optimizer step", color=INK)
    axes.tick_params(colors=INK)
    axes.spines[:].set_color(INK)
    axes.grid(color=INK, alpha=0.3)
