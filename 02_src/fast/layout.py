"""How pairs lie in packed rows: tokens, positions, what each token may see, where results go.

A row is the tree of its sequences (prompt + chosen, prompt + rejected, for each of its pairs),
written depth first: what several sequences begin with is there once, be it the chat template's
header, a prompt, or the first words of both answers. A token's position is its depth. It is seen
by what lies below it in the tree, and these are the places behind it up to its `end`. The
sequences "a b c d", "a b e" and "a f" make

    place     0    1    2    3    4    5
    token     a    b    c    d    e    f
    position  0    1    2    3    2    1
    end       6    5    4    4    5    6

So one number a token holds the whole mask. Every completion token is predicted by its parent.
Nothing is predicted from a completion's last token, so it is left out. With dropout, tokens that
sequences share would share its mask; then only the two sequences of one pair are merged.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch

from fast.rows import WIDTH_STEP, choose_rows, round_to_bucket


@dataclass(frozen=True)
class PairIds:
    """Token ids of one pair, truncated as TRL's collator does."""

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]

    @property
    def sequences(self) -> tuple[list[int], list[int]]:
        """The tokens that are computed: all but each answer's last."""
        return self.prompt + self.chosen[:-1], self.prompt + self.rejected[:-1]

    @property
    def length(self) -> int:
        """Tokens this pair takes in a row of its own."""
        first, second = self.sequences
        return len(first) + len(second) - count_common(first, second)


def count_common(a: Sequence[int], b: Sequence[int]) -> int:
    """Tokens that two sequences begin with in common; by bisection, since slices compare fast."""
    known, most = 0, min(len(a), len(b))
    while known < most:
        middle = (known + most + 1) // 2
        if a[known:middle] == b[known:middle]:
            known = middle
        else:
            most = middle - 1
    return known


def count_shared(pairs: Sequence[PairIds], share: bool) -> list[list[int]]:
    """[B][B] prompt tokens each two pairs begin with in common; 0 where they may not share."""
    order = sorted(range(len(pairs)), key=lambda i: pairs[i].prompt)
    prompts = [pairs[i].prompt for i in order]
    steps = np.array([count_common(a, b) for a, b in zip(prompts, prompts[1:], strict=False)])
    shared = np.zeros((len(pairs), len(pairs)), dtype=np.int64)
    for at, i in enumerate(order[:-1] if share else []):
        shared[i, order[at + 1 :]] = np.minimum.accumulate(steps[at:])
    return np.maximum(shared, shared.T).tolist()


def measure_entries(
    pairs: Sequence[PairIds], share: bool, blocks: Sequence[int] = ()
) -> tuple[list[int], list[list[int]]]:
    """(lengths, shared) as choose_rows takes them, of pairs and then blocks of these lengths."""
    alone = [*(pair.length for pair in pairs), *blocks]
    nothing = [0] * len(blocks)
    shared = [row + nothing for row in count_shared(pairs, share)]
    return alone, shared + [[0] * len(alone)] * len(blocks)


def pack_pairs(
    pairs: Sequence[PairIds],
    padded_length: int,
    pad_id: int,
    few_shapes: bool = False,
    share: bool = True,
    usual_width: int | None = None,
    blocks: Sequence[tuple[int, list[int]]] = (),
) -> dict[str, torch.Tensor]:
    """Packed tensors of a batch.

    Args:
        pairs: B pairs in batch order.
        padded_length: L, the width of TRL's padded [2B, L] batch.
        pad_id: token id of unused places.
        few_shapes, usual_width: see fast.rows.choose_rows.
        share: whether pairs may share tokens; False with dropout.
        blocks: (number, token ids) of the blocks of text to rehearse, all of one length.

    Returns:
        packed_ids, packed_positions, packed_ends: [R, S]; ends are 0 where unused.
        packed_sources: [M + N] flat places in [R * S] whose hidden states are used: first those of
            the blocks' M tokens, then those that predict a completion token.
        packed_lessons: [M] of each of these tokens, its place among the tokens of all blocks.
        packed_targets: [N] the predicted token ids.
        packed_places: [N] flat places of the results in TRL's [2B * (L - 1)].
    """
    lengths, shared = measure_entries(pairs, share, [len(ids) for _, ids in blocks])
    rows, width = choose_rows(lengths, shared, few_shapes, usual_width)
    trees = [RowTree(pairs, row, padded_length, share, blocks) for row in rows]
    if not few_shapes:
        width = round_to_bucket(max(len(tree.ids) for tree in trees), WIDTH_STEP)
    grids = {
        name: fill_grid([getattr(tree, name) for tree in trees], width, fill)
        for name, fill in (("ids", pad_id), ("positions", 0), ("ends", 0))
    }
    packed = {**grids, **join_lists(trees, width)}
    return {f"packed_{name}": tensor for name, tensor in packed.items()}


