"""Train and evaluate the runs of a study, each stage in a process of its own, several at once."""

import json
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from checkpoints import read_finished_run
from config import Config, log_folder, resolve_path, write_text
from recipes.kept import hash_training_data, keep_run
from recipes.plan import UNTRAINED, StudyRun
from recipes.stage import StageFailed, run_stage
from run_log import METRICS_FILE


def run_all(
    runs: Sequence[StudyRun], out: Path, jobs: int, controls: bool, ends: float
) -> Iterator[list[dict]]:
    """Work through `runs`, `jobs` at a time; yield the headlines of each as it finishes.

    Args:
        controls: whether the first run measures the untrained controls too.
        ends: time.monotonic() after which no run is started.
    """
    with ThreadPoolExecutor(jobs) as pool:
        futures = [
            pool.submit(run_one, run, out, jobs, controls and i == 0, ends)
            for i, run in enumerate(runs)
        ]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def run_one(run: StudyRun, out: Path, jobs: int, controls: bool, ends: float) -> list[dict]:
    """Train, evaluate, keep; a failure becomes a line that says so."""
    if time.monotonic() > ends:
        return []
    threads = max(1, (os.cpu_count() or 1) // jobs)
    try:
        in_one_piece = train_run(run.config, threads)
        started = time.monotonic()
        models = [*(UNTRAINED if controls else ()), "adapter"]
        folder = resolve_path(run.config.output_dir)
        arguments = ["--run", str(folder), "--models", ",".join(models)]
        run_stage("evaluate_dpo", arguments, name_log(run.config, "evaluate"), threads)
    except StageFailed as error:
        return [{"recipe": run.recipe, "seed": run.seed, "failed": str(error)}]
    finished = read_finished_run(run.config)
    about = {
        "train_seconds": round(finished.seconds, 1) if in_one_piece else None,
        "evaluation_seconds": round(time.monotonic() - started, 1),
        "steps": finished.steps,
        "jobs": jobs,
    }
    return keep_run(out, run, folder, log_folder(run.config) / METRICS_FILE, about)


def train_run(config: Config, threads: int) -> bool:
    """Train unless that is done; go on from a checkpoint. Returns whether it was one piece: only
    then is its time known."""
    folder = resolve_path(config.output_dir)
    settings, data = folder.with_suffix(".json"), folder.with_suffix(".data.json")
    resumed = folder.with_suffix(".resumed")
    hashes = hash_training_data(config)
    same = holds(settings, config.model_dump()) and holds(data, hashes)
    if same and read_finished_run(config):
        return not resumed.is_file()
    resumes = same and any(folder.glob("checkpoint-*/trainer_state.json"))
    write_text(settings, json.dumps(config.model_dump(), indent=1) + "\n")
    write_text(data, json.dumps(hashes, indent=1) + "\n")
    resumed.touch() if resumes else resumed.unlink(missing_ok=True)
    how = "--resume" if resumes else "--overwrite"
    run_stage("train_dpo", ["--config", str(settings), how], name_log(config, "train"), threads)
    return not resumes


def holds(file: Path, value: dict) -> bool:
    """Whether a JSON file is there and says exactly this."""
    return file.is_file() and json.loads(file.read_text("utf-8")) == value


def name_log(config: Config, stage: str) -> Path:
    """The file of a stage's output, beside the run's log folder."""
    folder = log_folder(config)
    return folder.with_name(f"{folder.name}.{stage}.log")
