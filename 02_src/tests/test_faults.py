# ruff: noqa: F811 (fixtures are imported by name)
"""What goes wrong around a run: full disk, no rights, damage, two runs in one folder.

Real failures on the tiny model: a limited file size, folders without rights, truncated files.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file
from tiny_run import tiny_config, train_tiny  # noqa: F401

from checkpoints import check_adapter_files, find_checkpoint, list_checkpoints
from config import REPOSITORY
from errors import UserError, describe_machine_trouble, escape_controls
from run_lock import hold_run, lock_file
from safe_files import find_damage, publish_folder, replacing, write_manifest


@pytest.fixture(scope="module")
def tiny_run(train_tiny) -> Path:
    """A finished tiny run with checkpoints 1 to 4."""
    trainer, _, _ = train_tiny("faults", save_steps=1, save_total_limit=4)
    return Path(trainer.args.output_dir)


@pytest.mark.parametrize(
    "keys",
    [{"max_steps": 3, "save_steps": 3}, {"max_steps": 9, "early_stopping_patience": 2}],
    ids=["all steps", "stopped early"],
)
def test_a_run_killed_after_its_last_step_is_only_finished(tiny_config, keys):
    from hardware import find_device
    from preferences import load_preferences
    from qlora import load_policy
    from train_dpo import train
    from trainer_setup import build_trainer

    config = tiny_config(f"last-{keys['max_steps']}", lr_scheduler_type="constant", **keys)
    weights, folder = [], Path(config.output_dir)
    for resume in (False, True):
        policy = load_policy(config, find_device(config))
        trainer = build_trainer(config, find_device(config), *policy, load_preferences(config))
        run = train(trainer, config, resume)
        assert (run.finished, run.steps) == (True, 3)
        weights.append(load_file(folder / "adapter_model.safetensors"))
        if not resume:  # the kill: all that is written after the last checkpoint is not there
            for file in folder.glob("*.*"):
                if file.is_file() and file.name != "run_config.json":
                    file.unlink()
    assert all(torch.equal(weights[1][name], tensor) for name, tensor in weights[0].items())


@pytest.fixture
def stopped(tiny_run, tmp_path) -> Path:
    """A copy of it that may be damaged."""
    return Path(shutil.copytree(tiny_run, tmp_path / "run"))


def damage_file(file: Path, how: str) -> None:
    """Cut, change or remove a file."""
    raw = file.read_bytes()
    if how == "cut":
        file.write_bytes(raw[: len(raw) // 2])
    elif how == "flip":
        file.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    elif how == "zeros":  # what some file systems leave after a power cut
        file.write_bytes(bytes(len(raw)))
    else:
        file.unlink()


@pytest.mark.parametrize("how", ["cut", "flip", "zeros", "remove"])
@pytest.mark.parametrize(
    "name",
    ["adapter_model.safetensors", "optimizer.pt", "rng_state.pth", "trainer_state.json",
     "scheduler.pt", "checksums.json"],
)  # fmt: skip
def test_damaged_checkpoint_is_named_and_the_one_before_it_is_used(stopped, capsys, name, how):
    damage_file(stopped / "checkpoint-4" / name, how)
    assert find_checkpoint(stopped) == stopped / "checkpoint-3"
    out = capsys.readouterr().out
    assert "checkpoint-4 is damaged: " in out and name in out
    assert "resuming from" in out
    assert (stopped / "damaged-checkpoint-4").is_dir()


def test_without_a_sound_checkpoint_the_run_begins_again(stopped, capsys):
    for folder in list_checkpoints(stopped):
        damage_file(folder / "optimizer.pt", "cut")
    assert find_checkpoint(stopped) is None
    assert "starting from the beginning" in capsys.readouterr().out


def test_checkpoints_hold_no_pickled_arguments_and_nothing_unfinished(stopped):
    names = {path.name for path in stopped.rglob("*")}
    assert "training_args.bin" not in names and "adapter_model.safetensors" in names
    assert not any(name.startswith(".") for name in names)
    assert [path.name for path in list_checkpoints(stopped)] == [
        f"checkpoint-{n}" for n in (1, 2, 3, 4)
    ]
    assert all(find_damage(path) is None for path in list_checkpoints(stopped))
    check_adapter_files(stopped)


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a/../../outside"])
def test_checksums_never_read_outside_their_folder(tmp_path, name):
    (tmp_path / "run").mkdir()
    (tmp_path / "outside").write_text("x")
    (tmp_path / "run" / "checksums.json").write_text(json.dumps({name: [1, "0"]}))
    assert "outside the folder" in find_damage(tmp_path / "run")


def test_published_folder_replaces_the_old_one_whole(tmp_path):
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "content").write_text(name)
        write_manifest(tmp_path / name)
    publish_folder(tmp_path / "new", tmp_path / "old")
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert (tmp_path / "old" / "content").read_text() == "new"
    assert find_damage(tmp_path / "old") is None


# Locks.

HOLD = "import sys, time; from pathlib import Path; from run_lock import hold_run\n"
HOLD += "with hold_run(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(60)"


@pytest.fixture
def holder(tmp_path):
    """A process that holds the lock of tmp_path/run."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "run")],
        cwd=REPOSITORY / "02_src",
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_second_run_in_a_folder_is_refused_with_process_and_computer(tmp_path, holder):
    with pytest.raises(UserError, match=f"process {holder.pid} on .*is writing here"):
        hold_run(tmp_path / "run").__enter__()
    assert lock_file(tmp_path / "run").is_file()


