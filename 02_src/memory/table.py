"""A plan for people: a table of what goes where, and the same as a stacked bar."""

from pathlib import Path

from hardware import GIB
from memory.plan import Plan
from safe_files import replacing

COLOURS = (
    "#1f4e79", "#4a7fb0", "#9dc3e6", "#c9ddf0", "#7a5c00", "#b8860b", "#e0b84c", "#f3dca0",
    "#666666", "#2e7d4f", "#5fae7e", "#a9d6b8",
)  # fmt: skip
CHART_FILE = "memory_plan.png"


def list_parts(plan: Plan) -> list[tuple[str, float]]:
    """(what, bytes) of the whole process at the peak of training, then what is left."""
    parts = [(name, size) for name, size in plan.parts.items() if size > 0]
    parts += [("allocator's reserve", plan.slack), ("context and libraries", plan.context)]
    return [*parts, ("left", plan.budget - sum(size for _, size in parts))]


def format_plan(plan: Plan, unit: str = "GPU memory") -> str:
    """The plan as lines of text."""
    step = plan.step
    lines = [f"memory plan ({unit}), {plan.describe()}"]
    lines += [f"  {name:<24}{size / GIB:7.2f} GiB" for name, size in list_parts(plan)]
    lines.append(
        f"  largest micro-step: {step.rows} x {step.width} tokens, {step.count} of them scored"
    )
    peaks = [f"{name} {size / GIB:.2f}" for name, size in plan.stages.items()]
    lines.append(f"  peaks allocated, GiB: {', '.join(peaks)}")
    lines.append(f"  merging afterwards takes {plan.merge / GIB:.2f} GiB of system memory")
    if plan.rough:
        lines.append("  fast_forward is off: stock TRL's path is counted roughly, within a quarter")
    return "\n".join(lines)


def draw_plan(plan: Plan, folder: Path) -> Path:
    """Draw the plan as one stacked bar into memory_plan.png; returns the file."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.2), layout="constrained")
    axes = figure.subplots()
    start = 0.0
    for index, (name, size) in enumerate(list_parts(plan)):
        if size <= 0:
            continue
        colour = "white" if name == "left" else COLOURS[index % len(COLOURS)]
        label = f"{name} {size / GIB:.2f}"
        axes.barh(0, size / GIB, left=start, color=colour, edgecolor="black", label=label)
        start += size / GIB
    axes.axvline(plan.budget / GIB, color="red", linestyle=":", label="budget")
    axes.set_yticks([])
    axes.set_xlabel("GiB")
    axes.set_title(plan.describe())
    axes.legend(ncols=4, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.25))
    with replacing(folder / CHART_FILE) as scratch:
        figure.savefig(scratch, format="png", dpi=110, bbox_inches="tight")
    return folder / CHART_FILE
