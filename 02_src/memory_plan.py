"""Plan a run's memory before the base is loaded, and keep the run within it.

plan, config = prepare_plan(config, device, lengths)    # prints, draws, fits or refuses
run = train_within(config, plan, attempt)               # a smaller plan after running out
"""

import gc
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

import processes
from config import Config
from errors import UserError, ran_out_of_memory
from hardware import GIB, Device
from memory.plan import SMALL_WORKSPACE, Lengths, Plan, find_budget
from memory.search import choose_plan, find_smaller, list_plans, suggest_keys
from memory.shape import ModelShape, read_shape
from memory.speed import Rates, measure_rates
from memory.table import format_plan
from qlora import choose_precision

DOUBT = 1.1  # refuse only what exceeds the budget by more than the plan may be wrong
SMALL_CARD = 4 * GIB  # below, cuBLAS gets the workspace it has on older cards, 8 MiB each
LAST_HINT = "close other programs, or use a smaller max_seq_length or model_name"


@dataclass(frozen=True)
class Planned:
    """The plan a run starts with, the config it means, and every other plan there is."""

    plan: Plan
    config: Config
    others: list[Plan]


def measure_lengths(rows: list[dict[str, list[int]]]) -> Lengths:
    """(tokens in a packed row, predicted tokens) of each tokenised pair."""
    found = []
    for row in rows:
        answers = len(row["chosen_ids"]) + len(row["rejected_ids"])
        found.append((len(row["prompt_ids"]) - 1 + answers, answers))
    return found


def prepare_plan(
    config: Config, device: Device, lengths: Lengths, rates: Rates | None = None
) -> Planned:
    """Plan the run, say it, and settle what the config's keys become.

    With auto_fit the fastest setting that fits is taken. Without, or where the plan is rough, a
    run that does not fit is only proposed another one.

    Raises:
        UserError: on a GPU, when the run does not fit and may not be, or cannot be, made to.
    """
    if device.kind == "cuda" and find_budget(config, device) < SMALL_CARD:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", SMALL_WORKSPACE)  # before CUDA's first use
    shape = read_shape(config)
    rates = rates or measure_rates(device.kind, choose_precision(config, device).base)
    plans = list_plans(config, device, shape, lengths, rates)
    own, best = plans[0], choose_plan(plans)
    chosen = best if best and config.auto_fit else own
    print(format_plan(chosen, "system memory" if device.kind == "cpu" else "GPU memory"))
    say_other_base(config, device, shape, lengths, rates)
    if chosen is not own:
        print(f"auto_fit: {describe_change(own, chosen)}")
    elif not own.fits:
        report_misfit(config, device, shape, own, best, plans)
    return Planned(chosen, chosen.apply(config), plans)


def say_other_base(
    config: Config, device: Device, shape: ModelShape, lengths: Lengths, rates: Rates
) -> None:
    """Say what the best setting with the other kind of base (4 bit or 16 bit) would take.

    It is never taken by itself: another base is another model, with another reference.
    """
    other = config.model_copy(update={"load_in_4bit": not config.load_in_4bit})
    best = choose_plan(list_plans(other, device, shape, lengths, rates))
    if best:
        print(f"  with load_in_4bit={str(other.load_in_4bit).lower()}: {best.describe()}")


def describe_change(own: Plan, chosen: Plan) -> str:
    """What is changed, in config keys, and why."""
    keys = ", ".join(list_changes(own, chosen))
    why = "is faster" if own.fits else f"fits ({own.process / GIB:.2f} GiB would not)"
    return f"{keys} {why}; the effective batch stays {chosen.batch * chosen.accumulation}"


def list_changes(own: Plan, chosen: Plan) -> list[str]:
    """key=value of what differs between two plans."""
    before = own.overrides
    return [f"{k}={str(v).lower()}" for k, v in chosen.overrides.items() if before[k] != v]


