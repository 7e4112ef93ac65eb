"""The order of the pairs: where they are long, a batch holds pairs of like length.

A long pair has a row of its own, as wide as the longest of its batch; with lengths drawn at random
a sixth of such rows is padding. Short pairs share rows, so their order stays random.
"""

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler

import processes
from fast.columns import measure_pairs

LONG_PAIR = 400  # tokens of a usual pair from which batches are grouped
BATCHES_SORTED = 8  # pairs of so many batches are sorted together, the rest stays to chance


class LikeLengths(Sampler[int]):
    """Indices such that every `batch` in a row are of like length; the batches come in any order.

    The order follows from seed and epoch alone, so a resumed epoch goes on in it.
    """

    def __init__(self, lengths: Sequence[int], batch: int, seed: int) -> None:
        self.lengths, self.batch, self.seed, self.epoch = lengths, batch, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Trainer calls this before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        draw = torch.Generator().manual_seed(self.seed + self.epoch)
        order = torch.randperm(len(self), generator=draw).tolist()
        whole = len(order) - len(order) % self.batch  # a smaller last batch stays the last
        batches = []
        for start in range(0, whole, BATCHES_SORTED * self.batch):
            group = order[start : min(whole, start + BATCHES_SORTED * self.batch)]
            group.sort(key=lambda i: self.lengths[i])
            batches += [group[i : i + self.batch] for i in range(0, len(group), self.batch)]
        for number in torch.randperm(len(batches), generator=draw).tolist():
            yield from batches[number]
        yield from order[whole:]


def group_long_pairs(trainer) -> LikeLengths | None:
    """The order for a trainer's pairs; None where they are short, or not packed in rows."""
    arguments, lengths = trainer.args, measure_pairs(trainer.train_dataset)
    # The whole step's pairs: a run that goes on with another split of it keeps its order.
    batch = arguments.train_batch_size * arguments.gradient_accumulation_steps * processes.count()
    short = sum(lengths) < LONG_PAIR * len(lengths)
    if short or len(lengths) < 2 * batch or trainer.fast_obstacle is not None:
        return None
    return LikeLengths(lengths, batch, trainer.args.seed)
