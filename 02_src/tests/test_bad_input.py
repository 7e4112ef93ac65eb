# ruff: noqa: F811 (fixtures are imported by name)
"""Every case of the table: one line, exit code 2, no traceback, nothing written."""

import importlib
import json
import shutil
import sys
from pathlib import Path

import pytest
from bad_artefacts import ADAPTERS, CHECKPOINTS, MODELS, SECRETS
from bad_input import COMMANDS, CONFIG, DATA, Case
from tiny_run import tiny_config, train_tiny  # noqa: F401

import errors
import secrets_file

CASES = (*CONFIG, *DATA, *COMMANDS, *SECRETS, *MODELS, *ADAPTERS, *CHECKPOINTS)
AS_PROCESS = ("config: unknown key", "data: cut in the middle", "command: set without value")


@pytest.fixture(scope="module")
def good_run(train_tiny) -> Path:
    """A finished run of the tiny model."""
    trainer, _, _ = train_tiny("good", max_steps=2, save_steps=2, eval_steps=2)
    return Path(trainer.args.output_dir)


@pytest.fixture
def folder(tmp_path, good_run, tiny_model, case) -> Path:
    """A folder with what the case damages."""
    if case in ADAPTERS:
        ignored = shutil.ignore_patterns("checkpoint-*")
        shutil.copytree(good_run, tmp_path / "good_run", ignore=ignored)
    elif case in CHECKPOINTS:
        shutil.copytree(good_run, tmp_path / "good_stopped")
        (tmp_path / "good_stopped" / "training_summary.json").unlink()
    elif case in MODELS:
        shutil.copytree(tiny_model, tmp_path / "good_model")
    return tmp_path


def list_files(folder: Path) -> dict[str, int]:
    """Files below a folder with their time of change."""
    return {str(p): p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_bad_input_is_one_line_and_nothing_is_written(case: Case, folder, monkeypatch, capsys):
    arguments = case.prepare(folder)
    monkeypatch.setattr(sys, "argv", [case.stage, *arguments])
    monkeypatch.setattr(secrets_file, "SECRETS_FILE", folder / "secrets.toml")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    if (folder / "secrets.toml").is_file():
        (folder / "secrets.toml").chmod(0o600)
    before = list_files(folder)
    with pytest.raises(SystemExit) as ended:
        errors.run_main(importlib.import_module(case.stage).main)
    printed = capsys.readouterr()
    lines = [line for line in printed.err.splitlines() if line.startswith("error: ")]
    assert ended.value.code == 2, printed
    assert len(lines) == 1 and case.words in lines[0], printed.err
    assert "Traceback" not in printed.out + printed.err
    assert "\x1b" not in printed.out + printed.err
    assert list_files(folder) == before


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.name in AS_PROCESS], ids=lambda case: case.name
)
def test_the_same_holds_for_a_real_process(case: Case, tmp_path, run_stage):
    done = run_stage(f"02_src/{case.stage}.py", *case.prepare(tmp_path))
    assert (done.rc, done.out) == (2, "")
    assert done.err.startswith("error: ") and len(done.err.splitlines()) == 1
    assert case.words in done.err


def test_the_table_is_as_long_as_promised_and_holds_no_case_twice():
    names = [case.name for case in CASES]
    assert len(names) >= 80
    assert len(set(names)) == len(names)
    assert {name.split(":")[0] for name in names} == {
        "config", "data", "command", "secrets", "model", "adapter", "checkpoint",
    }  # fmt: skip
    assert json.dumps(names)
