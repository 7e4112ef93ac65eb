"""study.png: every figure of a study, a dot a seed, beside its goal."""

from collections.abc import Sequence
from pathlib import Path

from recipes.goals import GOALS, MORE, Goal
from recipes.kept import Kept
from recipes.plan import Study
from recipes.table import find_runs, order_names, read_seeds, show_goal
from safe_files import replacing

COLUMNS = 3
RATIOS = (1, 1.5, 2, 3, 5, 10, 20)
SHIPPED, OTHER, LINE = "#1a7f37", "#57606a", "#cf222e"


def draw_study(study: Study, kept: Sequence[Kept], file: Path) -> None:
    """A panel a figure that was measured, a row a recipe, the shipped one in green."""
    from matplotlib.figure import Figure

    names = order_names(study, kept)
    goals = [goal for goal in GOALS + MORE if read_seeds(kept, goal)]
    rows = -(-len(goals) // COLUMNS)
    size = (4.6 * COLUMNS, rows * (0.9 + 0.24 * len(names)))
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(rows, COLUMNS, sharey=True, squeeze=False).flatten()
    for panel in panels[len(goals) :]:
        panel.set_axis_off()
    for panel, goal in zip(panels, goals, strict=False):
        draw_goal(panel, goal, {name: find_runs(kept, name) for name in names}, study.shipped)
    panels[0].set_yticks(range(len(names)), names, fontsize=8)
    panels[0].invert_yaxis()
    for label, name in zip(panels[0].get_yticklabels(), names, strict=True):
        label.set_color(SHIPPED if name == study.shipped else "black")
    with replacing(file) as scratch:
        figure.savefig(scratch, dpi=100, format="png")


def draw_goal(panel, goal: Goal, recipes: dict[str, Sequence[Kept]], shipped: str | None) -> None:
    """One panel: dots of each recipe's seeds, a line for their mean, a dotted one for the goal."""
    ratio = goal.metric == "perplexity_ratio"
    for row, (name, runs) in enumerate(recipes.items()):
        values = [figure["value"] * (1 if ratio else 100) for _, figure in read_seeds(runs, goal)]
        colour = SHIPPED if name == shipped else OTHER
        if values:
            panel.plot([sum(values) / len(values)] * 2, [row - 0.3, row + 0.3], color=colour)
            panel.plot(values, [row] * len(values), "o", color=colour, alpha=0.6, markersize=5)
    bound = goal.most if goal.least is None else goal.least
    if bound is not None:
        panel.axvline(bound * (1 if ratio else 100), color=LINE, linestyle=":")
    title = goal.title + (f" (goal {show_goal(goal)})" if bound is not None else "")
    panel.set_title(title, fontsize=8)
    if ratio:
        panel.set_xscale("log")
        panel.set_xticks(RATIOS, list(map(str, RATIOS)), minor=False)
        panel.set_xticks([], minor=True)
    else:
        panel.set_xlim(-3, 103)
    panel.set_xlabel("" if ratio else "%", fontsize=8)
    panel.tick_params(labelsize=8)
    panel.grid(axis="x", alpha=0.3)
