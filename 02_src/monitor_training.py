"""Watch a running or finished run in the terminal, from its metrics.jsonl.

python 02_src/monitor_training.py 05_logs/quickstart
"""

import argparse
import sys
import time
from pathlib import Path

from config import REPOSITORY, resolve_path, show_path
from errors import UserError, run_main
from run_log import read_metrics, select_series

SPARKS = "▁▂▃▄▅▆▇█"
SHOWN = (
    ("loss", "loss", ".3f"),
    ("rewards/margins", "reward margin", ".2f"),
    ("rewards/accuracies", "ranked right", ".1%"),
    ("logps/chosen", "chosen log-prob", ".1f"),
    ("logps/rejected", "rejected log-prob", ".1f"),
    ("eval_loss", "validation loss", ".3f"),
    ("eval_grounding", "said right", ".1%"),
    ("eval_confusion", "said another", ".1%"),
    ("eval_displaced", "better fell", ".1%"),
    ("grad_norm", "gradient norm", ".2f"),
    ("learning_rate", "learning rate", ".2e"),
)


def draw_spark(values: list[float], width: int = 40) -> str:
    """The last `width` values as block characters."""
    values = values[-width:]
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    return "".join(SPARKS[int((v - low) / span * (len(SPARKS) - 1))] for v in values)


def describe_progress(records: list[dict]) -> str:
    """Step, share done and time left."""
    last = records[-1]
    step, total = last.get("step", 0), last.get("max_steps") or 0
    seconds = last.get("seconds") or 0.0
    started = records[0].get("step", 0) if records else 0
    line = f"step {step}" + (f" of {total} ({step / total:.0%})" if total else "")
    if total and step >= total:
        return f"{line}, finished"
    done = max(1, step - min(started, step))
    return f"{line}, about {seconds / done * (total - step):.0f} s left" if total else line


def render(folder: Path):
    """The run's newest figures as a rich table."""
    from rich.table import Table

    records = [r for r in read_metrics(folder) if "step" in r]
    table = Table(title=f"{show_path(folder)}: " + (describe_progress(records) if records else "…"))
    for column in ("metric", "now", "course"):
        table.add_column(column)
    for name, label, form in SHOWN:
        _, values = select_series(records, name)
        if values:
            table.add_row(label, f"{values[-1]:{form}}", draw_spark(values))
    return table


def is_finished(folder: Path) -> bool:
    """Whether the last record is the last step."""
    records = [r for r in read_metrics(folder) if "step" in r]
    return bool(records) and records[-1]["step"] >= (records[-1].get("max_steps") or 1 << 62)


def watch(folder: Path, seconds: float) -> None:
    """Redraw until the run ends or Ctrl-C."""
    from rich.live import Live

    with Live(render(folder), auto_refresh=False) as live:
        while not is_finished(folder):
            time.sleep(seconds)
            live.update(render(folder), refresh=True)


def find_newest_run() -> Path:
    """The log folder written to last; UserError when there is none."""
    files = sorted(
        (REPOSITORY / "05_logs").glob("*/metrics.jsonl"), key=lambda f: f.stat().st_mtime
    )
    if not files:
        raise UserError("05_logs: no run yet; train first: python 02_src/train_dpo.py --help")
    return files[-1].parent


def main() -> int:
    """Parse, watch or print once."""
    parser = argparse.ArgumentParser(description="Watch a run.")
    parser.add_argument("folder", nargs="?", help="05_logs/<run>; the newest when left out")
    parser.add_argument("--every", type=float, default=2.0, help="seconds between redraws")
    arguments = parser.parse_args()
    folder = resolve_path(arguments.folder) if arguments.folder else find_newest_run()
    if not folder.is_dir():
        raise UserError(f"{show_path(folder)}: no such log folder; see 05_logs/")
    from rich.console import Console

    if sys.stdout.isatty() and not is_finished(folder):
        watch(folder, max(0.2, arguments.every))
    else:
        Console().print(render(folder))
    return 0


if __name__ == "__main__":
    run_main(main)
