"""The processes of one run: which one is the main one, who waits for whom, what they agree on.

    silence_others()          # only the main process prints and draws bars
    join("cuda")              # meets the others, where a launcher started several
    with main_first(): ...    # the main process builds a cache, then the others read it

torchrun and accelerate launch tell each process in its environment who it is. What is exchanged
here are small values on the CPU (gloo); it also tells at once when another process has died, since
its connections close. Everything does nothing, or returns its argument, in a run of one process.
"""

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import errors

LONGEST_WAIT = timedelta(hours=2)  # for the main process to quantise a base, say
BACKENDS = {"cuda": "cpu:gloo,cuda:nccl"}  # other devices: gloo alone
Value = TypeVar("Value")


def count() -> int:
    """Processes of this run, on all machines."""
    return int(os.environ.get("WORLD_SIZE", 1))


def rank() -> int:
    """This process among them, from 0."""
    return int(os.environ.get("RANK", 0))


def local_rank() -> int:
    """This process among those of its machine, from 0: the GPU it takes."""
    return int(os.environ.get("LOCAL_RANK", 0))


def is_main() -> bool:
    """Whether this process writes, logs and prints."""
    return rank() == 0


def shards_base() -> bool:
    """Whether the launcher was told to shard the frozen base (FSDP)."""
    return count() > 1 and os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"


def count_shards() -> int:
    """Into how many parts the frozen base is cut."""
    return count() if shards_base() else 1


def silence_others() -> None:
    """Let only the main process print and draw bars; called before tqdm is imported.

    Until the processes have met, all of them fail alike, so the main one's error line is enough.
    """
    if is_main():
        return
    os.environ["TQDM_DISABLE"] = "1"
    os.environ["TRANSFORMERS_VERBOSITY"] = "error"
    warnings.filterwarnings("ignore")
    sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  as long as the process
    errors.speak_as(None)


def join(device_kind: str) -> None:
    """Meet the other processes of the run; gradients travel by NCCL on GPUs."""
    if count() == 1:
        return
    import torch
    from torch import distributed

    if device_kind == "cuda":
        torch.cuda.set_device(local_rank())
    if not distributed.is_initialized():
        distributed.init_process_group(BACKENDS.get(device_kind, "gloo"), timeout=LONGEST_WAIT)
    if not is_main():
        errors.speak_as(f"process {rank()}: ")


def leave() -> None:
    """Wait until the others are done, too, and part."""
    if count() == 1:
        return
    from torch import distributed

    if distributed.is_initialized():
        wait()
        distributed.destroy_process_group()


def wait() -> None:
    """Wait until all processes have come here."""
    agree(False)


def agree(wanted: bool) -> bool:
    """Whether any process wants it."""
    return add([float(wanted)])[0] > 0


def add(values: list[float]) -> list[float]:
    """Each value summed over the processes."""
    if count() == 1:
        return values
    import torch

    return add_tensor(torch.tensor(values, dtype=torch.float64)).tolist()


def add_tensor(tensor):
    """A tensor on the CPU, summed over the processes in place."""
    if count() > 1:
        from torch import distributed

        distributed.all_reduce(tensor)
    return tensor


def gather(value: Value) -> list[Value]:
    """Every process's value, in the order of their ranks."""
    if count() == 1:
        return [value]
    from torch import distributed

    found: list = [None] * count()
    distributed.all_gather_object(found, value)
    return found


def take_from_main(value: Value) -> Value:
    """The main process's value."""
    return gather(value if is_main() else None)[0] if count() > 1 else value


@contextmanager
def main_first() -> Iterator[None]:
    """The main process goes first, the others follow when it is through."""
    if not is_main():
        wait()
    yield
    if is_main():
        wait()


def cut_share(size: int) -> slice:
    """This process's part of `size` items in order; the parts follow one another."""
    return slice(size * rank() // count(), size * (rank() + 1) // count())
