"""Rows that repeat or contradict each other: exact, nearly, and the other way round."""

from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np

from lint.report import Finding, Track, make_finding
from lint.rows import LintRow
from lint.shingles import collect_pairs, compare_sets, fold_bands, sign_rows

ALIKE = 0.85  # shared word pairs over all word pairs of two rows (Jaccard)
SURE_ENOUGH = 0.775  # share of equal MinHashes that is worth an exact comparison
NEIGHBOURS = 4  # earlier rows of a bucket each row is compared with: keeps templates linear


def find_repeats(rows: Sequence[LintRow], track: Track) -> list[Finding]:
    """Rows that repeat an earlier one exactly, or share nearly all their word pairs with it."""
    copies = find_copies(rows)
    kept = [row for index, row in enumerate(rows) if index not in copies]
    twins = sorted(find_twins(kept, track).items())
    same = [f"{rows[later].source} = {rows[first].source}" for later, first in copies.items()]
    near = [f"{kept[later].source} ~ {kept[first].source}" for later, first in twins]
    text = f"row(s) nearly repeat an earlier one (at least {ALIKE:.0%} of the word pairs)"
    advice = "keep one of each, or make fewer passes (num_train_epochs): they count double"
    return [
        *make_finding(
            "duplicate", "warning", same,
            "row(s) repeat an earlier one exactly; training leaves them out", "remove them",
        ),
        *make_finding("near_duplicate", "warning", near, text, advice, ("num_train_epochs",)),
    ]  # fmt: skip


def find_copies(rows: Sequence[LintRow]) -> dict[int, int]:
    """{row: its first exact copy} by index; the same comparison as training makes."""
    seen: dict[tuple[str, str, str], int] = {}
    copies = {}
    for index, row in enumerate(rows):
        first = seen.setdefault((row.pair.prompt_key, row.pair.chosen, row.pair.rejected), index)
        if first != index:
            copies[index] = first
    return copies


def find_twins(rows: Sequence[LintRow], track: Track) -> dict[int, int]:
    """{row: an earlier row much like it} by index: MinHash finds candidates, sets decide."""
    if len(rows) < 2:
        return {}

    @lru_cache(maxsize=4096)
    def collect(index: int) -> set:
        return collect_pairs(list_texts(rows[index]))

    watched = track(rows, "looking for near-duplicates")
    signatures = sign_rows(list_texts(row) for row in watched)
    twins: dict[int, int] = {}
    tried: set[tuple[int, int]] = set()
    for later, first in list_candidates(signatures):
        if later in twins or (later, first) in tried:
            continue
        tried.add((later, first))
        if compare_sets(collect(later), collect(first)) >= ALIKE:
            twins[later] = first
    return twins


def list_texts(row: LintRow) -> tuple[str, str, str]:
    """The three texts apart from each other, so that a swapped pair is no twin."""
    return row.prompt, row.chosen, row.rejected


def list_candidates(signatures: np.ndarray) -> Iterator[tuple[int, int]]:
    """(later, earlier) rows that share a band and most of their signature, nearest first."""
    bands = fold_bands(signatures).T
    orders = [np.argsort(keys, kind="stable") for keys in bands]
    for step in range(1, NEIGHBOURS + 1):
        for keys, order in zip(bands, orders, strict=True):
            first, later = order[:-step], order[step:]
            same = keys[first] == keys[later]
            first, later = first[same], later[same]
            equal = (signatures[first] == signatures[later]).mean(axis=1)
            close = equal >= SURE_ENOUGH
            yield from zip(later[close].tolist(), first[close].tolist(), strict=True)


def find_contradictions(rows: Sequence[LintRow]) -> list[Finding]:
    """Pairs that prefer a to b where another prefers b to a, whatever case and punctuation."""
    seen: dict[tuple[str, str, str], LintRow] = {}
    places = []
    for row in rows:
        other = seen.get((row.prompt, row.rejected, row.chosen))
        if other and row.chosen != row.rejected and fold_texts(row) == fold_texts(other, True):
            places.append(f"{row.source} against {other.source}")
        seen.setdefault((row.prompt, row.chosen, row.rejected), row)
    text = "pair(s) contradict another: chosen and rejected are swapped"
    advice = 'remove one of the two; for noisy labels loss_type "robust" with label_smoothing 0.1'
    options = ("loss_type", "label_smoothing")
    return make_finding("contradiction", "error", places, text, advice, options)


def fold_texts(row: LintRow, swapped: bool = False) -> tuple[str, ...]:
    """Prompt and answers without case, spacing and end marks; operators stay (3*4 is not 3+4)."""
    prompt = "\n".join(message["content"] for message in row.pair.prompt)
    answers = (row.pair.chosen, row.pair.rejected)
    texts = (prompt, *(reversed(answers) if swapped else answers))
    return tuple(" ".join(text.casefold().split()).rstrip(" .!?,;:") for text in texts)


def find_mixed_preferences(rows: Sequence[LintRow]) -> list[Finding]:
    """Answers chosen in one pair and rejected in another of the same prompt: fine in a ranking."""
    chosen: dict[tuple[str, str], str] = {}
    for row in rows:
        chosen.setdefault((row.prompt, row.chosen), row.source)
    swapped = {(row.prompt, row.chosen, row.rejected) for row in rows}
    places = [
        f"{row.source} against {chosen[row.prompt, row.rejected]}"
        for row in rows
        if (row.prompt, row.rejected) in chosen
        and row.chosen != row.rejected
        and (row.prompt, row.rejected, row.chosen) not in swapped
    ]
    text = "rejected answer(s) are the chosen one of another pair with the same prompt"
    return make_finding("mixed_preference", "info", places, text, "fine if they form a ranking")
