"""Intervals and paired tests for evaluation figures. No torch; checked against scipy.

One proportion: Wilson 1927. Two models on the same items: exact McNemar, and a bootstrap that
resamples whole abbreviations, since questions about one abbreviation rise and fall together.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np

Z95 = 1.959963984540054
RESAMPLES = 10_000
BOOTSTRAP_SEED = 20_230_529  # fixed: the same items give the same interval


@dataclass(frozen=True)
class Share:
    """A proportion with its 95 % Wilson interval (Wilson 1927); value is None where n is 0."""

    value: float | None
    low: float
    high: float
    n: int

    def to_dict(self) -> dict:
        """For evaluation.json."""
        return asdict(self)

    def __str__(self) -> str:
        if not self.n:
            return "-"
        return f"{self.value:.1%} ({self.low:.1%}-{self.high:.1%}, n={self.n})"


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float

    def to_dict(self) -> dict:
        """For evaluation.json."""
        return asdict(self)


def wilson(successes: int, n: int, z: float = Z95) -> Share:
    """Share `successes` / `n` with its Wilson score interval; 0 to 1 where n is 0."""
    if n == 0:
        return Share(None, 0.0, 1.0, 0)
    p = successes / n
    center = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return Share(p, max(0.0, center - half), min(1.0, center + half), n)


def share_of(flags: Sequence[bool]) -> Share:
    """Share of true values."""
    return wilson(sum(map(bool, flags)), len(flags))


def mcnemar_exact(only_first: int, only_second: int) -> float:
    """Two-sided exact McNemar p-value from the two discordant counts (McNemar 1947)."""
    n, k = only_first + only_second, min(only_first, only_second)
    if n == 0:
        return 1.0
    tail = sum(math.comb(n, i) for i in range(k + 1)) / 2**n
    return min(1.0, 2 * tail)


def compare_paired(first: Sequence[bool], second: Sequence[bool], clusters: Sequence[str]) -> dict:
    """Two models' hits on the same items: counts, exact McNemar, second minus first.

    Args:
        first, second: whether each model was right on an item, in the same order.
        clusters: the abbreviation of each item.
    """
    only_first = sum(a and not b for a, b in zip(first, second, strict=True))
    only_second = sum(b and not a for a, b in zip(first, second, strict=True))
    return {
        "n": len(first),
        "only_first": only_first,
        "only_second": only_second,
        "p": mcnemar_exact(only_first, only_second),
        "difference": bootstrap_difference(first, second, clusters).to_dict(),
    }


def bootstrap_difference(
    first: Sequence[bool], second: Sequence[bool], clusters: Sequence[str]
) -> Estimate:
    """Mean of second minus first with a percentile interval, resampled by cluster."""
    names, index = np.unique(np.asarray(clusters, dtype=str), return_inverse=True)
    difference = np.asarray(second, dtype=float) - np.asarray(first, dtype=float)
    sums = np.bincount(index, weights=difference, minlength=len(names))
    sizes = np.bincount(index, minlength=len(names)).astype(float)
    return bootstrap(sums, sizes, lambda above, below: above / below)


def bootstrap_ratio(above: Sequence[float], below: Sequence[float]) -> Estimate:
    """sum(above) / sum(below) with a percentile interval, resampled by item."""
    return bootstrap(np.asarray(above), np.asarray(below), lambda a, b: a / b)


def bootstrap(
    above: np.ndarray,
    below: np.ndarray,
    statistic: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> Estimate:
    """statistic(sum of above, sum of below) over units drawn with replacement (Efron 1979)."""
    generator = np.random.default_rng(BOOTSTRAP_SEED)
    tops, bottoms = np.empty(RESAMPLES), np.empty(RESAMPLES)
    for start in range(0, RESAMPLES, 1000):  # a thousand draws at a time: bounded memory
        drawn = generator.integers(0, len(above), size=(1000, len(above)))
        tops[start : start + 1000] = above[drawn].sum(1)
        bottoms[start : start + 1000] = below[drawn].sum(1)
    low, high = np.quantile(statistic(tops, bottoms), [0.025, 0.975])
    value = statistic(above.sum(), below.sum())
    return Estimate(float(value), float(low), float(high))
