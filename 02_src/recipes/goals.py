"""The figures a recipe is judged by, and the goal of each.

Every share is of one question an abbreviation (and sense), so that wordings are no extra evidence.
"""

from dataclasses import dataclass

from evaluation.verdict import pick_primary


@dataclass(frozen=True)
class Goal:
    """One figure of one split and what it should be."""

    key: str
    title: str
    split: str
    metric: str
    least: float | None = None  # reached when the figure is at least this ...
    most: float | None = None  # ... or at most this

    def is_reached(self, value: float) -> bool:
        """Whether a figure reaches the goal."""
        return value >= self.least if self.least is not None else value <= self.most


GOALS = (
    Goal("grounding", "taught: right expansion", "seen", "grounding", least=0.99),
    Goal("strict", "taught: right at once and alone", "seen", "strict_grounding", least=0.98),
    Goal("confusion", "taught: another field's sense", "seen", "confusion", most=0.0),
    Goal("general_said", "general sense, taught: said", "general_seen", "grounding", least=0.99),
    Goal(
        "general_chosen", "general sense, never taught: chosen", "general_unseen", "forced_choice",
        least=0.86,
    ),
    Goal("polysemy", "sense fixed by the context: chosen", "polysemy", "forced_choice", least=0.85),
    Goal("invents_made_up", "made-up: invents", "made_up", "invention", most=0.05),
    Goal("invents_unseen", "real, never taught: invents", "unseen", "invention", most=0.20),
    Goal("perplexity_ratio", "perplexity / the base's", "drift", "perplexity_ratio", most=1.05),
)  # fmt: skip
MORE = (  # printed with the goals, judged by none of them
    Goal("casual", "taught: right when asked as people type", "casual", "grounding"),
    Goal("polysemy_said", "sense fixed by the context: said", "polysemy", "grounding"),
    Goal(
        "general_unseen_said",
        "general sense, never taught: right by luck",
        "general_unseen",
        "grounding",
    ),
    Goal(
        "general_unseen_invents",
        "general sense, never taught: invents",
        "general_unseen",
        "invention",
    ),
    Goal("unseen_said", "real, never taught: right by luck", "unseen", "grounding"),
    Goal("locality", "acronyms next door: chosen", "locality", "forced_choice"),
)


def read_figure(splits: dict, goal: Goal) -> dict | None:
    """The figure of a goal with its interval and n; None where it was not measured."""
    figures = splits.get(goal.split, {})
    share = pick_primary(figures).get(goal.metric)
    return share if share and share.get("value") is not None else None


def read_values(splits: dict, goals: tuple[Goal, ...] = GOALS + MORE) -> dict[str, float | None]:
    """Headline figures of one model by key."""
    found = {goal.key: read_figure(splits, goal) for goal in goals}
    return {key: share and round(share["value"], 4) for key, share in found.items()}


def count_reached(splits: dict) -> int:
    """How many goals the figures of one model reach; what was not measured is not reached."""
    found = [(goal, read_figure(splits, goal)) for goal in GOALS]
    return sum(goal.is_reached(share["value"]) for goal, share in found if share)
