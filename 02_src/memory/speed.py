"""Seconds a step takes: a short calibration of this machine, and a count of what a step does.

rates = measure_rates(device_kind, dtype)        # under two seconds
seconds = predict_step(shape, step, how, rates, micro_steps=1, graphs=True)
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from memory.activations import MicroStep, Setting, has_trees, size_layer
from memory.shape import ModelShape

TOKENS = (64, 256, 1024, 4096)  # rows of the calibrated matmuls
CPU_TOKENS = (64, 512)
WARM_UP_SECONDS = 0.3
INNER = 2048
PASSES = 7.0  # reads and writes of each kept activation, forward and backward
KERNELS_PER_LAYER = 120  # launches of forward and backward, fused layers
TREE_PASSES, TREE_KERNELS = 5.5, 65  # both with the kernels of fast.tree_attention
HOST_OPERATIONS = 700  # small torch operations around a micro-step: loss, metrics, trainer
STEP_OPERATIONS = 500  # and around an optimizer step
GRAPH_LAUNCH = 0.75  # seconds of a small kernel inside a graph, in measured back-to-back launches
EAGER_LAUNCH = 6.0  # and with Python, autograd and hooks around it
ATTENTION_SHARE = 0.2  # of the matmul rate that attention kernels with a mask reach
OPTIMIZER_BYTES = 28  # read and written for each trainable parameter by AdamW and clipping


@dataclass(frozen=True)
class Rates:
    """What this machine does a second."""

    matmul: tuple[tuple[int, float], ...]  # (rows, FLOP/s) of [rows, 2048] x [2048, 2048]
    memory: float  # bytes/s of a large copy, read and write counted
    launch: float  # seconds of one small kernel on the device, launched back to back
    host: float  # seconds of one small operation on the host

    def find_matmul(self, rows: float) -> float:
        """FLOP/s of a matmul of so many rows; between the measured sizes, in proportion."""
        low = self.matmul[0]
        if rows <= low[0]:
            return low[1] * max(rows, 1) / low[0]
        for high in self.matmul[1:]:
            if rows <= high[0]:
                share = (rows - low[0]) / (high[0] - low[0])
                return low[1] + share * (high[1] - low[1])
            low = high
        return low[1]


def measure_rates(kind: str, dtype: torch.dtype) -> Rates:
    """Calibrate matmul, memory and launch rates of a device."""
    cuda = kind == "cuda"
    size = min(256 * 2**20, torch.cuda.mem_get_info()[0] // 32) if cuda else 32 * 2**20
    big = torch.zeros(size // 4, device=kind)
    other = torch.empty_like(big)
    small, host = torch.zeros(64, device=kind), torch.zeros(64)
    weight = torch.randn(INNER, INNER, device=kind, dtype=dtype)
    if cuda:  # an idle card runs at a fraction of its clock
        keep_busy(lambda: weight @ weight)
    matmul = []
    for rows in TOKENS if cuda else CPU_TOKENS:
        x = torch.randn(rows, INNER, device=kind, dtype=dtype)
        seconds = time_call(lambda x=x: x @ weight, 20 if cuda else 3, cuda)
        matmul.append((rows, 2 * rows * INNER**2 / seconds))
    rates = Rates(
        tuple(matmul),
        2 * size / time_call(lambda: other.copy_(big), 10 if cuda else 3, cuda),
        time_call(lambda: small.add_(1), 500, cuda),
        time_call(lambda: host.add(1), 2000, False),
    )
    if cuda:  # nothing of it may count as the run's
        del big, other, weight, x
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    return rates


def keep_busy(run: Callable[[], object]) -> None:
    """Run something on the GPU for WARM_UP_SECONDS."""
    start = time.perf_counter()
    while time.perf_counter() - start < WARM_UP_SECONDS:
        for _ in range(10):
            run()
        torch.cuda.synchronize()


def time_call(run: Callable[[], object], repeats: int, cuda: bool) -> float:
    """Seconds of one call, the best of three series."""
    found = []
    for _ in range(3):
        if cuda:
            torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(repeats):
            run()
        if cuda:
            torch.cuda.synchronize()
        found.append((time.perf_counter() - start) / repeats)
    return min(found)


def predict_micro_step(
    shape: ModelShape, step: MicroStep, how: Setting, rates: Rates, graphs: bool
) -> float:
    """Seconds of one forward and backward of a micro-step."""
    uses = 3 if how.checkpointing else 2
    tokens = step.tokens
    linear = 2 * shape.linear_weights * tokens * uses
    lora = 2 * shape.count_adapter(how.rank) * tokens * (uses + 1)
    attention = 4 * tokens * step.width * shape.query * shape.layers * (uses + 1.5)
    head = 2 * shape.vocabulary * shape.hidden * (step.count + step.recited) * 3
    seconds = (linear + lora) / rates.find_matmul(tokens) + head / rates.find_matmul(step.count)
    seconds += attention / (ATTENTION_SHARE * rates.find_matmul(tokens))
    layer, trees = sum(size_layer(shape, step, how).values()), has_trees(shape, how)
    traffic = shape.layers * layer * ((TREE_PASSES if trees else PASSES) + how.checkpointing)
    if how.four_bit and not how.kept:
        traffic += shape.linear_weights * (0.5 + how.item) * uses
    kernels = (TREE_KERNELS if trees else KERNELS_PER_LAYER) * shape.layers * (uses / 2)
    launch = rates.launch * (GRAPH_LAUNCH if graphs else EAGER_LAUNCH)
    return seconds + traffic / rates.memory + kernels * launch


def predict_step(
    shape: ModelShape, step: MicroStep, how: Setting, rates: Rates, micro_steps: int, graphs: bool
) -> float:
    """Seconds of one optimizer step of so many micro-steps."""
    work = micro_steps * predict_micro_step(shape, step, how, rates, graphs)
    host = (micro_steps * HOST_OPERATIONS + STEP_OPERATIONS) * rates.host
    update = OPTIMIZER_BYTES * shape.count_adapter(how.rank) / rates.memory
    return max(work, 0.5 * host) + 0.5 * host + update
