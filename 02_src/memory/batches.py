"""Which micro-steps a run will have, from its pairs' lengths: the worst and the usual one."""

import functools
import random
from collections.abc import Sequence

from fast.rehearsal import BLOCK
from fast.rows import choose_rows, round_to_bucket
from memory.activations import MicroStep

PAIRS_TRIED = 400  # in random batches, for the usual one; the worst is built from the longest
FEWEST, MOST = 9, 41  # of these batches


def shape_batch(lengths: Sequence[tuple[int, int]], few_shapes: bool, blocks: int = 0) -> MicroStep:
    """The micro-step of pairs given as (tokens in the row, predicted tokens), and of blocks."""
    entries = [length for length, _ in lengths] + [BLOCK] * blocks
    alone = [[0] * len(entries)] * len(entries)  # pairs that share tokens take less
    rows, width = choose_rows(entries, alone, few_shapes)
    count = sum(predicted for _, predicted in lengths)
    if few_shapes:
        rounded = round_to_bucket(len(rows)), width, round_to_bucket(count, 32)
        return MicroStep(*rounded, blocks * BLOCK)
    return MicroStep(len(rows), width, count, blocks * BLOCK)


def pad_batch(lengths: Sequence[tuple[int, int]]) -> MicroStep:
    """The padded rows of stock TRL: each answer with its prompt, as long as the longest."""
    longest = max(length for length, _ in lengths)
    count = sum(predicted for _, predicted in lengths)
    return MicroStep(2 * len(lengths), longest, count)


@functools.lru_cache  # plans differ in much else
def find_worst(
    lengths: tuple[tuple[int, int], ...], pairs: int, few_shapes: bool, blocks: int = 0
) -> MicroStep:
    """The largest micro-step of `pairs` pairs: the longest ones together."""
    longest = sorted(lengths, reverse=True)[:pairs]
    return shape_batch(longest, few_shapes, blocks)


@functools.lru_cache
def find_usual(
    lengths: tuple[tuple[int, int], ...], pairs: int, few_shapes: bool, blocks: int = 0
) -> MicroStep:
    """The middle one of random micro-steps, by tokens."""
    draw = random.Random(0)
    tries = min(MOST, max(FEWEST, PAIRS_TRIED // pairs))
    steps = [
        shape_batch(draw.sample(lengths, min(pairs, len(lengths))), few_shapes, blocks)
        for _ in range(tries)
    ]
    return sorted(steps, key=lambda step: step.tokens)[tries // 2]
