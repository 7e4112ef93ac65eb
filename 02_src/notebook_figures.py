"""The notebook's pictures that no script draws, and two runs side by side."""

from collections.abc import Sequence
from pathlib import Path

from checkpoints import Run
from evaluation.views import label_split
from hardware import GIB
from lint.report import LintReport
from lint.show import plot_lengths
from live_view import BLUE, GREEN, INK, RED, render, tone
from memory.table import COLOURS as PART_COLOURS
from memory.table import list_parts
from notebook_results import NOTHING_ASKED
from notebook_views import Html, build_table
from run_log import read_metrics, select_series

OUTCOMES = {
    "grounding": ("right expansion", GREEN),
    "confusion": ("another field's", RED),
    "abstention": ("does not know", BLUE),
    "invention": ("invents one", "#b0b0b0"),
}


def view_picture(file: Path):
    """A PNG of the run, shown inline."""
    from IPython.display import Image

    return Image(filename=str(file))


def view_plan(plan) -> Html:
    """The memory plan as a stacked bar, and below it the same bar within all there is."""
    from IPython.display import Image, display
    from matplotlib.figure import Figure

    parts = [(name, size / GIB) for name, size in list_parts(plan) if size > 0 and name != "left"]
    figure = Figure(figsize=(10, 3.4), layout="constrained")
    bar, whole = figure.subplots(2, 1, height_ratios=(3, 1))
    start = 0.0
    for (name, size), colour in zip(parts, PART_COLOURS, strict=False):
        bar.barh(0, size, left=start, color=colour, label=f"{name} {size:.2f}")
        start += size
    whole.barh(0, start, color=INK, label="this run")
    whole.axvline(plan.budget / GIB, color=RED, linestyle=":", label="free on this device")
    bar.set(xlim=(0, start), yticks=[], xlabel="GiB at the worst moment of training")
    whole.set(xlim=(0, plan.budget / GIB * 1.02), yticks=[], xlabel="GiB")
    for axes in (bar, whole):
        tone(axes)
    bar.legend(
        ncols=5, fontsize=8, framealpha=0, labelcolor=INK, loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
    )  # fmt: skip
    display(Image(data=render(figure), format="png"))
    return build_table([], judge_plan(plan))


def judge_plan(plan) -> str:
    """Whether the memory plan fits, and what takes most of it."""
    largest = max(plan.parts, key=plan.parts.get)
    word = "fits" if plan.fits else "does not fit"
    return (
        f"The run {word}: {plan.process / GIB:.2f} GiB of {plan.budget / GIB:.2f} free. "
        f"The largest part of the training itself: {largest}, "
        f"{plan.parts[largest] / GIB:.2f} GiB."
    )


def view_lengths(report: LintReport, folder: Path):
    """The histogram of answer lengths, as lint_dataset.py draws it, kept in the log folder."""
    file = folder / "answer_lengths.png"
    plot_lengths(report, file)
    return view_picture(file)


def view_outcomes(report: dict):
    """What the answers to each split's questions were, as stacked bars of base and adapter."""
    from IPython.display import Image
    from matplotlib.figure import Figure

    rows = [
        (f"{label_split(split)}\n{model}", figures)
        for split in reversed(report["models"]["adapter"]["splits"])
        for model in ("adapter", "base")
        if (figures := report["models"][model]["splits"][split])["invention"]["n"]
    ]
    if not rows:
        return build_table([], NOTHING_ASKED)
    figure = Figure(figsize=(9, 0.8 + 0.55 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for position, (_, figures) in enumerate(rows):
        draw_outcomes(axes, position, figures, named=position == 0)
    axes.set_yticks(range(len(rows)), [label for label, _ in rows])
    axes.set(xlim=(0, 1), xlabel="share of answers")
    tone(axes)
    axes.get_legend().remove()
    figure.legend(
        loc="outside upper center", ncols=5, fontsize=8, framealpha=0, labelcolor=INK
    )  # of the whole width
    return Image(data=render(figure), format="png")


def draw_outcomes(axes, position: int, figures: dict, named: bool) -> None:
    """One stacked bar; the interval of the right answers is drawn over it."""
    start = 0.0
    for name, (label, colour) in OUTCOMES.items():
        share = figures[name]["value"] or 0.0
        axes.barh(position, share, left=start, color=colour, label=label if named else None)
        start += share
    right = figures["grounding"]
    if right["n"]:
        from matplotlib.patheffects import withStroke

        label = "95 % interval of right" if named else None
        ends = [right["low"], right["high"]]
        outline = [withStroke(linewidth=4, foreground="white")]  # seen on bars and dark pages
        axes.plot(
            ends, [position, position], color="black", linewidth=2, label=label,
            path_effects=outline,
        )  # fmt: skip


def view_comparison(runs: Sequence[Run], losses: Sequence[Sequence[str]], beta: float) -> Html:
    """Two runs at the last step that both logged: what the reward sees, and what was learned.

    Args:
        losses: loss_type of each run.
        beta: of both; rewards are beta times a change of log p.
    """
    logs = [read_metrics(run.log_folder) for run in runs]
    steps = [set(select_series(records, "loss")[0]) for records in logs]
    step = max(steps[0] & steps[1])
    rows, ends = [], []
    for records, loss in zip(logs, losses, strict=True):
        now = next(r for r in records if r.get("step") == step and "loss" in r)
        moved = now["rewards/chosen"] / beta
        rows.append(
            {"loss_type": " + ".join(loss), "step": step,
             "reward accuracy": f"{now['rewards/accuracies']:.2f}",
             "margin": f"{now['rewards/margins']:.2f}",
             "log p chosen, against the reference": f"{moved:+.1f} nats"}
        )  # fmt: skip
        word = "less likely: displacement" if moved < 0 else "more likely"
        ends.append(
            f"{' + '.join(loss)} ranks {now['rewards/accuracies']:.0%} of the pairs right and has "
            f"made the chosen answers {word} ({moved:+.1f} nats)"
        )
    return build_table(rows, f"At step {step}, {'; '.join(ends)}.")


def view_runs(folders: Sequence[Path], file: Path):
    """The curves of several runs in one picture, and the table of what differs."""
    from IPython.display import display

    from run_comparison import compare_runs, plot_runs

    table = compare_runs(folders).reset_index()
    display(view_picture(plot_runs(folders, file)))
    columns = [name for name in table.columns if name != "run"]
    rows = [
        {"": name, **{row["run"]: show_value(row[name]) for _, row in table.iterrows()}}
        for name in columns
    ]
    return build_table(rows)


def show_value(value: object) -> str:
    """A cell of the comparison: short numbers, a dash where a run has none."""
    if isinstance(value, float):
        return "-" if value != value else f"{value:.4g}"
    return "-" if value is None else str(value)
