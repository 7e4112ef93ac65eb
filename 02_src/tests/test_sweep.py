# ruff: noqa: F811 (fixtures are imported by name)
"""The sweep: search spaces, pruning and resuming with a real Optuna store; one real tiny trial."""

import json
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState
from small_run import write_rows
from tiny_run import tiny_config  # noqa: F401

from config import load_config, log_folder
from errors import UserError
from recipes.search_space import DEFAULT_SPACE, check_space, load_space, make_overrides
from recipes.stage import StageFailed, run_stage
from recipes.sweep_report import write_reports
from recipes.trials import (
    STARTUP_TRIALS,
    Sweep,
    list_ended,
    make_watch,
    open_study,
    run_trial,
    score_trial,
)
from run_log import RunLog

QUICKSTART = "00_configs/quickstart.json"
SPACE = {"learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}, "lora_r": {"choices": [8, 16]}}


@pytest.fixture(name="run_script")
def rename_run_stage(run_stage):
    """The fixture that runs a script, beside the function of the same name."""
    return run_stage


@pytest.fixture
def sweep(tmp_path) -> Sweep:
    """A sweep over the quickstart's config, its files in a temporary folder."""
    file = tmp_path / "space.json"
    file.write_text(json.dumps(SPACE))
    given = {"logging_dir": str(tmp_path / "logs"), "output_dir": str(tmp_path / "runs" / "x")}
    space = load_space(file)
    return Sweep("trying", QUICKSTART, given, check_space(space, QUICKSTART, given), space, 8)


def add_trial(study: optuna.Study, rate: float, grounding: float, ratio: float, **values) -> None:
    """A finished trial with its figures."""
    figures = {"grounding": grounding, "perplexity_ratio": ratio, "n": 8}
    study.enqueue_trial({"learning_rate": rate, "lora_r": 8})
    trial = study.ask()
    trial.suggest_float("learning_rate", 1e-4, 1e-2, log=True)
    trial.suggest_categorical("lora_r", [8, 16])
    for name, value in {**figures, "low": 0.1, "high": 0.9, "seconds": 3.0}.items():
        trial.set_user_attr(name, value)
    for step, value in values.get("steps", {}).items():
        trial.report(value, step)
    study.tell(trial, score_trial(figures))


@pytest.mark.parametrize(
    ("space", "problem"),
    [
        ({"lerning_rate": {"low": 1, "high": 2}}, "did you mean learning_rate"),
        ({"learning_rate": {"low": 2, "high": 1}}, "low below high"),
        ({"learning_rate": {"low": 0, "high": 1, "log": True}}, "log needs low above 0"),
        ({"lora_r": {"choices": []}}, "give choices"),
        ({"lora_r": {"values": [1]}}, "lora_r"),
        ({}, "names no key"),
    ],
)
def test_a_wrong_search_space_is_refused_with_the_key(tmp_path, space, problem):
    file = tmp_path / "space.json"
    file.write_text(json.dumps(space))
    with pytest.raises(UserError, match=f"space.json.*{problem}"):
        load_space(file)


@pytest.mark.parametrize(
    ("script", "arguments", "problem"),
    [
        ("sweep", ["--trials", "0"], "--trials 0: must be 1 or more"),
        ("sweep", ["--set", "validation_file=null"], "validation_file: a sweep needs one"),
        ("study", ["no_folder"], "no_folder/recipes.json: no such"),
    ],
)
def test_scripts_refuse_wrong_usage_in_one_line(run_script, script, arguments, problem):
    done = run_script(f"03_scripts/{script}.py", *arguments)
    assert done.rc == 2 and problem in done.err and len(done.err.strip().splitlines()) == 1


def test_a_sweep_needs_validation_rows_that_say_what_is_right(tmp_path, run_script):
    rows = [{"instruction": "What is DP?", "chosen": "Dynamic Positioning.", "rejected": "Data."}]
    file = write_rows(tmp_path / "validation.jsonl", rows)
    done = run_script("03_scripts/sweep.py", "--set", f"validation_file={file}")
    assert done.rc == 2 and "no row lists accepted expansions" in done.err


def test_values_no_config_may_have_are_refused_before_the_first_trial(tmp_path):
    file = tmp_path / "space.json"
    file.write_text(json.dumps({"dpo_beta": {"low": 0.1, "high": 1000.0}}))
    with pytest.raises(UserError, match="dpo_beta: must be <= 100"):
        check_space(load_space(file), QUICKSTART, {})
    only_dpo = {"loss_type": "sigmoid", "loss_weights": None}
    with pytest.raises(UserError, match="sft_weight: needs loss_type"):
        check_space(load_space(None), QUICKSTART, only_dpo)
    with pytest.raises(UserError, match="validation_file: a sweep needs one"):
        check_space(load_space(None), QUICKSTART, {"validation_file": None})


def test_the_default_space_covers_the_five_and_sets_what_goes_with_them():
    base = check_space(load_space(None), QUICKSTART, {})
    assert list(DEFAULT_SPACE) == [
        "learning_rate", "sft_weight", "dpo_beta", "lora_r", "num_train_epochs"
    ]  # fmt: skip
    found = make_overrides({"lora_r": 64, "sft_weight": 0.5}, base)
    assert found == {"lora_r": 64, "lora_alpha": 128, "loss_weights": [1.0, 0.5]}
    assert make_overrides({"lora_r": 8, "lora_alpha": 8}, base)["lora_alpha"] == 8


def test_drift_decides_between_equals_and_never_against_an_answer_more():
    def score(right: int, ratio: float) -> float:
        return score_trial({"grounding": right / 64, "n": 64, "perplexity_ratio": ratio})

    assert score(60, 1.02) > score(60, 1.4) > score(59, 1.0)
    assert score(60, 1e6) > score(59, 1.0) and score(60, 1.0) == 60 / 64


def test_a_stage_is_stopped_when_asked_and_a_failed_one_says_where_to_look(tmp_path):
    log = tmp_path / "stage.log"
    arguments = ["--config", QUICKSTART, "--set", f"output_dir={tmp_path}/run", "--dry_run"]
    assert run_stage("train_dpo", arguments, log, threads=1, should_stop=lambda: True) is False
    with pytest.raises(StageFailed, match=r"evaluate_dpo ended with 2, see .*stage.log: error: "):
        run_stage("evaluate_dpo", ["--run", str(tmp_path)], log)


@pytest.mark.parametrize(("grounding", "stops"), [(0.1, True), (0.9, False)])
def test_a_trial_below_the_median_is_pruned_by_what_training_reports(sweep, grounding, stops):
    study = open_study(sweep)
    for i in range(STARTUP_TRIALS):
        add_trial(study, 1e-3 * (i + 1), 0.6, 1.0, steps={4: 0.5, 8: 0.6})
    trial = study.ask()
    config = sweep.make_config(trial.number, {"learning_rate": 1e-3, "lora_r": 8})
    watch = make_watch(trial, config)
    assert not watch()
    RunLog(log_folder(config)).write_metrics({"step": 4, "eval_grounding": grounding})
    assert watch() is stops
    assert study.trials[-1].intermediate_values == {4: grounding}


def test_a_cut_off_trial_goes_on_in_its_own_folder(sweep):
    study = open_study(sweep)
    trial = study.ask()
    value = trial.suggest_float("learning_rate", 1e-4, 1e-2, log=True)
    again = open_study(sweep)
    assert list_ended(again.trials) == []
    trial = again.ask()
    assert trial.suggest_float("learning_rate", 1e-4, 1e-2, log=True) == value
    assert trial.user_attrs["continues"] == 0
    again = open_study(sweep)  # cut off once more
    assert again.ask().user_attrs["continues"] == 0


def test_a_resumed_sweep_proposes_something_new(sweep):
    first = open_study(sweep).ask().suggest_float("dpo_beta", 0.1, 1.0)
    study = open_study(sweep)
    study.ask()  # the one that was cut off
    assert study.ask().suggest_float("dpo_beta", 0.1, 1.0) != first


def test_equal_values_are_not_trained_twice(sweep):
    study = open_study(sweep)
    add_trial(study, 2e-3, 0.75, 1.1)
    study.enqueue_trial({"learning_rate": 2e-3, "lora_r": 8})
    assert run_trial(sweep, study) == {"trial": 1, "same_as": 0}
    assert study.trials[1].value == study.trials[0].value


def test_reports_put_the_best_first_and_give_a_config_to_train(sweep):
    study = open_study(sweep)
    assert write_reports(sweep, study) is None
    add_trial(study, 1e-3, 0.5, 1.0)
    add_trial(study, 2e-3, 0.75, 1.3)
    add_trial(study, 3e-3, 0.75, 1.1)
    study.tell(study.ask().number, state=TrialState.FAIL)  # cut off: not shown
    assert write_reports(sweep, study).number == 2
    rows = (sweep.folder / "sweep.md").read_text().splitlines()
    assert [row.split(" | ")[0] for row in rows[4:]] == ["| 2", "| 1", "| 0"]
    assert "75 % (10 % to 90 %, n 8) | 1.100 | 3 |" in rows[4]
    assert (sweep.folder / "sweep.png").read_bytes().startswith(b"\x89PNG")
    best = load_config(sweep.folder / "best.json")
    assert (best.learning_rate, best.lora_r, best.lora_alpha) == (3e-3, 8, 16)
    assert best.output_dir.endswith("runs/trying_best") and best.test_files.keys() >= {"seen"}


def test_a_sweep_trains_and_judges_in_processes(tiny_config, tmp_path, run_script):
    config = tiny_config("sweep_base", max_steps=2, validation_answers=0, max_new_tokens=4)
    space = tmp_path / "space.json"
    space.write_text(json.dumps({"learning_rate": {"choices": [1e-3]}}))
    file = str(Path(config.logging_dir).parent / "sweep_base.json")
    arguments = [
        "--config", file, "--search", str(space), "--answers", "2", "--set",
        f"logging_dir={tmp_path}", "--set", f"output_dir={tmp_path}/runs/x",
    ]  # fmt: skip
    done = run_script("03_scripts/sweep.py", *arguments, "--trials", "1")
    assert done.rc == 0, done.err
    trial = json.loads(done.out.splitlines()[0])
    assert trial["n"] == 2 and trial["grounding"] == 0.0 and 0.5 < trial["perplexity_ratio"] < 2
    names = {file.name for file in (tmp_path / "sweep" / "trial_0").iterdir()}
    assert names >= {"metrics.jsonl", "config.json", "train.log", "evaluate.log"}
