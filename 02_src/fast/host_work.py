"""Work spared on the host: walks over all modules at every step, a hash nobody reads."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch.utils.data import DataLoader
from trl.trainer import dpo_trainer

PRIMITIVES_KEPT = "128"  # a step needs about 50


def limit_primitive_cache() -> None:
    """Keep oneDNN from holding code and scratch memory for every matrix shape it ever met.

    Its cache keeps 1,024 shapes, and packed rows bring new ones for hundreds of steps: memory
    grows by half a gigabyte. Works until the process multiplies its first matrices on the CPU.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", PRIMITIVES_KEPT)


@contextmanager
def light_host_work(model: torch.nn.Module, on_gpu: bool) -> Iterator[None]:
    """Make `model.train()` and `model.zero_grad()` cheap while training.

    Both walk every module or frozen parameter, 5 to 10 ms a call on a LoRA model. On a GPU the
    CPU gets one thread: it runs a hundred tiny operations, and waking threads costs more.
    """
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    threads = torch.get_num_threads()

    def train(mode: bool = True) -> torch.nn.Module:
        return model if model.training == mode else type(model).train(model, mode)

    def zero_grad(set_to_none: bool = True) -> None:
        for parameter in trainable:
            if set_to_none:
                parameter.grad = None
            elif parameter.grad is not None:
                parameter.grad.zero_()

    type(model).train(model)
    model.train, model.zero_grad = train, zero_grad
    torch.set_num_threads(1 if on_gpu else threads)
    try:
        yield
    finally:
        del model.train, model.zero_grad
        torch.set_num_threads(threads)


@contextmanager
def without_weight_hash() -> Iterator[None]:
    """Spare DPOTrainer's sha256 over fp32 copies of all weights; our cache has its own key.

    It only serves TRL's reference cache, which is not used here, and takes 6 s for 1B weights.
    """
    stock = dpo_trainer.hash_module
    dpo_trainer.hash_module = lambda module: "unused"
    try:
        yield
    finally:
        dpo_trainer.hash_module = stock


@contextmanager
def with_reference(model: torch.nn.Module) -> Iterator[None]:
    """The adapter off for a whole pass over the data: the reference answers.

    TRL switches it off and on for each batch, and PEFT walks all modules three times to do so.
    """
    stock = dpo_trainer.use_adapter
    with model.disable_adapter():
        dpo_trainer.use_adapter = lambda *_, **__: nullcontext()
        try:
            yield
        finally:
            dpo_trainer.use_adapter = stock


def leave_on_host(loader: DataLoader) -> DataLoader:
    """Stop accelerate's loader from moving each tensor of a batch; _prepare_inputs does it."""
    loader.device = None
    return loader
