"""A study's STUDY.md, made from its kept results and nothing else."""

from collections.abc import Sequence

from evaluation.verdict import percent
from recipes.claims import HOLDS, Claim, choose_alpha, make_claims
from recipes.goals import GOALS, MORE, Goal, read_figure
from recipes.kept import Kept
from recipes.plan import UNTRAINED, Study

ABOUT_UNTRAINED = {
    "base": "the model as it is, untrained",
    "base_with_glossary": "untrained, with the abbreviation's glossary entry (all senses) in the "
    "prompt; made-up abbreviations have none",
}
HEAD = """# Study: {title}

<!-- written by: python 03_scripts/study.py {folder} --only table -->

{about}

Greedy answers to wordings the model never saw. Every share counts one question an abbreviation and
sense. Trained recipes: mean over seeds (lowest to highest). Definitions: `02_src/grounding.py`,
`02_src/evaluation/figures.py`.

![all figures, a dot a seed](study.png)
"""


def render_study(
    study: Study, kept: Sequence[Kept], folder: str, stale_data: Sequence[str] = ()
) -> str:
    """The whole document.

    Args:
        kept: results of `study`, already checked against it.
        folder: the study's folder, for the commands that repeat it.
        stale_data: files that have changed since they were used.
    """
    about = study.about or "Recipes compared over seeds."
    parts = [HEAD.format(title=study.title, about=about, folder=folder)]
    parts += [f"The data has changed since: {', '.join(stale_data)}.\n"] if stale_data else []
    names = order_names(study, kept)
    parts.append(list_recipes(study, kept, names))
    shipped = find_runs(kept, study.shipped)
    goals = [goal for goal in GOALS if read_seeds(shipped, goal)]
    if goals:
        parts.append(tabulate_goals(kept, shipped, goals))
    parts.append(tabulate_recipes(kept, names))
    if goals:
        claims = make_claims(kept, study.shipped, [name for name in names if name != study.shipped])
        parts.append(tabulate_claims([claim for claim in claims if claim.goal in goals]))
    parts.append(describe_runs(study, kept, folder))
    return "\n".join(parts)


def find_runs(kept: Sequence[Kept], name: str | None) -> list[Kept]:
    """All seeds of a recipe."""
    return [run for run in kept if run.recipe == name]


def order_names(study: Study, kept: Sequence[Kept]) -> list[str]:
    """Names of what is kept: the untrained, then the recipes in the study's order."""
    found = {run.recipe for run in kept}
    return [name for name in (*UNTRAINED, *study.recipes) if name in found]


def make_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def list_recipes(study: Study, kept: Sequence[Kept], names: Sequence[str]) -> str:
    """What each name stands for."""
    rows = []
    for name in names:
        recipe = study.recipes.get(name)
        about = recipe.about if recipe else ABOUT_UNTRAINED[name]
        keys = ", ".join(f"`{k}={v}`" for k, v in recipe.overrides.items()) if recipe else "-"
        seeds = ", ".join(str(run.seed) for run in find_runs(kept, name) if run.seed is not None)
        rows.append((f"`{name}`", about, keys.replace("|", "\\|"), seeds or "-"))
    return make_table(("recipe", "what it is", "keys", "seeds"), rows)


def read_seeds(runs: Sequence[Kept], goal: Goal) -> list[tuple[Kept, dict]]:
    """(run, figure) of the seeds that have it."""
    found = [(run, read_figure(run.splits, goal)) for run in runs]
    return [(run, figure) for run, figure in found if figure]


def show_value(value: float, goal: Goal) -> str:
    """A share in per cent; a ratio as it is."""
    return f"{value:.3f}" if goal.metric == "perplexity_ratio" else percent(value)


def show_seeds(runs: Sequence[Kept], goal: Goal) -> str:
    """Mean over seeds (lowest to highest); a control's one figure with its interval."""
    values = [figure["value"] for _, figure in read_seeds(runs, goal)]
    if not values:
        return "-"
    mean = show_value(sum(values) / len(values), goal)
    if len(values) == 1:
        return mean
    low, high = show_value(min(values), goal), show_value(max(values), goal)
    return f"{mean} ({low} to {high})"


def show_goal(goal: Goal) -> str:
    """ ">= 99 %"."""
    sign, bound = (">=", goal.least) if goal.least is not None else ("<=", goal.most)
    return f"{sign} {show_value(bound, goal)}"


def find_worst(runs: Sequence[Kept], goal: Goal) -> tuple[Kept, dict]:
    """The seed furthest from the goal, with its figure."""
    sign = 1 if goal.least is not None else -1
    return min(read_seeds(runs, goal), key=lambda item: sign * item[1]["value"])


def tabulate_goals(kept: Sequence[Kept], shipped: Sequence[Kept], goals: Sequence[Goal]) -> str:
    """The goals, and whether the shipped recipe reaches them."""
    rows = []
    for goal in goals:
        base = show_seeds(find_runs(kept, "base"), goal)
        base = "1" if goal.metric == "perplexity_ratio" else base
        figures = show_seeds(shipped, goal), show_worst(shipped, goal), judge_goal(shipped, goal)
        rows.append((goal.title, base, show_goal(goal), *figures))
    heads = ("figure", "base", "goal", "shipped", "worst seed, 95 % interval, n", "verdict")
    note = "Intervals: Wilson's for shares, a bootstrap by passage for the perplexity ratio.\n"
    left_out = [goal.title for goal in GOALS if goal not in goals]
    note += f"Goals not measured here: {'; '.join(left_out)}.\n" if left_out else ""
    return f"## The goals\n\n{make_table(heads, rows)}\n{note}"


