"""Which pairs share a row, and how wide rows are.

With CUDA graphs one width is chosen from the data for the whole run, so that few shapes have to be
captured; without them each batch gets the width that suits it.
"""

import heapq
import math
from collections.abc import Sequence

WIDTH_STEP = 16  # attention kernels want row widths in multiples of this
WIDEST_PACKED = 1024  # rows of several pairs grow no wider; attention is quadratic
ATTENTION_WIDTH = 4096  # width at which attention costs about as much as all linear layers
ATTENTION_WIDTH_CPU = 1024
REFERENCE_TOKENS = 2048  # of a batch of the reference pass; more is not faster on a CPU
REFERENCE_HIDDEN = 2048  # a GPU takes more of them where hidden states are narrower than this,
MOST_REFERENCE = 3  # up to this many times as many
Batch = tuple[Sequence[int], Sequence[Sequence[int]]]


def fill_rows(
    lengths: Sequence[int], shared: Sequence[Sequence[int]], capacity: int
) -> list[list[int]]:
    """First-fit decreasing: indices in rows of at most `capacity`; longer ones get their own.

    In a row, a pair costs its length less what it shares with any pair that is there.
    """
    rows: list[list[int]] = []
    space: list[int] = []
    known: list[Sequence[int]] = []  # of each row: what each pair shares with one of its members
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        for row, members in enumerate(rows):
            cost = lengths[index] - known[row][index]
            if cost <= space[row]:
                members.append(index)
                space[row] -= cost
                known[row] = list(map(max, known[row], shared[index]))
                break
        else:
            rows.append([index])
            space.append(capacity - lengths[index])
            known.append(shared[index])
    return rows


def count_tokens(
    row: Sequence[int], lengths: Sequence[int], shared: Sequence[Sequence[int]]
) -> int:
    """Tokens of a row as fill_rows counts them: each pair less what it shares with one before."""
    return sum(
        lengths[index] - max((shared[index][j] for j in row[:at]), default=0)
        for at, index in enumerate(row)
    )


def round_to_bucket(size: int, least: int = 1) -> int:
    """`size` rounded up to an eighth of its power of two, and to a multiple of `least`."""
    step = max(least, (1 << (max(size - 1, 1).bit_length() - 1)) // 8)
    return -(-size // step) * step


def count_reference_tokens(
    lengths: Sequence[int], pairs: int, hidden_size: int, device_type: str
) -> int:
    """Tokens of a batch of the reference pass.

    A GPU waits for launches: there, as many as the longest `pairs` have. As many are trained or
    validated at once, which takes more memory.
    """
    if device_type != "cuda":
        return REFERENCE_TOKENS
    narrower = max(1, REFERENCE_HIDDEN // hidden_size)
    least = REFERENCE_TOKENS * min(narrower, MOST_REFERENCE)
    return max(least, sum(heapq.nlargest(pairs, lengths)))


def choose_rows(
    lengths: Sequence[int],
    shared: Sequence[Sequence[int]],
    few_shapes: bool,
    usual_width: int | None = None,
) -> tuple[list[list[int]], int]:
    """(pair indices of each row, row width): the cheapest of a short list of widths.

    Args:
        lengths: tokens of each pair alone.
        shared: see fast.layout.count_shared.
        few_shapes: for CUDA graphs: the number of rows is rounded up, too.
        usual_width: the run's one width (see choose_width), taken where every pair fits it.
    """
    if usual_width is not None and max(lengths) <= usual_width:
        return fill_rows(lengths, shared, usual_width), usual_width
    least = count_least(lengths, shared)
    square = ATTENTION_WIDTH if few_shapes else ATTENTION_WIDTH_CPU
    choices: list[tuple[float, int, list[list[int]]]] = []
    for width in list_widths(max(lengths), least):
        if choices and least * (1 + width / square) >= min(choices)[0]:
            break
        rows = fill_rows(lengths, shared, width)
        count = round_to_bucket(len(rows)) if few_shapes else len(rows)
        choices.append((count * width * (1 + width / square), width, rows))
    _, width, rows = min(choices)
    return rows, width


def count_least(lengths: Sequence[int], shared: Sequence[Sequence[int]]) -> int:
    """Tokens of all pairs in one row: no rows take fewer."""
    (all_in_one,) = fill_rows(lengths, shared, sum(lengths))
    return count_tokens(all_in_one, lengths, shared)


def list_widths(longest: int, least: int) -> list[int]:
    """The row widths to choose from, narrow ones first; at least one."""
    widths = [round_to_bucket(longest, WIDTH_STEP)]
    widest = min(WIDEST_PACKED, round_to_bucket(least, WIDTH_STEP))
    while (width := round_to_bucket(widths[-1] + 1, WIDTH_STEP)) <= widest:
        widths.append(width)
    return widths


def choose_width(batches: Sequence[Batch]) -> int | None:
    """The row width that costs least over some batches of a run; None where pairs are so long that
    they have rows of their own.

    Args:
        batches: (lengths, shared) of each, as choose_rows takes them.
    """
    mean = sum(map(sum, (b[0] for b in batches))) / sum(len(b[0]) for b in batches)
    longest = max(max(lengths) for lengths, _ in batches)
    leasts = [count_least(*batch) for batch in batches]
    best = (math.inf, 0)  # cost, width
    for width in list_widths(longest, max(leasts)):
        dearer = 1 + width / ATTENTION_WIDTH
        if dearer * sum(leasts) >= best[0]:
            break  # wider rows cost more even without padding
        rows = [round_to_bucket(len(fill_rows(*batch, width))) for batch in batches]
        best = min(best, (dearer * width * sum(rows), width))
    return best[1] if best[1] >= 2 * mean else None
