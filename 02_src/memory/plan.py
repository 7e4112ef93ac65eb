"""What a run will take and whether it fits, from config, data lengths and device alone.

    shape = read_shape(config)                              # reads config.json, no weights
    plan = plan_memory(config, device, shape, lengths)      # Plan

Figures are bytes. Of the whole process they are what the driver shows: allocated by torch, what
its allocator keeps beyond that, and the CUDA context.
"""

import os
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from config import Config, resolve_path
from fast.frozen_weights import KEPT_SHARE
from fast.fused_layers import find_kernels
from fast.rehearsal import MOST_STATES
from fast.rows import count_reference_tokens
from hardware import GIB, Device
from memory.activations import MicroStep, Setting, measure_scoring, measure_training
from memory.batches import find_usual, find_worst, pad_batch, shape_batch
from memory.shape import ModelShape
from memory.speed import Rates, predict_step
from memory.stock import measure_stock
from memory.weights import size_training, size_weights
from processes import count, shards_base
from qlora import choose_precision

MIB = 2**20
HANDLES = 4  # cuBLAS workspaces: forward and backward thread, on the usual and the graphs' stream
CONTEXT = {"cuda": 650 * MIB, "cpu": 800 * MIB, "mps": 800 * MIB}  # driver, kernels, libraries
BARE_CONTEXT = 500 * MIB  # of it, what CUDA takes as soon as it starts
SMALL_WORKSPACE = ":4096:2:16:8"  # what cuBLAS takes on cards before Hopper
BYTES_PER_TOKEN = 4  # of general text, roughly
AMPERE, NARROW = 8.0, 64  # compute capability; heads that fit the shared memory of older cards
SLACK = 0.03  # of activations: what the allocator keeps beyond what is in use
SLACK_BYTES = 64 * MIB
SETTING_KEYS = (
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "gradient_checkpointing",
    "load_in_4bit",
)
Lengths = Sequence[tuple[int, int]]  # of each pair: tokens in its row, predicted tokens


@dataclass(frozen=True)
class Plan:
    """A setting with what it takes; bytes."""

    batch: int
    accumulation: int
    checkpointing: bool
    four_bit: bool
    step: MicroStep  # the worst one
    parts: dict[str, float]  # allocated at the peak of training
    stages: dict[str, float]  # allocated at each stage's peak
    context: float
    slack: float
    budget: float
    merge: float  # of system memory, while merge_lora.py runs
    rough: bool  # stock TRL's path: counted roughly
    step_seconds: float | None = None
    processes: int = 1  # each with a GPU of its own; the figures are those of one
    notes: tuple[str, ...] = field(default=())

    @property
    def peak(self) -> float:
        """Most bytes allocated at once, on the training device."""
        return max(self.stages.values())

    @property
    def process(self) -> float:
        """Most bytes of the whole process on the device."""
        return self.peak + self.slack + self.context

    @property
    def fits(self) -> bool:
        """Whether the process stays within the budget."""
        return self.process <= self.budget

    @property
    def overrides(self) -> dict[str, int | bool]:
        """The config keys of this setting."""
        values = (self.batch, self.accumulation, self.checkpointing, self.four_bit)
        return dict(zip(SETTING_KEYS, values, strict=True))

    def apply(self, config: Config) -> Config:
        """The config with this setting; the effective batch is the same."""
        validation = {"per_device_eval_batch_size": min(self.batch, config.eval_batch)}
        changed = self.overrides != read_overrides(config)
        return config.model_copy(update={**self.overrides, **validation}) if changed else config

    def describe(self) -> str:
        """One line: the setting, its peak, its step time."""
        base = "4 bit" if self.four_bit else "16 bit"
        text = f"{base}, batch {self.batch} x {self.accumulation}"
        text += f" on each of {self.processes} devices" if self.processes > 1 else ""
        text += ", checkpointing" if self.checkpointing else ""
        text += f": {self.process / GIB:.2f} GiB of {self.budget / GIB:.2f}"
        return text + (f", {self.step_seconds:.3g} s a step" if self.step_seconds else "")


def plan_memory(
    config: Config, device: Device, shape: ModelShape, lengths: Lengths, rates: Rates | None = None
) -> Plan:
    """The plan of the config as it stands; of several processes, of each one's device.

    Args:
        lengths: of each pair, its tokens in a packed row and its predicted tokens.
        rates: this machine's calibration; without it no step time is predicted.
    """
    batch, steps = config.per_device_train_batch_size, config.gradient_accumulation_steps
    how, optimizer = choose_setting(config, device, shape)
    graphs, blocks = uses_graphs(config, device), count_blocks(config)
    fixed = size_weights(shape, how.four_bit, config.bnb_4bit_use_double_quant, how.item)
    fixed |= {"base, 16-bit copy": shape.linear_weights * how.item} if how.kept else {}
    trained = size_training(shape, how.rank, optimizer, graphs, how.item)
    workspace = size_workspace(device, graphs)
    worst, moving = size_worst(config, shape, lengths, how, graphs)
    trained |= size_rehearsal(config, shape, how.item)
    parts = {**fixed, **trained, "workspace": workspace, **moving}
    resident = sum(fixed.values()) + trained["adapter"] + workspace
    stages = size_stages(config, shape, lengths, how, resident, trained, device.kind)
    usual = find_usual(tuple(lengths), batch, graphs, blocks)
    return Plan(
        batch=batch,
        accumulation=steps,
        checkpointing=how.checkpointing,
        four_bit=how.four_bit,
        step=worst,
        parts=parts,
        stages={"training": sum(parts.values()), **stages},
        context=CONTEXT[device.kind],
        slack=SLACK_BYTES + SLACK * sum(moving.values()),
        budget=find_budget(config, device),
        merge=size_merge(shape, how.rank),
        rough=not is_fast(config),
        step_seconds=rates and predict_step(shape, usual, how, rates, steps, graphs),
        processes=count(),
    )


