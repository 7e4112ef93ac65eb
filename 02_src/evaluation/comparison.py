"""Two models on the same items: exact McNemar and a bootstrap by abbreviation, per split."""

from collections.abc import Callable, Sequence

from grounding import CONFUSED, GROUNDED, INVENTED
from statistics_of_runs import compare_paired


def read_outcome(outcome: str) -> Callable[[dict], bool | None]:
    """A reader of records: did the answer have this outcome? None where none was given."""
    return lambda record: record["outcome"] == outcome if record.get("outcome") else None


def read_grounding(record: dict) -> bool | None:
    """Whether a right expansion was said; None where no expansion is right or none was asked."""
    return read_outcome(GROUNDED)(record) if record.get("accepted") else None


def read_choice(record: dict) -> bool | None:
    """Whether the forced choice was right; None where there was none."""
    return record["choice_margin"] > 0 if "choice_margin" in record else None


METRICS: dict[str, Callable[[dict], bool | None]] = {
    "grounding": read_grounding,
    "confusion": read_outcome(CONFUSED),
    "invention": read_outcome(INVENTED),
    "forced_choice": read_choice,
}


def compare_models(first: Sequence[dict], second: Sequence[dict], names: tuple[str, str]) -> list:
    """Paired comparisons of two models' records, for every split and metric both have.

    Args:
        first, second: records of all splits, one model each.
        names: how the report calls the two.
    """
    found = []
    for split in dict.fromkeys(record["split"] for record in second):
        before = {record["item"]: record for record in first if record["split"] == split}
        both = [
            (before[record["item"]], record)
            for record in second
            if record["split"] == split and record["item"] in before
        ]
        for metric, read in METRICS.items():
            comparison = compare_metric(both, read)
            if comparison:
                labels = {"first": names[0], "second": names[1], "split": split, "metric": metric}
                found.append({**labels, **comparison})
    return found


def compare_metric(
    both: Sequence[tuple[dict, dict]], read: Callable[[dict], bool | None]
) -> dict | None:
    """One metric on the items where both models have it; None where there is no such item."""
    values = [(read(a), read(b), b.get("abbreviation") or str(b["id"])) for a, b in both]
    values = [value for value in values if None not in value[:2]]
    return compare_paired(*zip(*values, strict=True)) if values else None
