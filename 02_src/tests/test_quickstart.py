"""quickstart.py: which stages are done, what each runs, how to go on, the closing tables.

Stages are not run here: files stand for their results.
"""

import hashlib
import importlib
import json
import os
import sys
from argparse import Namespace
from pathlib import Path

import pytest

from config import REPOSITORY, load_config, log_folder, merged_folder

SCRIPTS = REPOSITORY / "03_scripts"
sys.path.insert(0, str(SCRIPTS))
find_python = importlib.import_module("find_python")
stages = importlib.import_module("quickstart_stages")
report = importlib.import_module("quickstart_report")
runner = importlib.import_module("quickstart_run")

QUICKSTART = "00_configs/quickstart.json"
SHARE = {"value": 0.975, "low": 0.8712, "high": 0.9956, "n": 40}


@pytest.fixture
def places(tmp_path: Path):
    """Places of a config whose folders are all in tmp_path."""
    values = {"model_name": "embedded:small", "output_dir": str(tmp_path / "runs" / "one")}
    values |= {"merged_dir": str(tmp_path / "merged"), "learning_rate": 2e-3}
    file = tmp_path / "mine.json"
    file.write_text(json.dumps(values), encoding="utf-8")
    return stages.read_places(str(file))


def write_result(file: Path, content: dict, seconds: int) -> None:
    """A stage's result, written `seconds` after the first one."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content), encoding="utf-8")
    os.utime(file, (1_700_000_000 + seconds,) * 2)


def finish_training(places, seconds: int = 0, adapter: bytes = b"first", **config) -> None:
    """A finished run."""
    write_result(places.run / "run_config.json", {**places.values, **config}, seconds)
    (places.run / "adapter_model.safetensors").write_bytes(adapter)
    write_result(places.run / "training_summary.json", {}, seconds)


def finish_merging(places, adapter: bytes = b"first") -> None:
    """A merged model."""
    digest = hashlib.sha256(adapter).hexdigest()
    write_result(places.merged / "merge_report.json", {"adapter_sha256": digest}, 2)


def list_done(places) -> list[str]:
    """Names of the stages that count as done."""
    return [name for name, stage in stages.STAGES.items() if stage.find_done(places)]


def test_stages_are_those_of_the_command_line():
    names = importlib.import_module("quickstart").STAGES
    assert names == (runner.FIRST_STAGE, *stages.STAGES)


def test_places_agree_with_the_toolkits_own():
    places, config = stages.read_places(QUICKSTART), load_config(QUICKSTART)
    assert places.run == REPOSITORY / config.output_dir
    assert (places.merged, places.logs) == (merged_folder(config), log_folder(config))
    assert places.config == QUICKSTART


def test_places_without_folders_take_the_configs_defaults(tmp_path):
    file = tmp_path / "short.json"
    file.write_text("{}")
    assert stages.read_places(str(file)).run == REPOSITORY / load_config(file).output_dir


@pytest.mark.parametrize(
    ("text", "expected"), [(None, "no such file"), ("{", "not valid JSON"), ("[]", "one JSON obj")]
)
def test_bad_config_is_one_line(tmp_path, text, expected):
    file = tmp_path / "bad.json"
    if text:
        file.write_text(text)
    with pytest.raises(find_python.SetupError, match=expected):
        stages.read_places(str(file))


def test_each_result_marks_its_stage_done(places):
    assert list_done(places) == []
    finish_training(places)
    assert list_done(places) == ["train"]
    write_result(places.run / "evaluation.json", {"models": {"base": {}, "adapter": {}}}, 1)
    finish_merging(places)
    assert list_done(places) == ["train", "evaluate", "merge"]
    write_result(places.merged / "evaluation.json", {"models": {"merged": {}}}, 3)
    assert list_done(places) == ["train", "evaluate", "merge", "ask"]


def test_training_again_makes_later_results_stale(places):
    write_result(places.run / "evaluation.json", {"models": {"base": {}, "adapter": {}}}, 1)
    finish_merging(places)
    finish_training(places, seconds=5, adapter=b"second")
    assert list_done(places) == ["train"]


def test_the_same_adapter_again_needs_no_merge(places):
    finish_merging(places)
    finish_training(places, seconds=5)
    assert list_done(places) == ["train", "merge"]


def test_evaluation_of_one_model_is_not_enough(places):
    finish_training(places)
    write_result(places.run / "evaluation.json", {"models": {"base": {}}}, 1)
    assert list_done(places) == ["train"]


def test_a_run_with_another_config_says_so(places):
    finish_training(places, learning_rate=1e-4, seed=1)
    assert "another learning_rate; --overwrite" in stages.STAGES["train"].find_done(places)


def test_hub_model_needs_no_model_stage(tmp_path):
    file = tmp_path / "hub.json"
    file.write_text('{"model_name": "some/model"}')
    done = stages.STAGES["model"].find_done(stages.read_places(str(file)))
    assert done == "the train stage loads some/model"


def test_unfinished_run_is_resumed(places):
    build = stages.STAGES["train"].build_command
    assert build(places) == ["02_src/train_dpo.py", "--config", places.config]
    (places.run / "checkpoint-20").mkdir(parents=True)
    assert build(places)[-1] == "--resume"


def test_stage_scripts_exist():
    places = stages.read_places(QUICKSTART)
    for stage in stages.STAGES.values():
        assert (REPOSITORY / stage.build_command(places)[0]).is_file()


def test_next_command_repeats_the_options(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["03_scripts/quickstart.py"])
    arguments = Namespace(config="my run.json", python=None, torch_index="https://example.org")
    setup = runner.build_next_command("setup", arguments)
    assert setup.endswith("--torch-index https://example.org") and "keep-going" not in setup
    assert runner.build_next_command("merge", arguments).endswith("--keep-going-from merge")


def test_a_failing_stage_ends_with_its_code_and_the_way_on(monkeypatch, places, capsys):
    monkeypatch.setattr(sys, "argv", ["03_scripts/quickstart.py"])
    monkeypatch.setattr(sys.stdout, "reconfigure", lambda **options: None, raising=False)
    monkeypatch.setattr(runner, "is_usable", lambda python: True)
    monkeypatch.setattr(runner, "run_command", lambda name, places: 7 if name == "train" else 0)
    arguments = Namespace(
        config=places.config, python=None, torch_index=None, keep_going_from="model"
    )
    assert runner.run_quickstart(arguments, (runner.FIRST_STAGE, *stages.STAGES)) == 7
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("[2/6] model: fetch") and lines[2].startswith("[3/6] train: train")
    assert lines[-1].startswith("train: failed with exit code 7; go on with: ")
    assert lines[-1].endswith("--keep-going-from train")


def test_report_compares_base_and_merged(places, capsys):
    items = [
        {"model": model, "split": "seen", "id": str(i), "instruction": f"Q{i}?", "answer": model}
        for model in ("base", "adapter", "merged")
        for i in range(40)
    ]
    figures = {"splits": {"seen": {"n": 40, "grounding": SHARE}}}
    before = {**SHARE, "value": 0.0}
    base = {"splits": {"seen": {"n": 40, "grounding": before}}}
    for folder, models in ((places.run, {"base": base}), (places.merged, {"merged": figures})):
        write_result(folder / "evaluation.json", {"models": models}, 0)
        lines = "".join(json.dumps(item) + "\n" for item in items)
        (folder / "evaluation_items.jsonl").write_text(lines, encoding="utf-8")
    report.print_report(places)
    out = capsys.readouterr().out
    assert "8 of 40 held-out questions" in out and "Q35?" in out and "Q36?" not in out
    assert "adapter  " in out and str(places.merged) in out
    assert (
        "grounding accuracy on 40 held-out questions: base 0.0 % -> merged 97.5 % "
        "(95 % interval 87.1 % to 99.6 %)" in out
    )


def test_shown_questions_differ_in_their_abbreviation(places, capsys):
    item = {"split": "seen", "answer": "a"}
    names = [(n, f"{n}{i}") for i in "xy" for n in ("ROP", "BOP")]
    rows = [{**item, "abbreviation": n, "id": i, "instruction": f"{i}?"} for n, i in names]
    for folder, model in ((places.run, "base"), (places.merged, "merged")):
        write_result(folder / "evaluation.json", {"models": {model: {"splits": {}}}}, 0)
        lines = "".join(json.dumps({**row, "model": model}) + "\n" for row in rows)
        (folder / "evaluation_items.jsonl").write_text(lines, encoding="utf-8")
    report.print_report(places)
    out = capsys.readouterr().out
    assert "2 of 4 held-out questions" in out
    assert [out.count(f"{name}y?") for name in ("ROP", "BOP")] == [1, 1] and "x?" not in out


def test_split_names_appear_when_there_are_several():
    splits = {"seen": {"grounding": SHARE}, "unseen": {"grounding": SHARE}}
    lines = report.describe_grounding(splits, splits)
    assert "questions (seen): base" in lines[0] and "questions (unseen): base" in lines[1]


def test_table_wraps_and_shortens_cells():
    rows = [("What is ROP?", "word " * 60, ""), ("x", "y", "z")]
    lines = report.render_table(("question", "base", "merged"), rows, 62).splitlines()
    assert lines[0].split() == ["question", "base", "merged"]
    assert max(map(len, lines)) <= 62
    assert " ..." in "\n".join(lines) and lines[-1].split() == ["x", "y", "z"]


def test_spread_choice_is_even_and_bounded():
    assert report.spread_choice(list(range(40)), 8) == [0, 5, 10, 15, 20, 25, 30, 35]
    assert report.spread_choice([1, 2], 8) == [1, 2] and report.spread_choice([], 8) == []