def read_overrides(config: Config) -> dict[str, int | bool]:
    """The keys of a setting as the config has them."""
    return {name: getattr(config, name) for name in SETTING_KEYS}


def uses_graphs(config: Config, device: Device) -> bool:
    """Whether training steps are replayed as CUDA graphs."""
    return config.cuda_graphs and is_fast(config) and device.kind == "cuda"


def is_fast(config: Config) -> bool:
    """Whether training runs the fast forward."""
    return config.fast_forward and not shards_base()


def count_blocks(config: Config) -> int:
    """Blocks of general text in a micro-step; none with a sharded base."""
    return 0 if shards_base() else config.rehearsal_blocks


def size_rehearsal(config: Config, shape: ModelShape, item: int) -> dict[str, float]:
    """Bytes of the reference's hidden states, from the size of the texts' file."""
    if not count_blocks(config):
        return {}
    file = resolve_path(config.rehearsal_file)
    tokens = file.stat().st_size / BYTES_PER_TOKEN if file.is_file() else 0
    return {"rehearsal": min(tokens * shape.hidden * item, MOST_STATES)}


def choose_setting(config: Config, device: Device, shape: ModelShape) -> tuple[Setting, str]:
    """(what activations depend on, optimizer) of the config on this device."""
    precision = choose_precision(config, device)
    cuda, item = device.kind == "cuda", precision.base.itemsize
    room = KEPT_SHARE * device.total_bytes if cuda and is_fast(config) else 0
    small = float(device.capability or 0) < AMPERE  # too small for the kernels of wide heads
    how = Setting(
        item,
        config.lora_r,
        config.load_in_4bit,
        config.gradient_checkpointing,
        kernels=cuda and find_kernels() is not None,
        kept=config.load_in_4bit and shape.linear_weights * item <= room,
        trees=is_fast(config) and not (small and shape.head_width > NARROW),
    )
    return how, precision.optim


def size_worst(
    config: Config, shape: ModelShape, lengths: Lengths, how: Setting, graphs: bool
) -> tuple[MicroStep, dict[str, float]]:
    """The largest micro-step and the bytes at its peak beyond weights and optimizer."""
    batch = config.per_device_train_batch_size
    if is_fast(config):
        worst = find_worst(tuple(lengths), batch, graphs, count_blocks(config))
        return worst, measure_training(shape, worst, how)
    worst = pad_batch(sorted(lengths, reverse=True)[:batch])
    return worst, measure_stock(shape, worst, how)


def size_stages(
    config: Config,
    shape: ModelShape,
    lengths: Lengths,
    how: Setting,
    resident: float,
    trained: dict[str, float],
    kind: str,
) -> dict[str, float]:
    """Bytes allocated at the peak of each stage but training, on the training device."""
    ordered = sorted(lengths, reverse=True)
    whole = [tokens + 1 for tokens, _ in ordered]  # as the reference pass counts them
    pairs = config.per_device_train_batch_size
    room = count_reference_tokens(whole, pairs, shape.hidden, kind)
    fitting = max(1, bisect_right(list(accumulate(whole)), room))
    reference = measure_scoring(shape, shape_batch(ordered[:fitting], False), how)
    validation = measure_scoring(shape, shape_batch(ordered[: config.eval_batch], False), how)
    return {
        "reference pass": resident + sum(reference.values()),
        "validation": resident + sum(trained.values()) + sum(validation.values()),
    }


def size_merge(shape: ModelShape, rank: int) -> float:
    """Bytes of system memory that merge_lora.py takes: 16-bit base, adapter, one fp32 product."""
    weights = 2 * (shape.linear_weights + shape.embeddings + shape.others)
    return weights + 4 * shape.count_adapter(rank) + 8 * shape.largest_linear + CONTEXT["cpu"]


def size_workspace(device: Device, graphs: bool) -> float:
    """Bytes of cuBLAS's workspaces: 32 MiB each from Hopper on, 8.1 before."""
    if device.kind != "cuda":
        return 0.0
    small = os.environ.get("CUBLAS_WORKSPACE_CONFIG") == SMALL_WORKSPACE
    major = int((device.capability or "0").split(".")[0])
    each = 8.125 * MIB if small or major < 9 else 32 * MIB
    return each * (HANDLES if graphs else HANDLES / 2)


def find_budget(config: Config, device: Device) -> float:
    """Bytes the run may take: the config's budget, or what is free on the device now."""
    if config.memory_budget_gib is None:
        own = BARE_CONTEXT if device.kind == "cuda" else 0  # taken already when free was read
        return float(device.free_bytes + own)
    return min(config.memory_budget_gib * GIB, float(device.total_bytes))