def show_worst(runs: Sequence[Kept], goal: Goal) -> str:
    """ "98.1 % (96.4 % to 99 %), n 466, seed 43"."""
    run, figure = find_worst(runs, goal)
    value, low, high = (show_value(figure[key], goal) for key in ("value", "low", "high"))
    n = figure.get("n") or run.splits[goal.split]["n"]
    return f"{value} ({low} to {high}), n {n}, seed {run.seed}"


def judge_goal(runs: Sequence[Kept], goal: Goal) -> str:
    """reached (by every seed), missed, or in how many seeds."""
    values = [figure["value"] for _, figure in read_seeds(runs, goal)]
    reached = sum(map(goal.is_reached, values))
    if reached in (0, len(values)):
        return "reached" if reached else "**missed**"
    return f"**missed**: reached in {reached} of {len(values)} seeds"


def tabulate_recipes(kept: Sequence[Kept], names: Sequence[str]) -> str:
    """Every recipe's figures, a column each."""
    rows = [
        (goal.title, *(show_seeds(find_runs(kept, name), goal) for name in names))
        for goal in GOALS + MORE
        if read_seeds(kept, goal)
    ]
    table = make_table(("figure", *(f"`{name}`" for name in names)), rows)
    return f"## All recipes\n\n{table}"


def tabulate_claims(claims: Sequence[Claim]) -> str:
    """Paired tests of every claim, and the list of those that fail."""
    alpha = choose_alpha(claims)
    rows = []
    for claim in claims:
        cells = ("-", "-", "-", "-")
        if claim.tests:
            test, seeds = claim.weakest, ", ".join(str(test.seed) for test in claim.tests)
            counts = f"{test.only_control} / {test.only_shipped}"
            cells = seeds, str(test.n), counts, f"{test.p:.2g}"
        rows.append((claim.goal.title, f"`{claim.control}`", *cells, claim.judge(alpha)))
    heads = ("shipped is better by", "than", "seeds", "n", "only control / only shipped right")
    heads += ("p", "claim")
    text = (
        "## Claims against the controls\n\nExact McNemar, paired by item, one item an abbreviation "
        "and sense; the seed with the largest p is shown, and a claim holds only where every seed "
        f"does with p <= {alpha:.2g} (0.05 over the number of claims tested). Drift is no count "
        "of items and has no such test.\n\n"
    )
    return f"{text}{make_table(heads, rows)}\n{list_failures(claims, alpha)}"


def list_failures(claims: Sequence[Claim], alpha: float) -> str:
    """Claims that do not hold, by control and reason."""
    failed: dict[tuple[str, str], list[str]] = {}
    for claim in claims:
        if claim.judge(alpha) != HOLDS:
            reason = claim.control, claim.judge(alpha)
            failed.setdefault(reason, []).append(claim.goal.title)
    lines = [f"- `{name}`, {why}: {'; '.join(titles)}" for (name, why), titles in failed.items()]
    return "### Claims that fail\n\n" + ("\n".join(lines) or "None.") + "\n"


def describe_runs(study: Study, kept: Sequence[Kept], folder: str) -> str:
    """Times, machines, versions, and the commands that repeat it."""
    rows = []
    for run in kept:
        if run.seed is not None:
            seconds = run.about["train_seconds"]
            time = "resumed, not timed" if seconds is None else f"{seconds} s"
            more = (str(run.about["steps"]), time, str(run.about["jobs"]), run.about["device"])
            rows.append((f"`{run.recipe}`", str(run.seed), *more))
    heads = ("recipe", "seed", "steps", "training", "runs at a time", "device")
    versions = sorted({v for run in kept for v in run.about["versions"]})
    dates = sorted({run.about["date"] for run in kept})
    made = " to ".join(dict.fromkeys((dates[0], dates[-1])))
    return (
        f"## The runs\n\n{make_table(heads, rows)}\n"
        f"Made {made} with {'; '.join(versions)}. {list_missing(study, kept)}\n\n"
        "## Repeat it\n\n```\n"
        f"python 03_scripts/study.py {folder}                # runs what has no result\n"
        f"python 03_scripts/study.py {folder} --only table   # this file again\n```\n"
    )


def list_missing(study: Study, kept: Sequence[Kept]) -> str:
    """Planned runs that have no result."""
    have = {(run.recipe, run.seed) for run in kept}
    plan = {name: [s for s in study.seeds if (name, s) not in have] for name in study.recipes}
    missing = [f"`{name}` seed {', '.join(map(str, s))}" for name, s in plan.items() if s]
    if not missing:
        return f"Every recipe was run with seeds {', '.join(map(str, study.seeds))}."
    return f"Planned and not run yet: {'; '.join(missing)}."
