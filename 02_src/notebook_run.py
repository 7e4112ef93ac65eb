"""What the notebook's cells call: the stages, unless their result is there already.

    run = train_or_show(trainer, config, retrain=False)
    report, records = evaluate_or_show(run)

A stop is a UserError, which a notebook shows as one line and which ends "run all".
"""

import json
import shutil
from pathlib import Path

from checkpoints import Run, clear_output, list_checkpoints, read_finished_run
from config import Config, load_config, log_folder, merged_folder, resolve_path, show_path
from errors import UserError
from evaluate_dpo import evaluate
from evaluation.report import REPORT_FILE, read_evaluation
from live_view import LiveFigure
from merge_lora import REPORT_FILE as MERGE_FILE
from merge_lora import merge
from run_lock import hold_run
from train_dpo import train


def start_again(config: Config, wanted: bool) -> None:
    """Delete the config's run when that is `wanted`; called before anything is built."""
    if wanted and (resolve_path(config.output_dir).exists() or log_folder(config).exists()):
        print(f"RETRAIN: deleting {show_path(config.output_dir)} and its logs")
        clear_output(config)
        shutil.rmtree(merged_folder(config), ignore_errors=True)


def train_or_show(trainer, config: Config) -> Run:
    """Train with a live figure, or go on where a run stopped; a finished run is only shown.

    Raises:
        UserError: training was interrupted; everything is kept and the text says how to go on.
    """
    from transformers.integrations import TensorBoardCallback

    figure = LiveFigure(log_folder(config))
    finished = read_finished_run(config)
    if finished:
        print(f"{show_path(finished.folder)}: finished before, shown and not trained again")
        figure.show(f"{finished.steps} steps, {finished.seconds / 60:.1f} min")
        return finished
    folder = resolve_path(config.output_dir)
    figure.join(trainer)
    trainer.remove_callback(TensorBoardCallback)  # of an interrupted cell; train() adds one
    try:
        with hold_run(folder):
            run = train(trainer, config, resume=bool(list_checkpoints(folder)))
    except KeyboardInterrupt:
        raise UserError(describe_stop(folder)) from None
    if not run.finished:
        raise UserError(describe_stop(folder))
    return run


def describe_stop(folder: Path) -> str:
    """What an interrupted training left, and how to go on."""
    kept = list_checkpoints(folder)
    where = f"{kept[-1].name} is kept" if kept else "there was no checkpoint yet"
    return (
        f"training was interrupted; {where}: run this cell again to go on, or "
        "python 02_src/train_dpo.py --config CONFIG --resume"
    )


def evaluate_or_show(run: Run) -> tuple[dict, list[dict]]:
    """(report, judged records) of base and adapter; a finished evaluation is read from disk."""
    if (run.folder / REPORT_FILE).is_file():
        report, records = read_evaluation(run.folder)
        if {"base", "adapter"} <= set(report["models"]):
            print(f"{show_path(run.folder / REPORT_FILE)}: evaluated before, shown")
            return report, records
    evaluate(run.folder)
    return read_evaluation(run.folder)


def merge_or_show(run: Run) -> tuple[Path, dict]:
    """(folder, merge report) of the merged model; a merge of the same adapter is not repeated."""
    folder = merge(run.folder)
    return folder, json.loads((folder / MERGE_FILE).read_text(encoding="utf-8"))


def change(config_file: str, config: Config, name: str, **keys) -> Config:
    """The config file with other `keys`, for a run of its own beside the first.

    Args:
        config: the first run's, whose folders the new one stands beside.
        name: joined to the first run's name.
    """
    output = resolve_path(config.output_dir)
    place = {"output_dir": str(output.with_name(f"{output.name}_{name}"))}
    return load_config(config_file, keys | place)


def train_variant(config: Config, device, data) -> Run:
    """Load the base anew and train another config on the same data, from adapter to run."""
    from qlora import load_policy
    from trainer_setup import build_trainer

    if finished := read_finished_run(config):
        print(f"{show_path(finished.folder)}: finished before, shown and not trained again")
        return finished
    trainer = build_trainer(config, device, *load_policy(config, device), data)
    return train_or_show(trainer, config)
