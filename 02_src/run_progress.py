"""How far a run is, read from what it writes: metrics.jsonl, training.log and its lock.

progress = read_progress(Path("05_logs/quickstart"))
"""

import re
import time
from dataclasses import dataclass, field
from pathlib import Path

from config import REPOSITORY, RUN_CONFIG, load_run_config, log_folder, show_path
from errors import UserError
from run_lock import is_held
from run_log import METRICS_FILE, TEXT_LOG, read_metrics

QUIET = 300.0  # seconds without a line after which a run that holds no lock counts as stopped
PLAN_LINE = re.compile(r"memory plan \((.+?)\), .*: ([\d.]+) GiB of [\d.]+")
PEAKS_LINE = re.compile(r"  peaks allocated, GiB: (.+)")


@dataclass(frozen=True)
class Progress:
    """A run at one moment."""

    folder: Path
    records: list[dict] = field(default_factory=list)  # those with a step
    warnings: list[str] = field(default_factory=list)
    planned_gib: float | None = None  # of what memory_gib in the records counts
    age: float = 0.0  # seconds since the last line
    running: bool = False

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        return self.records[-1]["step"] if self.records else 0

    @property
    def total(self) -> int:
        """Optimizer steps planned; 0 while it is not known."""
        return (self.records[-1].get("max_steps") or 0) if self.records else 0

    @property
    def finished(self) -> bool:
        """Whether the last step is done and the trainer has closed its books."""
        ends = [record["step"] for record in self.records if "train_runtime" in record]
        return bool(self.total and ends and max(ends) >= self.total)

    @property
    def seconds_left(self) -> float | None:
        """By the pace of this session: a resumed run's clock starts again."""
        timed = [r for r in self.records if r.get("seconds") is not None]
        starts = [i for i in range(1, len(timed)) if timed[i]["seconds"] < timed[i - 1]["seconds"]]
        timed = timed[starts[-1] if starts else 0 :]
        steps = timed[-1]["step"] - timed[0]["step"] if timed else 0
        if not self.total or not steps:
            return None
        pace = (timed[-1]["seconds"] - timed[0]["seconds"]) / steps
        return max(0.0, pace * (self.total - self.step) - self.age)

    def describe(self) -> str:
        """One line: where it is and how it stands."""
        share = f" of {self.total} ({self.step / self.total:.0%})" if self.total else ""
        line = f"step {self.step}{share}"
        if self.finished:
            return f"{line}, finished"
        if not self.running:
            return f"{line}, stopped; train_dpo.py --resume goes on from its checkpoint"
        left = self.seconds_left
        return line if left is None else f"{line}, about {format_seconds(left)} left"


def format_seconds(seconds: float) -> str:
    """Seconds, minutes and seconds, or hours and minutes."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def read_progress(logs: Path) -> Progress:
    """The run that logs into `logs`, now."""
    records = read_metrics(logs)
    file = logs / METRICS_FILE
    age = time.time() - file.stat().st_mtime if file.is_file() else 0.0
    return Progress(
        folder=logs,
        records=[record for record in records if isinstance(record.get("step"), int)],
        warnings=[str(r["text"]) for r in records if r.get("warning") and r.get("text")],
        planned_gib=read_plan(logs),
        age=age,
        running=is_running(logs) or (file.is_file() and age < QUIET),
    )


def read_plan(logs: Path) -> float | None:
    """GiB the newest memory plan of training.log allows for; None where it has none.

    A GPU's records count what torch allocated, a CPU's the whole process: so does this.
    """
    file = logs / TEXT_LOG
    text = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
    plans = list(PLAN_LINE.finditer(text))
    if not plans:
        return None
    peaks = PEAKS_LINE.search(text, plans[-1].end())
    if plans[-1][1] == "GPU memory" and peaks:
        return max(map(float, re.findall(r"[\d.]+", peaks[1])))
    return float(plans[-1][2])


def list_run_folders(logs: Path) -> list[Path]:
    """Where the run of a log folder may write, begun or not: folders of its name."""
    return [
        folder / logs.name for folder in (REPOSITORY / "04_models").glob("*") if folder.is_dir()
    ]


def is_running(logs: Path) -> bool:
    """Whether a living process holds the run."""
    return any(is_held(folder) for folder in list_run_folders(logs))


def find_logs(folder: Path) -> Path:
    """The log folder of a log or run folder, which may be still to come.

    Raises:
        UserError: there are no metrics, and no process that is about to write some.
    """
    logs = log_folder(load_run_config(folder)) if (folder / RUN_CONFIG).is_file() else folder
    if (logs / METRICS_FILE).is_file() or is_running(logs):
        return logs
    if not folder.is_dir():
        raise UserError(f"{show_path(folder)}: no such log folder; see 05_logs/")
    raise UserError(
        f"{show_path(logs)}: holds no {METRICS_FILE}, and no run is writing there; "
        "train first: python 02_src/train_dpo.py --help"
    )


def find_newest_logs() -> Path:
    """The log folder of a run that is starting, else the one written to last."""
    known = REPOSITORY / "05_logs"
    for lock in sorted((REPOSITORY / "04_models").glob("*/.*.lock")):
        name = lock.name.removeprefix(".").removesuffix(".lock")
        if is_held(lock.with_name(name)):
            return known / name
    files = sorted(known.glob(f"*/{METRICS_FILE}"), key=lambda file: file.stat().st_mtime)
    if not files:
        raise UserError("05_logs: no run yet; train first: python 02_src/train_dpo.py --help")
    return files[-1].parent
