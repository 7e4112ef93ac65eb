"""Reads the CUDA allocator and NVML at the stages of a run; without CUDA it only keeps times."""

import time

from hardware import list_gpus

MIB = 2**20


def read_device() -> float:
    """MiB in use on the first GPU, all processes and their contexts; 0 without a GPU."""
    gpus = list_gpus()
    return (gpus[0]["total"] - gpus[0]["free"]) / MIB if gpus else 0.0


class Meter:
    """MiB allocated and reserved after each stage and at its peak."""

    def __init__(self, idle: float) -> None:
        import torch

        self.cuda = torch.cuda.is_available()
        self.start = time.perf_counter()
        self.idle = idle  # MiB in use on the device before this process started CUDA
        self.before = torch.cuda.memory_allocated() / MIB if self.cuda else 0.0
        self.stages: dict[str, dict] = {}
        self.note("start")

    def note(self, stage: str, capturing: bool = False) -> None:
        """Keep what is in use now and was at the peak; the next stage starts.

        A capture forbids synchronisation and NVML is slow: then only the allocator is read.
        """
        import torch

        found = {"at_s": round(time.perf_counter() - self.start, 2)}
        if self.cuda:
            found |= {
                "now": round(torch.cuda.memory_allocated() / MIB, 1),
                "peak": round(torch.cuda.max_memory_allocated() / MIB, 1),
                "peak_reserved": round(torch.cuda.max_memory_reserved() / MIB, 1),
            }
            if not capturing:
                torch.cuda.synchronize()
                found["device_used"] = round(read_device(), 1)
            torch.cuda.reset_peak_memory_stats()
        self.stages[stage] = found

    def describe(self, trainer, ends: list[float]) -> dict:
        """Peaks over all stages, and what explains them."""
        import torch

        later = sorted(b - a for a, b in zip(ends[5:], ends[6:], strict=False))
        found = {
            "torch": torch.__version__,
            "obstacle": trainer.fast_obstacle,
            "step_ms": round(1000 * later[len(later) // 2], 2) if later else None,
        }
        if not self.cuda:
            return found
        peaks = [stage["peak"] for stage in self.stages.values()]
        reserved = [stage["peak_reserved"] for stage in self.stages.values()]
        used = [s["device_used"] for s in self.stages.values() if "device_used" in s]
        scorer = trainer.packed_scorer.graphed
        return {
            **found,
            "measured_mib": round(max(peaks) - self.before, 1),
            "peak_reserved_mib": max(reserved),
            "device_over_idle_mib": round(max(used) - self.idle, 1),
            "idle_mib": round(self.idle, 1),
            "leftover_mib": round(self.before, 1),
            "failure": scorer.failure,
            "buckets": [bucket.shape for bucket in scorer.buckets],
            "device": torch.cuda.get_device_name(),
        }


def watch_captures(scorer, meter: Meter) -> None:
    """Note the memory around each recorded forward and backward."""
    for name in ("run_forward", "run_backward"):
        stock = getattr(scorer, name)

        def run(bucket, stock=stock, name=name):
            meter.note(f"before_{name}", capturing=True)
            stock(bucket)
            meter.note(name, capturing=True)

        setattr(scorer, name, run)


def make_step_meter(meter: Meter, steps: int, trainer):
    """A callback that notes memory after the first steps and the last, and when steps end."""
    import torch
    from transformers import TrainerCallback

    class StepMeter(TrainerCallback):
        """Memory after steps 1 to 3 and the last; times of all."""

        def __init__(self) -> None:
            self.ends: list[float] = []

        def on_step_begin(self, args, state, control, **kwargs) -> None:
            if meter.cuda and state.global_step == 1 and trainer.fast_obstacle is None:
                watch_captures(trainer.packed_scorer.graphed, meter)

        def on_step_end(self, args, state, control, **kwargs) -> None:
            if state.global_step <= 3 or state.global_step == steps:
                meter.note(f"step_{state.global_step}")
            if meter.cuda:
                torch.cuda.synchronize()
            self.ends.append(time.perf_counter())

    return StepMeter()
