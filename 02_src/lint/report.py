"""What a lint run found: findings, statistics, and how bad it is."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

Severity = Literal["error", "warning", "info"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")
SHOWN_PLACES = 5

T = TypeVar("T")
# Wraps a long loop to show its progress: track(items, "what is done") yields the items.
Track = Callable[[Iterable[T], str], Iterable[T]]


@dataclass(frozen=True)
class Finding:
    """One kind of defect: how often, where, and what to do about it."""

    code: str
    severity: Severity
    count: int
    text: str
    places: tuple[str, ...] = ()  # the first few, as file:line
    advice: str = ""
    options: tuple[str, ...] = ()  # the config keys that `advice` names


@dataclass(frozen=True)
class LintReport:
    """Everything known about one data file; `lengths` is for the plot and not part of the JSON."""

    file: str
    pairs: int
    findings: list[Finding]
    statistics: dict[str, Any]
    lengths: list[tuple[int, int]] = field(default_factory=list, repr=False)

    @property
    def exit_code(self) -> int:
        """1 when there is an error, else 0."""
        return int(any(finding.severity == "error" for finding in self.findings))

    def count(self, severity: Severity) -> int:
        """Number of findings of this severity."""
        return sum(finding.severity == severity for finding in self.findings)

    def find(self, code: str) -> Finding | None:
        """The finding with this code, or None."""
        return next((finding for finding in self.findings if finding.code == code), None)

    def as_json(self) -> dict[str, Any]:
        """The report as JSON values."""
        return {
            "file": self.file,
            "pairs": self.pairs,
            "errors": self.count("error"),
            "warnings": self.count("warning"),
            "statistics": self.statistics,
            "findings": [vars(finding) for finding in self.findings],
        }


def keep_places(places: Sequence[str]) -> tuple[str, ...]:
    """The first few places: enough to look at, few enough to print."""
    return tuple(places[:SHOWN_PLACES])


def make_finding(
    code: str,
    severity: Severity,
    places: Sequence[str],
    text: str,
    advice: str = "",
    options: tuple[str, ...] = (),
) -> list[Finding]:
    """A finding for all `places` whose text is "<count> <text>"; none where there is no place."""
    if not places:
        return []
    text = f"{len(places):,} {text}"
    return [Finding(code, severity, len(places), text, keep_places(places), advice, options)]


def sort_findings(findings: Iterable[Finding]) -> list[Finding]:
    """Errors first; within a severity the order of the checks."""
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))


def track_silently(items: Iterable[T], label: str) -> Iterator[T]:
    """A Track that shows nothing."""
    yield from items
