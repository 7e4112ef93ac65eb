"""How pairs lie in packed rows: tokens, positions, attention segments, and where results go.

A pair is laid out as `prompt[:-1] | prompt[-1] chosen[:-1] | prompt[-1] rejected[:-1]`. The last
prompt token opens each branch with the same position, so every completion token is predicted by
its left neighbour in its own branch. Nothing is predicted from a completion's last token, so it
is left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

SHARED, CHOSEN, REJECTED = 0, 1, 2
BRANCHES = 3
WIDTH_STEP = 16  # attention kernels want row widths in multiples of this
WIDEST_PACKED = 1024  # rows of several pairs grow no wider; attention is quadratic
ATTENTION_WIDTH = 4096  # width at which attention costs about as much as all linear layers


@dataclass(frozen=True)
class PairIds:
    """Token ids of one pair, truncated as TRL's collator does."""

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]

    @property
    def length(self) -> int:
        """Tokens this pair takes in a row."""
        return len(self.prompt) - 1 + len(self.chosen) + len(self.rejected)


def first_fit_decreasing(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Indices of `lengths` in rows of at most `capacity`; longer ones get a row of their own."""
    rows: list[list[int]] = []
    space: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        for row, free in enumerate(space):
            if lengths[index] <= free:
                rows[row].append(index)
                space[row] -= lengths[index]
                break
        else:
            rows.append([index])
            space.append(capacity - lengths[index])
    return rows


def round_to_bucket(size: int, least: int = 1) -> int:
    """`size` rounded up to an eighth of its power of two, and to a multiple of `least`."""
    step = max(least, (1 << (max(size - 1, 1).bit_length() - 1)) // 8)
    return -(-size // step) * step


def choose_rows(
    lengths: Sequence[int], row_tokens: int, few_shapes: bool
) -> tuple[list[list[int]], int]:
    """(pair indices of each row, row width) for pairs of these lengths.

    Args:
        row_tokens: preferred row length; grows to the longest pair.
        few_shapes: for CUDA graphs: widths come from a short list, and the one is taken that
            pads least; `row_tokens` is not used.
    """
    longest = max(lengths)
    if not few_shapes:
        rows = first_fit_decreasing(lengths, max(row_tokens, longest))
        return rows, max(sum(lengths[i] for i in row) for row in rows)
    choices = []
    width = round_to_bucket(longest, WIDTH_STEP)
    while not choices or width <= min(WIDEST_PACKED, round_to_bucket(sum(lengths), WIDTH_STEP)):
        rows = first_fit_decreasing(lengths, width)
        tokens = round_to_bucket(len(rows)) * width
        choices.append((tokens * (1 + width / ATTENTION_WIDTH), width, rows))
        width = round_to_bucket(width + 1, WIDTH_STEP)
    _, width, rows = min(choices)
    return rows, width


def pack_pairs(
    pairs: Sequence[PairIds],
    row_tokens: int,
    padded_length: int,
    pad_id: int,
    few_shapes: bool = False,
) -> dict[str, torch.Tensor]:
    """Packed tensors of a batch.

    Args:
        pairs: B pairs in batch order.
        row_tokens, few_shapes: see choose_rows.
        padded_length: L, the width of TRL's padded [2B, L] batch.
        pad_id: token id of unused places.

    Returns:
        packed_ids, packed_positions, packed_segments: [R, S]; the segment of a token is
            1 + 3 * pair + branch, 0 where unused.
        packed_sources: [N] flat places in [R * S] whose hidden states predict a completion token.
        packed_targets: [N] the predicted token ids.
        packed_places: [N] flat places of the results in TRL's [2B * (L - 1)].
    """
    rows, width = choose_rows([pair.length for pair in pairs], row_tokens, few_shapes)
    packed = Packed(len(rows), width, len(pairs), padded_length, pad_id)
    for row, indices in enumerate(rows):
        packed.start = row * width
        for index in indices:
            packed.add_pair(index, pairs[index])
    return packed.tensors()


class Packed:
    """Collects the packed tensors of one batch, pair by pair."""

    def __init__(self, rows: int, width: int, pairs: int, padded_length: int, pad_id: int) -> None:
        self.shape, self.pairs, self.padded_length = (rows, width), pairs, padded_length
        self.ids = [pad_id] * (rows * width)
        self.positions = [0] * (rows * width)
        self.segments = [0] * (rows * width)
        self.sources: list[int] = []
        self.targets: list[int] = []
        self.places: list[int] = []
        self.start = 0

    def add_pair(self, index: int, pair: PairIds) -> None:
        """Append one pair at the current place."""
        shared, last = len(pair.prompt) - 1, pair.prompt[-1]
        self.append(pair.prompt[:-1], 0, 1 + BRANCHES * index + SHARED)
        for branch, ids in ((CHOSEN, pair.chosen), (REJECTED, pair.rejected)):
            row = index if branch == CHOSEN else index + self.pairs
            place = row * (self.padded_length - 1) + shared
            self.sources += range(self.start, self.start + len(ids))
            self.places += range(place, place + len(ids))
            self.targets += ids
            self.append([last, *ids][: len(ids)], shared, 1 + BRANCHES * index + branch)

    def append(self, ids: list[int], position: int, segment: int) -> None:
        """Write a run of tokens of one segment."""
        end = self.start + len(ids)
        self.ids[self.start : end] = ids
        self.positions[self.start : end] = range(position, position + len(ids))
        self.segments[self.start : end] = [segment] * len(ids)
        self.start = end

    def tensors(self) -> dict[str, torch.Tensor]:
        """The collected lists as long tensors."""
        grids = {"ids": self.ids, "positions": self.positions, "segments": self.segments}
        lists = {"sources": self.sources, "targets": self.targets, "places": self.places}
        return {
            **{f"packed_{k}": torch.tensor(v).view(self.shape) for k, v in grids.items()},
            **{f"packed_{k}": torch.tensor(v) for k, v in lists.items()},
        }


def build_attention_mask(segments: torch.Tensor) -> torch.Tensor:
    """Boolean [R, 1, S, S], True where a query (dim 2) may see a key (dim 3).

    A query sees keys left of it in its own pair's shared part and in its own branch. Unused
    places see themselves, so that no softmax row is empty.
    """
    pair = torch.div(segments - 1, BRANCHES, rounding_mode="floor")  # [R, S], -1 where unused
    branch = (segments - 1) % BRANCHES
    same_pair = pair[:, :, None] == pair[:, None, :]
    open_key = (branch[:, None, :] == SHARED) | (branch[:, :, None] == branch[:, None, :])
    place = torch.arange(segments.shape[1], device=segments.device)
    causal = place[:, None] >= place[None, :]
    used = (segments > 0)[:, :, None] & (segments > 0)[:, None, :]
    diagonal = place[:, None] == place[None, :]
    return ((same_pair & open_key & causal & used) | diagonal)[:, None]
