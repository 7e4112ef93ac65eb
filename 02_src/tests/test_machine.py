# ruff: noqa: F811 (fixtures are imported by name)
"""Real processes on a machine that fails them: no space, no rights, Ctrl-C at any time."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from tiny_run import tiny_config  # noqa: F401

from checkpoints import list_checkpoints
from config import REPOSITORY, Config
from safe_files import find_damage

TRAIN = str(REPOSITORY / "02_src" / "train_dpo.py")
# A stage in a process whose files cannot grow beyond argv[1] bytes: writes fail as on a full disk.
LIMITED = """
import resource, signal, sys
limit = int(sys.argv.pop(1))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
import errors, train_dpo
errors.run_main(train_dpo.main)
"""


def save_values(config: Config, file: Path, **keys) -> Path:
    """A config file with some keys changed."""
    file.write_text(json.dumps({**config.model_dump(), **keys}), encoding="utf-8")
    return file


def run(command: list[str], prefix: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    """A process with one thread, from 02_src."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*prefix, sys.executable, *command],
        capture_output=True, text=True, cwd=REPOSITORY / "02_src", env=environment, timeout=300,
    )  # fmt: skip


def check_one_line(done: subprocess.CompletedProcess[str], words: str) -> None:
    """Exit code 2, one error line, no traceback."""
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 2, done.stdout + done.stderr
    assert len(lines) == 1 and words in lines[0], done.stderr
    assert "Traceback" not in done.stderr


def hear_sigint() -> None:
    """A job in a shell's background starts with SIGINT ignored; the process tested must not."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


# root may write anywhere, unless it gives that right up
ROOT = os.name == "posix" and os.getuid() == 0
AS_OTHERS = ("setpriv", "--bounding-set=-dac_override") if ROOT else ()

if os.name == "posix":  # Windows has neither file size limits nor such rights

    @pytest.mark.parametrize("limit", [120_000])
    def test_full_disk_ends_with_one_line_and_no_half_written_checkpoint(
        tiny_config, tmp_path, limit
    ):
        values = {"output_dir": str(tmp_path / "out"), "logging_dir": str(tmp_path / "logs")}
        config = save_values(tiny_config(f"full{limit}"), tmp_path / "c.json", **values)
        done = run(["-c", LIMITED, str(limit), "--config", str(config)])
        check_one_line(done, "")
        assert "disk" in done.stderr or "space" in done.stderr
        assert list_checkpoints(tmp_path / "out") == []
        assert not (tmp_path / "out" / "training_summary.json").exists()
        again = run([TRAIN, "--config", str(config), "--resume"])  # with space again
        assert again.returncode == 0, again.stdout + again.stderr

    def test_read_only_output_ends_with_one_line(tiny_config, tmp_path):
        target = tmp_path / "locked"
        target.mkdir()
        values = {"output_dir": str(target / "out"), "logging_dir": str(tmp_path / "logs")}
        config = save_values(tiny_config("readonly"), tmp_path / "c.json", **values)
        target.chmod(0o555)
        done = run([TRAIN, "--config", str(config)], AS_OTHERS)
        target.chmod(0o755)
        check_one_line(done, "locked")
        assert "may not be written" in done.stderr
        assert list(target.iterdir()) == []


@pytest.mark.parametrize("number", range(2))
def test_ctrl_c_at_a_random_moment_is_one_line_and_leaves_nothing_half_written(
    tiny_config, tmp_path, number
):
    values = {"output_dir": str(tmp_path / "out"), "logging_dir": str(tmp_path / "logs")}
    values |= {"max_steps": 400, "save_steps": 1}
    config = save_values(tiny_config(f"stop{number}"), tmp_path / "c.json", **values)
    process = subprocess.Popen(
        [sys.executable, TRAIN, "--config", str(config)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=hear_sigint if os.name == "posix" else None,
    )  # fmt: skip
    time.sleep(0.3 + random.Random(number).random() * (2 + 4 * number))
    process.send_signal(signal.SIGINT if os.name == "posix" else signal.CTRL_C_EVENT)
    out, err = process.communicate(timeout=120)
    assert process.returncode in (130, -signal.SIGINT), out + err
    assert "Traceback" not in err, err
    assert ("interrupted" in err) != ("stopped at step" in out), out + err
    assert all(find_damage(path) is None for path in list_checkpoints(tmp_path / "out"))
    assert not list(tmp_path.glob(".*.lock"))
