"""Plots of benchmark.py: pairs per second by workload, and by batch or length (--growth)."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from benchmark_table import find_median
from matplotlib import pyplot

INK = "#808080"  # reads on white and on dark pages; the background is transparent
AXES = {"batch": "pairs a step", "length": "tokens of a pair"}
WIDTH, HEIGHT, DPI = 6.0, 3.4, 110


def plot_growth(
    results: list[dict], kind: str, workloads: list[str], titles: dict[str, str], folder: Path
) -> Path:
    """Draw pairs/s over `kind` (batch or length), a line for each variant; the file."""
    figure, axes = pyplot.subplots(figsize=(WIDTH, HEIGHT))
    for variant, title in titles.items():
        points = [
            (int(name.partition("_")[2]), find_median(results, name, variant, "pairs_per_s"))
            for name in workloads
        ]
        points = [(size, rate) for size, rate in points if rate]
        if points:
            axes.plot(*zip(*points, strict=True), marker="o", label=title)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xlabel(AXES[kind], color=INK)
    axes.set_ylabel("pairs/s", color=INK)
    return save(figure, axes, folder / f"growth_{kind}.png")


def plot_workloads(
    results: list[dict], workloads: list[str], titles: dict[str, str], file: Path
) -> Path:
    """Draw pairs/s as bars, a group for each workload, a colour for each variant; the file."""
    figure, axes = pyplot.subplots(figsize=(1.4 * WIDTH, HEIGHT))
    width = 0.8 / len(titles)
    for number, (variant, title) in enumerate(titles.items()):
        found = [find_median(results, name, variant, "pairs_per_s") for name in workloads]
        places = [place + (number + 0.5) * width - 0.4 for place in range(len(workloads))]
        bars = axes.bar(places, [rate or 0 for rate in found], 0.92 * width, label=title)
        texts = [f"{rate:.0f}" if rate >= 100 else f"{rate:.3g}" if rate else "" for rate in found]
        axes.bar_label(bars, texts, fontsize=7, color=INK, padding=1)
    axes.set_xticks(range(len(workloads)), workloads)
    axes.set_yscale("log")
    axes.margins(y=0.08)  # for the numbers above the bars
    axes.set_ylabel("pairs/s", color=INK)
    return save(figure, axes, file)


def save(figure, axes, file: Path) -> Path:
    """Write a figure in colours that read on light and dark pages."""
    axes.tick_params(colors=INK, which="both")
    axes.spines[:].set_color(INK)
    axes.grid(color=INK, alpha=0.3)
    axes.set_axisbelow(True)
    axes.legend(
        frameon=False, labelcolor=INK, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0)
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=DPI, transparent=True, bbox_inches="tight")
    pyplot.close(figure)
    return file
