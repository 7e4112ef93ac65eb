"""Start a stage as its own process, read what it prints, kill it."""

import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

KILLED = -9 if os.name == "posix" else 1


@dataclass
class Started:
    """A stage that was started."""

    log: Path
    pid: int
    owner: "Launcher"
    code: int | None = None

    def read(self) -> str:
        """What it has printed so far."""
        return self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""

    def poll(self) -> int | None:
        """Its exit code; None while it runs."""
        if self.code is None:
            self.code = self.owner.poll()
        return self.code

    def wait(self, seconds: float) -> int:
        """Wait for the end; the exit code."""
        deadline = time.monotonic() + seconds
        while self.poll() is None:
            assert time.monotonic() < deadline, self.read()
            time.sleep(0.01)
        return self.code

    def kill(self) -> bool:
        """SIGKILL; whether that is what ended it."""
        self.owner.kill(self.pid)
        return self.wait(60) == KILLED


class Launcher:
    """Starts one stage at a time, from a copy of the sources."""

    def __init__(self, folder: Path, forked: bool, extra: dict[str, str] | None = None) -> None:
        self.folder, self.forked = folder, forked
        self.count = 0
        self.unread = ""
        self.zygote: subprocess.Popen | None = None
        self.process: subprocess.Popen | None = None
        self.environment = {
            **os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1",
            "PYTHONPATH": str(folder / "02_src"), "CUDA_VISIBLE_DEVICES": "",
            **(extra or {}),
        }  # fmt: skip

    def __enter__(self) -> "Launcher":
        if self.forked:
            self.zygote = subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name("chaos_zygote.py"))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=self.environment,
            )
            os.set_blocking(self.zygote.stdout.fileno(), False)
            self.answer(wait=True)  # the libraries are loaded
        return self

    def __exit__(self, *_: object) -> None:
        if self.zygote:
            self.zygote.stdin.close()
            self.zygote.wait(60)
        elif self.process and self.process.poll() is None:
            self.process.kill()

    def start(self, script: str, arguments: list[str]) -> Started:
        """Start a script of 02_src."""
        self.count += 1
        log = self.folder / f"log-{self.count:02}.txt"
        path = str(self.folder / "02_src" / script)
        if self.zygote:
            self.zygote.stdin.write(json.dumps([str(log), path, *arguments]).encode() + b"\n")
            self.zygote.stdin.flush()
            return Started(log, self.answer(wait=True), self)
        with log.open("w") as stream:
            self.process = subprocess.Popen(
                [sys.executable, path, *arguments],
                stdout=stream,
                stderr=subprocess.STDOUT,
                env=self.environment,
            )
        return Started(log, self.process.pid, self)

    def answer(self, wait: bool) -> int | None:
        """The zygote's next number."""
        deadline = time.monotonic() + 120
        while True:
            if "\n" in self.unread:
                line, _, self.unread = self.unread.partition("\n")
                return int(line)
            self.unread += (self.zygote.stdout.read() or b"").decode()
            if "\n" in self.unread:
                continue
            assert self.zygote.poll() is None and time.monotonic() < deadline, "zygote died"
            if not wait:
                return None
            time.sleep(0.005)

    def poll(self) -> int | None:
        """Exit code of the stage that was started last; None while it runs."""
        return self.answer(wait=False) if self.zygote else self.process.poll()

    def kill(self, pid: int) -> None:
        """End the stage without giving it a chance."""
        if self.zygote:
            with suppress(ProcessLookupError):  # it has just ended
                os.kill(pid, 9)
        else:
            self.process.kill()
