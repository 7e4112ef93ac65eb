"""Run a stage (train_dpo, evaluate_dpo) in a process of its own: its crash ends nothing else."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from config import REPOSITORY, show_path

LAST_LINES = 3  # of a failed stage's output, for the message
POLL_SECONDS = 1.0
INTERRUPTED = 130  # how a stage ends that Ctrl-C stopped
SECONDS_TO_STOP = 120  # a stopped training ends its step and saves


class StageFailed(Exception):
    """A stage ended with an error; the text says which, and where its output lies."""


def run_stage(
    stage: str,
    arguments: list[str],
    log: Path,
    threads: int | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> bool:
    """Run a stage to its end; True when it got there, False when `should_stop` ended it.

    Args:
        log: file for its output.
        threads: OMP_NUM_THREADS; None leaves it.
        should_stop: asked every second.

    Raises:
        StageFailed: with the last lines of its output.
        KeyboardInterrupt: Ctrl-C stopped it; what it saved is there.
    """
    command = [sys.executable, str(REPOSITORY / "02_src" / f"{stage}.py"), *arguments]
    environment = {**os.environ, "PYTHONUTF8": "1"}
    if threads:
        environment["OMP_NUM_THREADS"] = str(threads)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") as stream:
        process = subprocess.Popen(
            command, stdout=stream, stderr=subprocess.STDOUT, env=environment, cwd=REPOSITORY
        )
        try:
            code = wait(process, should_stop)
        except KeyboardInterrupt:
            process.wait(SECONDS_TO_STOP)  # it got the same Ctrl-C and saves
            raise
    if code == INTERRUPTED:
        raise KeyboardInterrupt
    if code:
        tail = " / ".join(log.read_text(encoding="utf-8").strip().splitlines()[-LAST_LINES:])
        raise StageFailed(f"{stage} ended with {code}, see {show_path(log)}: {tail}")
    return code is not None


def wait(process: subprocess.Popen, should_stop: Callable[[], bool]) -> int | None:
    """The exit code; None when it was stopped on purpose."""
    while True:
        try:
            return process.wait(POLL_SECONDS)
        except subprocess.TimeoutExpired:
            if should_stop():
                stop(process)
                return None


def stop(process: subprocess.Popen) -> None:
    """End a process whose result is not wanted."""
    process.terminate()
    try:
        process.wait(SECONDS_TO_STOP)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
