"""Train and evaluate the runs of a study, each stage in a process of its own, several at once."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from checkpoints import read_finished_run
from config import REPOSITORY, Config, log_folder, resolve_path, show_path, write_text
from recipes.kept import keep_run
from recipes.plan import UNTRAINED, StudyRun
from run_log import METRICS_FILE

LAST_LINES = 3  # of a failed stage's output, for the message


class StageFailed(Exception):
    """A stage ended with an error; the text says which, and where its output lies."""


def run_all(
    runs: Sequence[StudyRun], out: Path, jobs: int, controls: bool, ends: float
) -> Iterator[list[dict]]:
    """Work through `runs`, `jobs` at a time; yield the headlines of each as it finishes.

    Args:
        controls: whether the first run measures the untrained controls too.
        ends: time.monotonic() after which no run is started.
    """
    with ThreadPoolExecutor(jobs) as pool:
        threads = max(1, (os.cpu_count() or 1) // jobs)
        futures = [
            pool.submit(run_one, run, out, threads, controls and i == 0, ends)
            for i, run in enumerate(runs)
        ]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def run_one(run: StudyRun, out: Path, threads: int, controls: bool, ends: float) -> list[dict]:
    """Train, evaluate, keep; a failure becomes a line that says so."""
    if time.monotonic() > ends:
        return []
    try:
        seconds = train_run(run.config, threads)
        started = time.monotonic()
        models = [*(UNTRAINED if controls else ()), "adapter"]
        folder = resolve_path(run.config.output_dir)
        arguments = ["--run", str(folder), "--models", ",".join(models)]
        run_stage("evaluate_dpo", arguments, run.config, threads)
    except StageFailed as error:
        return [{"recipe": run.recipe, "seed": run.seed, "failed": str(error)}]
    finished = read_finished_run(run.config)
    about = {
        "train_seconds": round(finished.seconds, 1),
        "train_process_seconds": seconds,
        "evaluation_seconds": round(time.monotonic() - started, 1),
        "steps": finished.steps,
    }
    return keep_run(out, run, folder, log_folder(run.config) / METRICS_FILE, about)


def train_run(config: Config, threads: int) -> float | None:
    """Train unless that is done; go on from a checkpoint. Returns seconds of the process, None
    where the run was not made in one piece."""
    folder = resolve_path(config.output_dir)
    file = folder.with_suffix(".json")
    same = file.is_file() and json.loads(file.read_text("utf-8")) == config.model_dump()
    if same and read_finished_run(config):
        return None
    resumes = same and any(folder.glob("checkpoint-*/trainer_state.json"))
    write_text(file, json.dumps(config.model_dump(), indent=1) + "\n")
    started = time.monotonic()
    how = "--resume" if resumes else "--overwrite"
    run_stage("train_dpo", ["--config", str(file), how], config, threads)
    return None if resumes else round(time.monotonic() - started, 1)


def run_stage(stage: str, arguments: list[str], config: Config, threads: int) -> None:
    """Run a stage to its end, its output in the run's log folder.

    Raises:
        StageFailed: with the last lines of its output.
    """
    log = log_folder(config).with_name(f"{log_folder(config).name}.{stage}.log")
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, str(REPOSITORY / "02_src" / f"{stage}.py"), *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONUTF8": "1"}
    with log.open("w", encoding="utf-8") as stream:
        done = subprocess.run(
            command, stdout=stream, stderr=subprocess.STDOUT, env=environment, cwd=REPOSITORY,
            check=False,
        )  # fmt: skip
    if done.returncode:
        tail = " / ".join(log.read_text(encoding="utf-8").strip().splitlines()[-LAST_LINES:])
        raise StageFailed(f"{stage} ended with {done.returncode}, see {show_path(log)}: {tail}")
