"""Intervals and paired tests for evaluation figures. No torch; checked against scipy."""

import math
from dataclasses import asdict, dataclass

Z95 = 1.959963984540054


@dataclass(frozen=True)
class Share:
    """A proportion with its 95 % Wilson interval (Wilson 1927)."""

    value: float
    low: float
    high: float
    n: int

    def to_dict(self) -> dict:
        """For evaluation.json."""
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.value:.1%} ({self.low:.1%}-{self.high:.1%}, n={self.n})"


def wilson(successes: int, n: int, z: float = Z95) -> Share:
    """Share `successes` / `n` with its Wilson score interval; 0 to 1 where n is 0."""
    if n == 0:
        return Share(float("nan"), 0.0, 1.0, 0)
    p = successes / n
    center = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return Share(p, max(0.0, center - half), min(1.0, center + half), n)


def mcnemar_exact(only_first: int, only_second: int) -> float:
    """Two-sided exact McNemar p-value from the two discordant counts."""
    n, k = only_first + only_second, min(only_first, only_second)
    if n == 0:
        return 1.0
    tail = sum(math.comb(n, i) for i in range(k + 1)) / 2**n
    return min(1.0, 2 * tail)
