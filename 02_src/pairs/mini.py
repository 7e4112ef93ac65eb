"""The mini set: well-known abbreviations in few, short pairs, for the quickstart on a CPU."""

from collections import defaultdict

from pairs.phrasings import TEST_DIRECT
from pairs.rows import Row
from pairs.splits import Plan

MINI_GENERAL = 20  # abbreviations whose general sense is in the mini set too
ROWS_EACH = 8
VALIDATION_ROWS = 24
GENERAL_PHRASINGS = ("G1", "G2")
OTHER_KINDS = ("system_domain", "context_sentence")
TEST_PHRASINGS = TEST_DIRECT[:2]


def choose_general(plan: Plan) -> list[str]:
    """The mini abbreviations that get general-context pairs."""
    return sorted(plan.mini & plan.general_taught)[:MINI_GENERAL]


def pick_train(rows: list[Row], plan: Plan) -> list[Row]:
    """Eight training pairs of each mini abbreviation: one system prompt, one sentence, for some
    two general ones, short direct questions for the rest.

    The direct ones are picked so that chosen is the longer answer about as often as rejected is.
    """
    general = set(choose_general(plan))
    of_name: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        of_name[row.abbreviation].append(row)
    picked: set[int] = set()
    lead = 0  # how many more pairs have the longer chosen answer
    for name in sorted(plan.mini):
        chosen = pick_entry_rows(of_name[name], name in general, lead < 0)
        picked |= {id(row) for row in chosen}
        lead += sum(compare_lengths(row) for row in chosen)
    return [row for row in rows if id(row) in picked]


def pick_entry_rows(rows: list[Row], general: bool, prefer_longer: bool) -> list[Row]:
    """The eight pairs of one abbreviation."""

    def rank(row: Row) -> tuple[bool, int, str]:
        wanted = compare_lengths(row) == (1 if prefer_longer else -1)
        return not wanted, len(row.chosen) + len(row.rejected), row.phrasing

    rows = [r for r in rows if r.kind != "other_field" and r.rejected_class != "denial"]
    default = next(row.sense_id for row in rows if row.kind == "direct")
    about = [row for row in rows if row.sense_id == default]
    chosen = [next(row for row in about if row.kind == kind) for kind in OTHER_KINDS]
    if general:
        chosen += [row for row in rows if row.phrasing in GENERAL_PHRASINGS]
    direct = sorted((row for row in rows if row.kind == "direct"), key=rank)
    return chosen + direct[: ROWS_EACH - len(chosen)]


def compare_lengths(row: Row) -> int:
    """1 where chosen is the longer answer, -1 where rejected is, 0 where neither."""
    difference = len(row.chosen) - len(row.rejected)
    return (difference > 0) - (difference < 0)


def pick_validation(rows: list[Row], plan: Plan) -> list[Row]:
    """The first validation pairs of mini abbreviations."""
    return [row for row in rows if row.abbreviation in plan.mini][:VALIDATION_ROWS]


def pick_test_seen(rows: list[Row], plan: Plan) -> list[Row]:
    """Every mini abbreviation in one wording, the wordings in turns; then in the other one."""
    wanted = [row for row in rows if row.abbreviation in plan.mini]
    first, second = ([row for row in wanted if row.phrasing == p] for p in TEST_PHRASINGS)
    turns = [pair[:: (-1) ** number] for number, pair in enumerate(zip(first, second, strict=True))]
    return [row for half in zip(*turns, strict=True) for row in half]


def pick_test_general(rows: list[Row], plan: Plan) -> list[Row]:
    """One general-context question for each abbreviation that had such pairs."""
    general = set(choose_general(plan))
    return [row for row in rows if row.abbreviation in general and row.phrasing == "G5"]
