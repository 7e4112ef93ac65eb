"""Plots of benchmark.py --growth: pairs per second, one PNG for each kind of growth."""

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
    axes.tick_params(colors=INK, which="both")
    axes.spines[:].set_color(INK)
    axes.grid(color=INK, alpha=0.3)
    axes.legend(frameon=False, labelcolor=INK)
    file = folder / f"growth_{kind}.png"
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=DPI, transparent=True, bbox_inches="tight")
    pyplot.close(figure)
    return file
