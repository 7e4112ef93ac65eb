"""The monitor: a run is waited for, followed to its end, and shown with what went wrong."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

import run_progress
from config import REPOSITORY, log_folder, save_config
from errors import UserError
from machine_load import read_load
from monitor_training import draw_spark, follow, list_metrics, render, show
from run_lock import hold_run, is_held, lock_file
from run_log import RunLog
from run_progress import Progress, find_logs, find_newest_logs, read_plan, read_progress

MONITOR = str(REPOSITORY / "02_src" / "monitor_training.py")
PLAN = """memory plan ({}), 4 bit, batch 8 x 1: 2.01 GiB of 22.86, 1.2 s a step
  base, 4 bit                0.05 GiB
  peaks allocated, GiB: training 1.17, reference pass 0.77"""


def write_steps(folder: Path, *steps: int, total: int = 8) -> RunLog:
    """A log of some steps, two seconds each."""
    log = RunLog(folder)
    for step in steps:
        log.write_metrics({"step": step, "loss": 1 / step, "memory_gib": 1.5,
                           "seconds": 2.0 * step, "max_steps": total})  # fmt: skip
    return log


def draw(progress: Progress) -> str:
    """The dashboard as text of 80 columns."""
    console = Console(width=80)
    with console.capture() as capture:
        console.print(render(progress))
    return capture.get()


def test_a_starting_run_is_waited_for_and_followed_to_its_end(
    tiny_config, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(run_progress, "REPOSITORY", tmp_path)
    home = tmp_path / "04_models" / "adapters" / "live"
    config = tiny_config("live", output_dir=str(home), logging_dir=str(tmp_path / "05_logs"),
                         validation_answers=0)  # fmt: skip
    save_config(config, tmp_path)
    command = [sys.executable, "02_src/train_dpo.py", "--config", str(tmp_path / "run_config.json")]
    run = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL)
    while not is_held(home):
        assert run.poll() is None
        time.sleep(0.05)
    logs = find_newest_logs()
    assert logs == log_folder(config) and not logs.is_dir()
    follow(logs, 0.2)
    shown = capsys.readouterr().out.splitlines()
    assert "waiting" in shown[0] and shown[1].startswith("step 1: loss")
    assert [line for line in shown if line.startswith("step 4: loss")]
    assert [line for line in shown if "live: step 4 of 4 (100%), finished" in line]
    assert [line for line in shown if line.startswith("this run: ") and "planned" in line]
    assert run.wait(60) == 0 and not is_held(home)
    drawn = draw(read_progress(logs))
    assert "reward margin" in drawn and "…" not in drawn and "processor" not in drawn


def test_the_time_left_counts_from_the_last_resume(tmp_path):
    log = write_steps(tmp_path, 1, 2, 4)
    progress = read_progress(tmp_path)
    assert progress.running and not progress.finished and progress.total == 8
    assert progress.seconds_left == pytest.approx(8, abs=1)
    for step, seconds in ((4, 1.0), (6, 11.0)):
        log.write_metrics({"step": step, "seconds": seconds, "max_steps": 8, "loss": 1.0})
    assert read_progress(tmp_path).seconds_left == pytest.approx(10, abs=1)
    log.write_metrics({"step": 6, "train_runtime": 11.0, "max_steps": 8})  # Ctrl-C
    assert not read_progress(tmp_path).finished
    log.write_metrics({"step": 8, "train_runtime": 4.0, "max_steps": 8})
    assert read_progress(tmp_path).finished


def test_a_run_whose_process_is_gone_is_shown_as_stopped(tmp_path, capsys):
    write_steps(tmp_path, 1, 2)
    old = time.time() - 2 * run_progress.QUIET
    os.utime(tmp_path / "metrics.jsonl", (old, old))
    show(tmp_path, 0.2, once=False)
    assert "step 2 of 8 (25%), stopped" in capsys.readouterr().out


def test_warnings_and_memory_are_shown_in_plain_words(tmp_path, capsys):
    log = write_steps(tmp_path, 1, 2)
    log.write_metrics({"at_step": 2, "warning": "stuck", "text": "the DPO loss is stuck"})
    for unit, planned in (("GPU memory", 1.17), ("system memory", 2.01)):
        log.write_line(PLAN.format(unit))
        assert read_plan(tmp_path) == planned
    progress = read_progress(tmp_path)
    drawn = draw(progress)
    assert "warning: the DPO loss is stuck" in drawn
    assert "1.50 GiB at the peak, 2.01 planned" in drawn
    assert all(load.name in drawn for load in read_load())
    assert max(map(len, drawn.splitlines())) <= 80
    show(tmp_path, 0.2, once=True)
    shown = capsys.readouterr().out
    assert "warning: the DPO loss is stuck" in shown and "loss: 0.500 (first 1.000)" in shown


def test_the_machines_load_is_read():
    loads = read_load()
    assert loads and all(0 <= load.share <= 1 and load.text for load in loads)


def test_the_spark_line_shows_the_whole_course():
    assert draw_spark([0.0, 1.0]) == "▁█" and draw_spark([2.0, 2.0]) == "▁▁"
    assert len(draw_spark(list(range(1000)))) == 34 and draw_spark(list(range(1000)))[-1] == "█"
    assert list_metrics(Progress(Path("x"))) == []


def test_a_folder_without_metrics_is_refused_unless_a_run_is_about_to_write(tmp_path, monkeypatch):
    monkeypatch.setattr(run_progress, "REPOSITORY", tmp_path)
    logs, home = tmp_path / "05_logs" / "a", tmp_path / "04_models" / "adapters" / "a"
    logs.mkdir(parents=True)
    with pytest.raises(UserError, match=r"holds no metrics.jsonl, .*train first"):
        find_logs(logs)
    with pytest.raises(UserError, match="no run yet"):
        find_newest_logs()
    with hold_run(home):
        assert find_logs(logs) == logs == find_newest_logs() and is_held(home)
    home.parent.mkdir(parents=True, exist_ok=True)
    lock_file(home).write_text('{"pid": 1, "started": 0}', encoding="utf-8")  # a dead owner's
    assert not is_held(home)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for one process")
def test_ctrl_c_ends_it_without_a_word(tmp_path):
    write_steps(tmp_path, 1, 2)
    command = [sys.executable, MONITOR, str(tmp_path)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as monitor:
        assert monitor.stdout.readline().startswith("step 1: loss")
        monitor.send_signal(signal.SIGINT)
        _, said = monitor.communicate(timeout=30)
    assert monitor.returncode == 0 and said == ""
