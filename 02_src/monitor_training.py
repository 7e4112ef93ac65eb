"""Watch a run in the terminal: progress, losses, grounding, memory, load, warnings.

    python 02_src/monitor_training.py                      (the run that trains, or the newest)
    python 02_src/monitor_training.py 05_logs/quickstart
    python 02_src/monitor_training.py 05_logs/quickstart --once

A run that is loading is waited for. Where the output is no terminal, lines are printed instead.
"""

import argparse
import sys
import time
from pathlib import Path

import errors  # first: from here on Ctrl-C is one line
from config import resolve_path, show_path
from machine_load import Load, read_load
from run_log import describe_step, select_series
from run_progress import Progress, find_logs, find_newest_logs, is_running, read_progress

SPARKS = "▁▂▃▄▅▆▇█"
BAR = 30  # columns
WAITING = "no step is logged yet (loading, reference pass); waiting, Ctrl-C ends this"
SHOWN = (
    ("loss", "loss", ".3f"),
    ("rewards/margins", "reward margin", ".2f"),
    ("rewards/accuracies", "ranked right", ".1%"),
    ("logps/chosen", "chosen log-prob", ".1f"),
    ("logps/rejected", "rejected log-prob", ".1f"),
    ("eval_loss", "validation loss", ".3f"),
    ("eval_grounding", "says it right", ".1%"),
    ("eval_confusion", "says another", ".1%"),
    ("eval_displaced", "better one fell", ".1%"),
    ("grad_norm", "gradient norm", ".2f"),
    ("learning_rate", "learning rate", ".2e"),
)


def draw_spark(values: list[float], width: int = 34) -> str:
    """The course of `values` in at most `width` block characters, the last value included."""
    count = min(width, len(values))
    values = [values[(i + 1) * len(values) // count - 1] for i in range(count)]
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    return "".join(SPARKS[int((v - low) / span * (len(SPARKS) - 1))] for v in values)


def list_metrics(progress: Progress) -> list[tuple[str, str, str, str]]:
    """(name, first, now, course) of every figure the run has."""
    rows = []
    for name, label, form in SHOWN:
        _, values = select_series(progress.records, name)
        if values:
            rows.append((label, f"{values[0]:{form}}", f"{values[-1]:{form}}", draw_spark(values)))
    return rows


def list_loads(progress: Progress) -> list[Load]:
    """The run's memory against its plan, then the machine's load while it runs."""
    _, used = select_series(progress.records, "memory_gib")
    plan = progress.planned_gib
    text = f"{used[-1]:.2f} GiB at the peak" if used else ""
    own = [Load("this run", 0.0, text)] if used and not plan else []
    if used and plan:
        own = [Load("this run", used[-1] / plan, f"{text}, {plan:.2f} planned")]
    return [*own, *(read_load() if progress.running and not progress.finished else [])]


def render(progress: Progress):
    """The dashboard as something rich can draw."""
    from rich import box
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    title = f"{show_path(progress.folder)}: "
    if not progress.records:
        return Text(title + WAITING)
    metrics = Table("metric", "first", "now", "course", box=box.SIMPLE_HEAD)
    for row in list_metrics(progress):
        metrics.add_row(*row)
    loads = Table.grid(padding=(0, 2))
    for load in list_loads(progress):
        bar = ProgressBar(total=1, completed=min(load.share, 1.0), width=BAR)
        loads.add_row(Text(load.name), bar, Text(load.text))
    warnings = [Text(f"warning: {text}", style="yellow") for text in progress.warnings]
    bar = ProgressBar(total=progress.total or 1, completed=progress.step, width=2 * BAR)
    return Group(Text(title + progress.describe(), style="bold"), bar, metrics, loads, *warnings)


def print_lines(progress: Progress) -> None:
    """The same as plain lines."""
    print(f"{show_path(progress.folder)}: {progress.describe()}")
    for label, first, now, _ in list_metrics(progress):
        print(f"{label}: {now} (first {first})")
    for load in list_loads(progress):
        print(f"{load.name}: {load.text}")
    for text in progress.warnings:
        print(f"warning: {text}")


def is_over(progress: Progress) -> bool:
    """Whether nothing more will come: finished, or its process is gone."""
    return progress.finished or not progress.running


def watch(logs: Path, seconds: float) -> None:
    """Redraw until the run ends."""
    from rich.live import Live

    progress = read_progress(logs)
    with Live(render(progress), auto_refresh=False) as live:
        while not is_over(progress):
            time.sleep(seconds)
            progress = read_progress(logs)
            live.update(render(progress), refresh=True)


def follow(logs: Path, seconds: float) -> None:
    """Print a line for each new record until the run ends, then where it stands."""
    seen, warned, progress = 0, 0, read_progress(logs)
    if not progress.records:
        print(f"{show_path(logs)}: {WAITING}", flush=True)
    while True:
        for record in progress.records[seen:]:
            if "loss" in record or "eval_loss" in record:
                print(describe_step(record), flush=True)
        for text in progress.warnings[warned:]:
            print(f"warning: {text}", flush=True)
        if is_over(progress):
            return print_lines(progress)
        seen, warned = len(progress.records), len(progress.warnings)
        time.sleep(seconds)
        progress = read_progress(logs)


def show(logs: Path, seconds: float, once: bool) -> None:
    """Draw or print, once or until the run ends."""
    from rich.console import Console

    progress, terminal = read_progress(logs), sys.stdout.isatty()
    if once or is_over(progress):
        Console().print(render(progress)) if terminal else print_lines(progress)
    else:
        (watch if terminal else follow)(logs, seconds)
        if not read_progress(logs).records and not is_running(logs):
            raise errors.UserError(f"{show_path(logs)}: the run ended before its first step")


def main() -> int:
    """Find the run, show it; Ctrl-C is the usual way out and needs no word."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", nargs="?", help="05_logs/<run> or its run folder")
    parser.add_argument("--every", type=float, default=2.0, help="seconds between redraws")
    parser.add_argument("--once", action="store_true", help="show it as it is now, and end")
    arguments = parser.parse_args()
    logs = find_logs(resolve_path(arguments.folder)) if arguments.folder else find_newest_logs()
    try:
        show(logs, max(0.2, arguments.every), arguments.once)
    except KeyboardInterrupt:
        return 0
    return 0


if __name__ == "__main__":
    errors.run_main(main)
