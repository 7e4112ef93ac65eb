"""Start a stage in two processes, as torchrun does; one of them may be killed."""

import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from config import REPOSITORY

PROCESSES = 2
RUN = Path(__file__).with_name("sharded_stage.py")


@dataclass
class Launch:
    """torchrun with its two processes."""

    log: Path
    arguments: list[str]
    sharded: bool = False
    process: subprocess.Popen = field(init=False)

    def __post_init__(self) -> None:
        script, *rest = self.arguments
        stage = [str(REPOSITORY / script), *rest]
        if self.sharded:
            stage.insert(0, str(RUN))
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node"]
        with self.log.open("w") as stream:
            self.process = subprocess.Popen(
                [*command, str(PROCESSES), "--rdzv_backend", "c10d", "--rdzv_endpoint",
                 "localhost:0", "--", *stage],
                stdout=stream,
                stderr=subprocess.STDOUT,
                env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1",
                     "CUDA_VISIBLE_DEVICES": ""},
            )  # fmt: skip

    @property
    def output(self) -> str:
        """What all processes have printed so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def wait_for(self, done, seconds: float) -> None:
        """Wait until `done()`; fails with the output when it takes too long or the launch ends."""
        deadline = time.monotonic() + seconds
        while not done():
            assert time.monotonic() < deadline and self.process.poll() is None, self.output[-3000:]
            time.sleep(0.05)

    def finish(self, seconds: float) -> int:
        """The exit code, once all is over."""
        return self.process.wait(seconds)
