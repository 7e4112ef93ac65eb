"""How the pairs of each optimizer step are dealt to the processes: alike in tokens, none twice.

The pairs of a step are those one process would take, in the same order. They go to all processes'
micro-batches so that each has about as many tokens; in an epoch's last, smaller step some
micro-batches may stay empty. What a micro-batch counts for follows from its pairs (fast.parallel).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from accelerate.data_loader import DataLoaderShard
from torch.utils.data import DataLoader, Sampler

Counts = dict[str, int]


def spread_pairs(lengths: Sequence[int], bins: int, most: int) -> list[list[int]]:
    """Indices in `bins` lists of at most `most`: the longest first, each to the emptiest list."""
    found: list[list[int]] = [[] for _ in range(bins)]
    tokens = [0] * bins
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        open_bins = [b for b in range(bins) if len(found[b]) < most]
        chosen = min(open_bins, key=lambda b: (tokens[b], len(found[b])))
        found[chosen].append(index)
        tokens[chosen] += lengths[index]
    return [sorted(members) for members in found]


@dataclass
class StepBatches:
    """Batch sampler of one process: its micro-batches of every optimizer step, as row indices.

    All processes give the same number of micro-batches in each step.
    """

    sampler: Sampler  # the order of the rows, the same in all processes; its epoch is set
    lengths: Sequence[int]  # tokens of each row
    batch: int  # pairs in a micro-batch at most
    micro_steps: int  # of a whole step, in each process
    rank: int
    count: int  # processes
    balanced: bool = True  # False: whole batches take turns, as one process would have them

    @property
    def whole(self) -> int:
        """Pairs in a whole optimizer step."""
        return self.batch * self.micro_steps * self.count

    def __len__(self) -> int:
        full, rest = divmod(len(self.lengths), self.whole)
        return full * self.micro_steps + self.count_micro_steps(rest)

    def count_micro_steps(self, pairs: int) -> int:
        """Micro-steps that so many pairs take in each process."""
        return -(-pairs // (self.batch * self.count))

    def __iter__(self) -> Iterator[list[int]]:
        order = list(self.sampler)
        for start in range(0, len(order), self.whole):
            dealt = self.deal(order[start : start + self.whole])
            yield from dealt[self.rank :: self.count]

    def deal(self, rows: list[int]) -> list[list[int]]:
        """The micro-batches of all processes for the rows of one step, in turns."""
        bins = self.count_micro_steps(len(rows)) * self.count
        if not self.balanced:
            return [rows[i * self.batch : (i + 1) * self.batch] for i in range(bins)]
        dealt = spread_pairs([self.lengths[row] for row in rows], bins, self.batch)
        return [[rows[i] for i in members] for members in dealt]


@dataclass
class CountingCollator:
    """Adds `pairs`, how many a batch holds. An empty one gets a stand-in that counts as none.

    It keeps all processes at the same number of forward passes, which sharded weights need.
    """

    collate: Any
    stand_in: dict[str, Any]

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        batch = self.collate(rows or [self.stand_in])
        batch["pairs"] = len(rows)
        return batch


def share_loader(loader: DataLoader, batches: StepBatches) -> DataLoaderShard:
    """`loader` with this process's batches; they stay on the host, as fast.trainer wants them."""
    return DataLoaderShard(
        loader.dataset,
        batch_sampler=batches,
        collate_fn=CountingCollator(loader.collate_fn, loader.dataset[0]),
        num_workers=loader.num_workers,
        persistent_workers=loader.persistent_workers,
        pin_memory=loader.pin_memory,
        worker_init_fn=loader.worker_init_fn,
    )


def count_pairs(batch: dict[str, Any]) -> Counts:
    """Pairs and answer tokens of a batch in TRL's layout; zeros for a stand-in."""
    mask = batch["completion_mask"][:, 1:]
    chosen, rejected = (int(half.sum()) for half in mask.chunk(2))
    pairs = batch.get("pairs", len(mask) // 2)
    if not pairs:
        return {"pairs": 0, "chosen": 0, "rejected": 0, "tokens": 0}
    return {"pairs": pairs, "chosen": chosen, "rejected": rejected, "tokens": chosen + rejected}