def report_misfit(
    config: Config,
    device: Device,
    shape: ModelShape,
    own: Plan,
    best: Plan | None,
    plans: list[Plan],
) -> None:
    """Refuse a run that is far from fitting its GPU; a close one, or one on a CPU, is warned."""
    need = f"needs {own.process / GIB:.2f} GiB and {own.budget / GIB:.2f} are there"
    if best:
        keys = " ".join(f"--set {change}" for change in list_changes(own, best))
        text = f"memory_budget_gib: the run {need}; set auto_fit=true, or {keys}"
    else:
        smallest = min(plans, key=lambda plan: plan.process)
        hints = " or ".join(suggest_keys(config, shape, smallest, device))
        text = (
            f"memory_budget_gib: the run {need}, and no split of the batch fits "
            f"({smallest.process / GIB:.2f} at least); try {hints}"
        )
    if device.kind == "cuda" and not own.rough and own.process > DOUBT * own.budget:
        raise UserError(text)
    print(f"note: {text}")


def train_within(planned: Planned, attempt: Callable[[Planned, bool], object], resume: bool):
    """Run `attempt(planned, resume)`; after running out of memory, with the next smaller plan.

    Raises:
        UserError: no smaller plan, or auto_fit is off; the text proposes what to set.
    """
    while True:
        try:
            return attempt(planned, resume)
        except RuntimeError as error:
            if not ran_out_of_memory(error):
                raise
            reason = str(error).split(".")[0]
        smaller = find_smaller(planned.others, planned.plan)
        if smaller is None:
            raise UserError(f"out of memory ({reason}) and no smaller plan is left; {LAST_HINT}")
        keys = " ".join(f"--set {change}" for change in list_changes(planned.plan, smaller))
        if processes.count() > 1:  # the others are waiting: only a new start brings all along
            raise UserError(f"out of memory ({reason}); go on with --resume {keys}")
        if not planned.config.auto_fit:
            raise UserError(
                f"out of memory ({reason}); the run is saved: go on with --resume {keys}, or with "
                "--resume --set auto_fit=true"
            )
        print(f"out of memory ({reason}); going on with {smaller.describe()}")
        planned = Planned(smaller, smaller.apply(planned.config), planned.others)
        resume = True
        free_device_memory()


@contextmanager
def saved_when_out_of_memory(trainer) -> Iterator[None]:
    """Write a checkpoint of the last whole step when memory runs out, then let the error pass."""
    try:
        yield
    except RuntimeError as error:
        if not ran_out_of_memory(error):
            raise
        trainer.model.zero_grad(set_to_none=True)
        free_device_memory()
        if trainer.state.global_step > 0 and processes.count() == 1:
            trainer._save_checkpoint(trainer.model, trial=None)
        raise


def free_device_memory() -> None:
    """Give back what nothing refers to any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def verify_plan(trainer, plan: Plan) -> None:
    """Run the largest micro-step, without training, and compare its peak with the plan.

    It runs twice: the second time its CUDA graph is captured, before all smaller ones, which then
    fit into its memory. On a CPU nothing is run: memory there is shared, and a step takes seconds.
    Nor with a sharded base: it is whole until training begins.
    """
    if trainer.accelerator.device.type != "cuda" or processes.shards_base():
        return
    from fast.columns import measure_pairs  # pyarrow and datasets; gpu_check needs neither

    rows, lengths = trainer.train_dataset, measure_pairs(trainer.train_dataset)
    longest = sorted(range(len(rows)), key=lambda i: -lengths[i])[: plan.batch]
    batch = trainer.collate([rows[i] for i in longest], training=True)
    torch.cuda.reset_peak_memory_stats()
    with torch.random.fork_rng(devices=[trainer.accelerator.device]):
        trainer.model.train()
        for _ in range(2):
            with trainer.compute_loss_context_manager():
                loss = trainer.compute_loss(trainer.model, batch)
            loss.backward()
    trainer.model.zero_grad(set_to_none=True)
    trainer._metrics["train"].clear()
    trainer._total_train_tokens = 0
    print(describe_verification(torch.cuda.max_memory_allocated(), plan))
    free_device_memory()


def describe_verification(measured: float, plan: Plan) -> str:
    """The largest micro-step's peak beside the plan's; the optimizer's state comes later."""
    planned = plan.peak - plan.parts["optimizer"]
    return (
        f"check: the largest micro-step took {measured / GIB:.2f} GiB, {planned / GIB:.2f} planned"
    )
