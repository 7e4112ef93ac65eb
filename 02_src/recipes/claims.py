"""Does the shipped recipe beat a control? Exact McNemar on the same items, seed by seed.

One item an abbreviation and sense. A claim holds when the shipped recipe is better in every seed
with p at most 0.05 divided by the number of claims (Bonferroni).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from recipes.goals import GOALS, Goal
from recipes.kept import Kept
from statistics_of_runs import mcnemar_exact

ALPHA = 0.05
LETTERS = {"grounding": "g", "confusion": "c", "invention": "i"}
HOLDS, REVERSED, OPEN, UNMEASURED = (
    "holds",
    "the control is better",
    "no difference shown",
    "not measured",
)


@dataclass(frozen=True)
class Test:
    """One paired comparison: the items that only one of the two has right."""

    seed: int
    n: int
    only_control: int
    only_shipped: int
    p: float


@dataclass(frozen=True)
class Claim:
    """The shipped recipe is better than `control` by the figure of `goal`."""

    control: str
    goal: Goal
    tests: tuple[Test, ...]  # one a seed; empty: the two share no item

    def judge(self, alpha: float) -> str:
        """HOLDS, REVERSED, OPEN or UNMEASURED."""
        if not self.tests:
            return UNMEASURED
        sure = all(test.p <= alpha for test in self.tests)
        if sure and all(test.only_shipped > test.only_control for test in self.tests):
            return HOLDS
        if sure and all(test.only_shipped < test.only_control for test in self.tests):
            return REVERSED
        return OPEN

    @property
    def weakest(self) -> Test:
        """The seed with the largest p."""
        return max(self.tests, key=lambda test: test.p)


def is_right(code: str, goal: Goal) -> bool | None:
    """Whether an item counts for the model; None where it was not measured (see kept.py)."""
    outcome, strict, choice = code
    if goal.metric == "forced_choice":
        return None if choice == "." else choice == "+"
    if outcome == "-":
        return None
    hit = strict == "!" if goal.metric == "strict_grounding" else outcome == LETTERS[goal.metric]
    return hit if goal.least is not None else not hit


def compare_items(control: Kept, shipped: Kept, goal: Goal) -> Test | None:
    """One seed of one claim; None where the two share no measured item."""
    before, after = (kept.outcomes.get(goal.split, {}) for kept in (control, shipped))
    pairs = [(is_right(before[i], goal), is_right(after[i], goal)) for i in after if i in before]
    pairs = [pair for pair in pairs if None not in pair]
    if not pairs:
        return None
    only_control = sum(a and not b for a, b in pairs)
    only_shipped = sum(b and not a for a, b in pairs)
    p = mcnemar_exact(only_control, only_shipped)
    return Test(shipped.seed, len(pairs), only_control, only_shipped, p)


def make_claims(kept: Sequence[Kept], shipped: str, controls: Sequence[str]) -> list[Claim]:
    """Every goal that is counted item by item, against every control.

    A trained control is compared seed by seed, an untrained one with every seed.
    """
    claims = []
    for control in controls:
        others = [run for run in kept if run.recipe == control]
        pairs = [
            (other, run)
            for run in kept
            for other in others
            if run.recipe == shipped and other.seed in (None, run.seed)
        ]
        for goal in GOALS:
            if goal.metric == "perplexity_ratio":  # a ratio of sums, no count of items
                continue
            tests = [compare_items(*pair, goal) for pair in pairs]
            claims.append(Claim(control, goal, tuple(test for test in tests if test)))
    return claims


def choose_alpha(claims: Sequence[Claim]) -> float:
    """0.05 shared among the claims that were tested."""
    return ALPHA / max(1, sum(bool(claim.tests) for claim in claims))