def test_lock_of_a_killed_process_is_taken_over_and_removed(tmp_path, holder, capsys):
    holder.kill()
    holder.wait()
    with hold_run(tmp_path / "run"):
        assert json.loads(lock_file(tmp_path / "run").read_text())["pid"] == os.getpid()
    assert f"process {holder.pid} is gone" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_lock_of_another_computer_is_respected_and_says_what_to_delete(tmp_path):
    owner = {"pid": 1, "host": "another-computer", "started": time.time()}
    file = lock_file(tmp_path / "run")
    file.write_text(json.dumps(owner))
    with pytest.raises(UserError, match="another-computer.*delete"):
        hold_run(tmp_path / "run").__enter__()
    assert json.loads(file.read_text()) == owner


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": 1}', "\x00\x00"])
def test_unreadable_lock_of_no_one_is_taken_over(tmp_path, content):
    lock_file(tmp_path / "run").write_text(content)
    with hold_run(tmp_path / "run"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_reused_process_number_is_not_the_old_owner():
    from run_lock import is_alive

    me = psutil.Process()
    assert is_alive({"pid": me.pid, "started": me.create_time()})
    assert not is_alive({"pid": me.pid, "started": me.create_time() - 3600})


# One line for what the machine does.


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(28, "No space left on device", "a/b"), "a/b: no space left"),
        (OSError(27, "File too large", "a/b"), "no space left"),
        (OSError(30, "Read-only file system", "a/b"), "may not be written"),
        (PermissionError(13, "Permission denied", "a/b"), "may not be written"),
        (FileNotFoundError(2, "No such file", "a/b"), "a/b: vanished"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "no space left"),
        (RuntimeError("[enforce fail] PytorchStreamWriter failed writing file"), "check the disk"),
    ],
)
def test_machine_trouble_is_one_line_with_the_next_step(error, words):
    line = describe_machine_trouble(error)
    assert words in line and "\n" not in line


def test_other_errors_keep_their_traceback():
    assert describe_machine_trouble(RuntimeError("shapes do not match")) is None


def test_control_characters_are_shown_and_not_obeyed():
    text = "a\x1b[2Jb\x07\x9b\u202ec\td\n"
    assert escape_controls(text) == "a\\x1b[2Jb\\x07\\x9b\\u202ec\td\n"


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    file = tmp_path / "new" / "settings.json"
    with replacing(file) as scratch:
        scratch.write_text("one")
        assert not file.exists()
    with pytest.raises(ValueError), replacing(file) as scratch:
        scratch.write_text("half of tw")
        raise ValueError
    assert file.read_text() == "one" and list(file.parent.iterdir()) == [file]
    with replacing(file, many_writers=True) as mine, replacing(file) as other:
        assert mine != other
        mine.write_text("mine")
        other.write_text("other")
    assert file.read_text() == "mine" and list(file.parent.iterdir()) == [file]
