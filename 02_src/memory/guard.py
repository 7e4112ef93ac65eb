"""While it trains: the real peak in the log, and spilling or swapping called by its name."""

import statistics
import time
from dataclasses import dataclass, field

import psutil
import torch
from transformers import TrainerCallback

from hardware import GIB
from memory.plan import Plan
from memory.table import draw_plan, format_plan
from processes import is_main
from run_log import RunLog
from startup_profile import mark

JUMP = 2.5  # times the usual step time
NEAR = 0.93  # share of the device's memory in use
USUAL_STEPS = 8  # the first of them compile and capture; the median does not mind
SLOW_STEPS = 3  # in a row


@dataclass
class SpillWatch:
    """Recognises a step time that jumps while memory is nearly full."""

    device_kind: str
    seconds: list[float] = field(default_factory=list)
    slow: int = 0
    said: bool = False

    def add(self, seconds: float, used: float) -> str | None:
        """A sentence when spilling shows for the first time.

        Args:
            seconds: of this step.
            used: share of the device's memory in use now, 0 to 1.
        """
        usual = statistics.median(self.seconds) if len(self.seconds) >= USUAL_STEPS else None
        if usual is None or seconds < JUMP * usual:
            self.seconds = [*self.seconds, seconds][-50:]
            self.slow = 0
            return None
        self.slow = self.slow + 1 if used >= NEAR else 0
        if self.slow < SLOW_STEPS or self.said:
            return None
        self.said = True
        where = "system memory (spilling)" if self.device_kind == "cuda" else "disk (swapping)"
        return (
            f"a step takes {seconds:.2f} s instead of {usual:.2f} s while {used:.0%} of the memory "
            f"is in use: the driver moves data to {where}; close other programs, or stop and set "
            "auto_fit=true with a smaller memory_budget_gib"
        )


def read_memory(device_kind: str) -> tuple[int, int, float]:
    """(bytes in use, most bytes so far, share of all memory in use) of this process's device."""
    if device_kind == "cuda":
        free, total = torch.cuda.mem_get_info()
        return torch.cuda.memory_allocated(), torch.cuda.max_memory_allocated(), 1 - free / total
    own = psutil.Process().memory_info()
    most = getattr(own, "peak_wset", own.rss)  # Windows keeps the peak
    memory = psutil.virtual_memory()
    return own.rss, most, 1 - memory.available / memory.total


class MemoryCallback(TrainerCallback):
    """Adds memory_gib to every log record, compares it with the plan, watches for spilling."""

    def __init__(self, device_kind: str, plan: Plan | None, log: RunLog) -> None:
        self.device_kind, self.plan, self.log = device_kind, plan, log
        self.watch = SpillWatch(device_kind)
        self.began = time.perf_counter()
        self.peak = 0

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        """The plan joins training.log."""
        if self.plan is not None:
            unit = "system memory" if self.device_kind == "cpu" else "GPU memory"
            self.log.write_line(format_plan(self.plan, unit))

    def on_step_begin(self, args, state, control, **kwargs) -> None:
        """Start the step's clock."""
        self.began = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs) -> None:
        """Look at memory and time."""
        if state.global_step == 1:
            mark("first step")
        used, most, share = read_memory(self.device_kind)
        self.peak = max(self.peak, used, most)
        text = self.watch.add(time.perf_counter() - self.began, share)
        if text:
            self.log.write_metrics({"at_step": state.global_step, "warning": "spill", "text": text})
            self.log.write_line(f"warning: {text}")
            print(f"warning: {text}")

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        """The peak so far joins the record."""
        if logs is not None and self.peak:
            logs["memory_gib"] = round(self.peak / GIB, 3)

    def on_train_end(self, args, state, control, **kwargs) -> None:
        """Draw the plan (here, since a picture can wait) and say how it compares."""
        if self.plan is None or not self.peak:
            return
        if is_main():
            draw_plan(self.plan, self.log.folder)
        planned = self.plan.peak if self.device_kind == "cuda" else self.plan.process
        self.log.write_line(
            f"memory: {self.peak / GIB:.2f} GiB at the peak, {planned / GIB:.2f} planned"
        )
