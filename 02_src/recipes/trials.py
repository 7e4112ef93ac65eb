"""One sweep: Optuna proposes, a process trains and evaluates, Optuna learns.

A trial's score is its validation grounding; among equals, less drift on neutral text wins. Every
result lies in Optuna's SQLite file; a trial that was cut off goes on with its own checkpoint.
"""

import json
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import Trial, TrialState

from checkpoints import find_checkpoint, read_finished_run
from config import Config, load_config, log_folder, resolve_path, write_text
from evaluation.report import read_evaluation
from recipes.search_space import Space, make_overrides, suggest
from recipes.stage import StageFailed, run_stage
from run_log import read_metrics

NEUTRAL_FILE = "01_data/study/neutral_passages.jsonl"  # no test item: trials are chosen by it
STORE = "optuna.db"
STARTUP_TRIALS = 4  # none is pruned before so many have ended
CONTINUES = "continues"  # user attribute: the trial whose folder an enqueued one goes on with


@dataclass(frozen=True)
class Sweep:
    """What all trials share."""

    name: str
    config_file: str
    given: dict[str, Any]  # overrides from the command line
    base: Config
    space: Space
    answers: int  # validation questions a trial is judged by

    @property
    def folder(self) -> Path:
        """05_logs/<name>."""
        return resolve_path(self.base.logging_dir) / self.name

    def make_config(self, number: int, values: dict[str, Any]) -> Config:
        """The config of trial `number`; its validation file is its test."""
        runs = Path(self.base.output_dir).parent / self.name
        places = {
            "output_dir": (runs / f"trial_{number}").as_posix(),
            "logging_dir": str(self.folder),
            "validation_answers": self.answers,
            "test_files": {"validation": self.base.validation_file, "drift": NEUTRAL_FILE},
        }
        overrides = {**self.given, **make_overrides(values, self.base), **places}
        return load_config(self.config_file, overrides)


def open_study(sweep: Sweep) -> optuna.Study:
    """The sweep's Optuna study; trials of a process that ended are put back into the queue."""
    sweep.folder.mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        study_name=sweep.name,
        storage=f"sqlite:///{sweep.folder / STORE}",
        direction="maximize",
        pruner=optuna.pruners.MedianPruner(n_startup_trials=STARTUP_TRIALS),
        load_if_exists=True,
    )
    # The seed moves on with every trial: a resumed sweep would else repeat its first proposals.
    study.sampler = optuna.samplers.TPESampler(seed=sweep.base.seed + len(study.trials))
    for trial in study.get_trials(states=[TrialState.RUNNING]):
        study.tell(trial.number, state=TrialState.FAIL)
        place = trial.user_attrs.get(CONTINUES, trial.number)
        study.enqueue_trial(trial.params, user_attrs={CONTINUES: place})
    return study


def run_trial(sweep: Sweep, study: optuna.Study) -> dict:
    """Ask, train, evaluate, tell; returns what became of it. A crash fails this trial only."""
    trial = study.ask()
    values = suggest(trial, sweep.space)
    known = find_equal(study, trial, values)
    if known is not None:
        for name, value in known.user_attrs.items():
            trial.set_user_attr(name, value)
        study.tell(trial, known.value)
        return {"trial": trial.number, "same_as": known.number}
    config = sweep.make_config(trial.user_attrs.get(CONTINUES, trial.number), values)
    try:
        return finish_trial(study, trial, config, sweep.answers)
    except StageFailed as error:
        trial.set_user_attr("error", str(error))
        study.tell(trial, state=TrialState.FAIL)
        return {"trial": trial.number, "failed": str(error)}


def finish_trial(study: optuna.Study, trial: Trial, config: Config, answers: int) -> dict:
    """Train and evaluate one trial, and tell Optuna."""
    folder = resolve_path(config.output_dir)
    if not train_trial(config, make_watch(trial, config)):
        study.tell(trial, state=TrialState.PRUNED)
        shutil.rmtree(folder, ignore_errors=True)
        return {"trial": trial.number, "pruned": True}
    figures = evaluate_trial(config, answers)
    for checkpoint in folder.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    for name, value in figures.items():
        trial.set_user_attr(name, value)
    study.tell(trial, score_trial(figures))
    return {"trial": trial.number, **figures}


def find_equal(study: optuna.Study, trial: Trial, values: dict) -> optuna.trial.FrozenTrial | None:
    """A finished trial with the same values: it is not trained a second time."""
    done = study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
    return next((other for other in done if other.params == values), None)


def train_trial(config: Config, should_stop: Callable[[], bool]) -> bool:
    """Train, go on from a checkpoint, or find it done; False when it was pruned."""
    if read_finished_run(config):
        return True
    settings = log_folder(config) / "config.json"
    folder = resolve_path(config.output_dir)
    resumes = settings.is_file() and folder.is_dir() and find_checkpoint(folder) is not None
    if not resumes:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(log_folder(config), ignore_errors=True)
    write_text(settings, json.dumps(config.model_dump(), indent=1) + "\n")
    arguments = ["--config", str(settings), *(["--resume"] if resumes else [])]
    return run_stage("train_dpo", arguments, name_log(config, "train"), None, should_stop)


def name_log(config: Config, stage: str) -> Path:
    """The file of a stage's output."""
    return log_folder(config) / f"{stage}.log"


def make_watch(trial: Trial, config: Config) -> Callable[[], bool]:
    """Reports each validation's grounding to Optuna; says whether the trial should be pruned."""
    told: set[int] = set()

    def should_stop() -> bool:
        for record in read_metrics(log_folder(config)):
            value, step = record.get("eval_grounding"), record.get("step")
            if value is not None and step not in told:
                told.add(step)
                trial.report(value, step)
        return bool(told and trial.should_prune())

    return should_stop


def evaluate_trial(config: Config, answers: int) -> dict[str, float]:
    """Grounding on the validation file and drift on neutral text, of a trained trial."""
    folder = resolve_path(config.output_dir)
    arguments = ["--run", str(folder), "--models", "adapter", "--limit", str(answers)]
    run_stage("evaluate_dpo", arguments, name_log(config, "evaluate"))
    splits = read_evaluation(folder)[0]["models"]["adapter"]["splits"]
    grounding = splits["validation"]["grounding"]
    return {
        "grounding": grounding["value"],
        "low": grounding["low"],
        "high": grounding["high"],
        "n": grounding["n"],
        "perplexity_ratio": splits["drift"]["perplexity_ratio"]["value"],
        "seconds": read_finished_run(config).seconds,
    }


def score_trial(figures: dict[str, float]) -> float:
    """Grounding, minus less than one answer's worth for drift: it decides between equals."""
    drift = abs(math.log(figures["perplexity_ratio"]))
    return figures["grounding"] - drift / (1 + drift) / (2 * figures["n"])


def list_ended(trials: Sequence[optuna.trial.FrozenTrial]) -> list[optuna.trial.FrozenTrial]:
    """Trials that ended by themselves; one that was cut off is run again and counts once."""
    ends = (TrialState.COMPLETE, TrialState.PRUNED)
    return [t for t in trials if t.state in ends or "error" in t.user_attrs]