def join_lists(trees: Sequence["RowTree"], width: int) -> dict[str, torch.Tensor]:
    """What the rows point to, by name: each list one behind the other, as int64."""
    used = [(r * width, tree.recited) for r, tree in enumerate(trees)]
    used += [(r * width, tree.sources) for r, tree in enumerate(trees)]
    lists = {
        "sources": [start + place for start, places in used for place in places],
        "lessons": [number for tree in trees for number in tree.lessons],
        "targets": [token for tree in trees for token in tree.targets],
        "places": [place for tree in trees for place in tree.places],
    }
    return {name: torch.tensor(values, dtype=torch.long) for name, values in lists.items()}


def fill_grid(rows: Sequence[list[int]], width: int, fill: int) -> torch.Tensor:
    """[R, width] int64: the rows, each with `fill` behind it."""
    used = np.arange(width) < np.array([len(row) for row in rows])[:, None]
    grid = np.full(used.shape, fill, dtype=np.int64)
    grid[used] = np.fromiter(chain.from_iterable(rows), dtype=np.int64)
    return torch.from_numpy(grid)


class RowTree:
    """One row: the tree of the sequences of some pairs, depth first, and blocks behind it."""

    def __init__(
        self,
        pairs: Sequence[PairIds],
        row: Sequence[int],
        padded_length: int,
        share: bool,
        blocks: Sequence[tuple[int, list[int]]] = (),
    ) -> None:
        self.ids: list[int] = []
        self.positions: list[int] = []
        self.ends: list[int] = []
        self.sources: list[int] = []
        self.targets: list[int] = []
        self.places: list[int] = []
        self.recited: list[int] = []  # places of the blocks' tokens
        self.lessons: list[int] = []
        self.path: list[int] = []  # places of the newest sequence's tokens, by depth
        entries = [
            (0 if share else index, ids, answer, place)
            for index in row
            if index < len(pairs)
            for ids, answer, place in zip(
                pairs[index].sequences,
                (pairs[index].chosen, pairs[index].rejected),
                (index, index + len(pairs)),
                strict=True,
            )
        ]
        before: tuple[int, list[int]] = (-1, [])
        for group, ids, answer, place in sorted(entries, key=lambda entry: entry[:2]):
            self.add(ids, count_common(before[1], ids) if group == before[0] else 0)
            first = len(ids) - len(answer)  # the prompt's last token predicts the first answer one
            self.sources += self.path[first:]
            self.targets += answer
            start = place * (padded_length - 1) + first
            self.places += range(start, start + len(answer))
            before = group, ids
        for index in (index for index in row if index >= len(pairs)):
            self.recite(*blocks[index - len(pairs)])
        self.close(0)

    def recite(self, number: int, ids: list[int]) -> None:
        """Append a block, which shares nothing."""
        self.add(ids, 0)
        self.recited += self.path
        self.lessons += range(number * len(ids), (number + 1) * len(ids))

    def add(self, ids: list[int], common: int) -> None:
        """Append what `ids` does not share with the sequence before it."""
        self.close(common)
        start = len(self.ids)
        self.ids += ids[common:]
        self.positions += range(common, len(ids))
        self.ends += [0] * (len(ids) - common)
        self.path += range(start, len(self.ids))

    def close(self, depth: int) -> None:
        """Nothing more comes below the newest sequence's tokens from `depth` on."""
        for place in self.path[depth:]:
            self.ends[place] = len(self.ids)
        del self.path[depth:]


def build_attention_mask(ends: torch.Tensor) -> torch.Tensor:
    """Boolean [R, 1, S, S], True where a query (dim 2) may see a key (dim 3).

    A query sees itself and what lies above it in the tree. Unused places see themselves, so that
    no softmax row is empty.
    """
    place = torch.arange(ends.shape[1], device=ends.device)
    below = (place[:, None] > place[None, :]) & (place[:, None] < ends[:, None, :])
    return (below | (place[:, None] == place[None, :]))[:, None]
