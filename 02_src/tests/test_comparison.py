"""Runs side by side: what differs in their configs, what came of it, one line per run."""

import json
from pathlib import Path

import pytest
from matplotlib.image import imread

from config import load_run_config, log_folder, resolve_path, save_config
from errors import UserError
from run_comparison import compare_runs, plot_runs, sum_seconds
from run_log import RunLog, read_metrics


@pytest.fixture(scope="module")
def folders(train_tiny, tiny_config) -> list[Path]:
    """Run folders of two real runs that differ in their learning rate."""
    for name, rate in (("slow", 1e-4), ("quick", 5e-3)):
        train_tiny(name, learning_rate=rate, validation_answers=2)
    return [resolve_path(tiny_config(name).output_dir) for name in ("slow", "quick")]


def test_the_table_says_what_differs_and_what_came_of_it(folders):
    table = compare_runs(folders)
    assert list(table.index) == ["slow", "quick"]
    assert list(table["learning_rate"]) == [1e-4, 5e-3]
    assert not {"lora_r", "output_dir", "logging_dir"} & set(table)
    assert list(table["steps"]) == [4, 4] and (table["seconds"] > 0).all()
    records = read_metrics(log_folder(load_run_config(folders[1])))
    last = [record for record in records if "loss" in record][-1]
    shown = {"loss": "loss", "rewards/margins": "margin", "logps/rejected": "rejected logp"}
    for name, label in shown.items():
        assert table.loc["quick", label] == last[name] != table.loc["slow", label]
    assert table["validation: says it right"].between(0, 1).all()
    assert not [column for column in table if column.startswith("seen")]


def test_a_log_folder_and_a_run_folder_name_the_same_run(folders):
    logs = [log_folder(load_run_config(folder)) for folder in folders]
    table = compare_runs([folders[0], logs[0], logs[1]])
    assert len(set(table.index)) == 3  # the same name twice is told apart by its path
    assert table["loss"].iloc[0] == table["loss"].iloc[1]
    assert "learning_rate" not in table  # a log outside 05_logs does not know its config


def test_evaluation_figures_come_with_their_intervals(folders):
    share = {"value": 0.75, "low": 0.5, "high": 0.9, "n": 20}
    empty = {"value": None, "low": 0.0, "high": 1.0, "n": 0}
    ratio = {"value": 1.1, "low": 1.05, "high": 1.15}
    splits = {
        "seen": {"grounding": share, "confusion": empty},
        "drift": {"perplexity_ratio": ratio},
    }
    report = {"models": {"base": {"splits": {}}, "adapter": {"splits": splits}}}
    file = folders[0] / "evaluation.json"
    file.write_text(json.dumps(report), encoding="utf-8")
    table = compare_runs(folders)
    assert table.loc["slow", "seen: says it right"] == "75.0% (50.0%-90.0%, n=20)"
    assert table.loc["slow", "drift: perplexity, times the base's"] == "1.100 (1.050-1.150)"
    assert "seen: another sense" not in table and table["seen: says it right"].isna()["quick"]
    file.write_text('{"models": 3}', encoding="utf-8")
    with pytest.raises(UserError, match="evaluation.json: not a report"):
        compare_runs(folders)
    file.unlink()


def test_the_seconds_of_a_resumed_run_are_added_up():
    assert sum_seconds([{"seconds": s} for s in (1.0, 5.0, 2.0, 3.5)]) == 8.5
    assert sum_seconds([{"step": 1}]) == 0


def test_the_figure_shows_each_run(folders, tmp_path):
    one, both = (plot_runs(folders[:n], tmp_path / f"{n}.png") for n in (1, 2))
    assert [file.name for file in sorted(tmp_path.iterdir())] == ["1.png", "2.png"]
    assert imread(one).shape[2] == 4 and (imread(one)[0, 0, 3] == 0)  # transparent
    assert imread(both).shape != imread(one).shape or (imread(both) != imread(one)).any()


def test_a_folder_that_is_no_run_is_named_with_the_next_step(folders, tmp_path):
    empty, begun = tmp_path / "empty", tmp_path / "begun"
    empty.mkdir()
    config = load_run_config(folders[0]).model_copy(
        update={"output_dir": str(begun), "logging_dir": str(tmp_path / "logs")}
    )
    save_config(config, begun)
    for folder, problem in (
        (tmp_path / "none", "none: no such folder; runs are in"),
        (empty, "empty: holds neither metrics.jsonl nor run_config.json; name"),
        (begun, "begun: no metrics yet; train first"),
    ):
        with pytest.raises(UserError, match=problem):
            compare_runs([folders[0], folder])
    RunLog(tmp_path / "logs" / "begun").write_metrics({"step": 1, "loss": None})
    assert compare_runs([begun])["loss"].isna().all()


def test_the_command_prints_and_writes_all_three(folders, run_stage, tmp_path):
    done = run_stage("03_scripts/compare_runs.py", *folders, "--out", tmp_path / "out")
    assert done.rc == 0, done.err
    assert "learning_rate" in done.out and "slow" in done.out and "0.005" in done.out
    written = {file.name: file.stat().st_size for file in (tmp_path / "out").iterdir()}
    assert set(written) == {"runs.csv", "runs.md", "runs.png"} and min(written.values()) > 100
    assert "| learning_rate | 0.0001 | 0.005 |" in (tmp_path / "out" / "runs.md").read_text()
    wrong = run_stage("03_scripts/compare_runs.py", folders[0], tmp_path / "none")
    assert wrong.rc == 2 and len(wrong.err.strip().splitlines()) == 1 and "none" in wrong.err
