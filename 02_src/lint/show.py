"""Show a lint report to a person: a table in the terminal, a histogram as PNG."""

from pathlib import Path

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from errors import escape_controls
from lint.lengths import describe_lengths
from lint.report import Finding, LintReport
from safe_files import replacing

STYLES = {"error": "bold red", "warning": "yellow", "info": "cyan"}
BINS = 60
DPI = 120
INK = "#808080"  # reads on light and on dark pages


def print_report(report: LintReport, console: Console) -> None:
    """Print the lengths, one table row a finding, and the verdict."""
    head = f"{report.file}: {report.pairs:,} pairs"
    console.print(escape(head), highlight=False)
    if report.pairs:
        console.print(describe_lengths(report.statistics), highlight=False)
    if report.findings:
        console.print(build_table(report.findings))
    console.print(f"errors: {report.count('error')}, warnings: {report.count('warning')}")


def build_table(findings: list[Finding]) -> Table:
    """One row a finding: what, where and what to do share a cell, so 80 columns are enough."""
    table = Table(show_lines=True)
    table.add_column("severity", no_wrap=True)
    table.add_column("code", no_wrap=True)
    table.add_column("count", justify="right", no_wrap=True)
    table.add_column("what, where, what to do", overflow="fold")
    for finding in findings:
        lines = [finding.text, *(f"  at {place}" for place in finding.places)]
        if finding.count > len(finding.places) > 0:
            lines.append(f"  and {finding.count - len(finding.places):,} more")
        if finding.advice:
            lines.append(f"do: {finding.advice}")
        style = STYLES[finding.severity]
        label = f"[{style}]{finding.severity}[/]"
        text = (
            escape_controls("\n".join(lines)).encode("utf-8", "replace").decode()
        )  # labels may be broken
        table.add_row(label, finding.code, f"{finding.count:,}", escape(text))
    return table


def plot_lengths(report: LintReport, file: Path) -> None:
    """Write a PNG: length difference chosen minus rejected, and both lengths; needs a pair."""
    from matplotlib.figure import Figure  # half a second, only where a plot is asked for

    chosen, rejected = np.array(report.lengths).T
    figure = Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.hist(chosen - rejected, bins=cut_bins(chosen - rejected), color="tab:purple")
    left.axvline(0, color=INK, linewidth=1)
    left.set(xlabel="chosen minus rejected, characters", ylabel="pairs")
    share = report.statistics["share_chosen_longer"]
    left.set_title(f"chosen longer in {share:.0%}, d = {report.statistics['cohens_d']:.2f}")
    edges = cut_bins(np.concatenate([chosen, rejected]))
    for values, label, color in (
        (chosen, "chosen", "tab:green"),
        (rejected, "rejected", "tab:red"),
    ):
        right.hist(values, bins=edges, alpha=0.6, label=label, color=color)
    right.set(xlabel="answer length, characters", ylabel="pairs")
    right.set_title(f"ratio of means {report.statistics['length_ratio']:.2f}")
    right.legend(framealpha=0, labelcolor=INK)
    for axes in (left, right):
        axes.title.set_color(INK)
        axes.tick_params(colors=INK)
        axes.spines[:].set_color(INK)
        axes.xaxis.label.set_color(INK)
        axes.yaxis.label.set_color(INK)
    save_figure(figure, file)


def cut_bins(values: np.ndarray) -> np.ndarray:
    """Bin edges of a whole number of characters, or equal bins would hold unequal counts."""
    low, high = int(values.min()), int(values.max())
    width = (high - low) // BINS + 1
    return np.arange(low, high + width + 1, width) - 0.5


def save_figure(figure, file: Path) -> None:
    """Save as PNG through a temporary sibling, so that no half-written picture remains."""
    with replacing(file) as scratch:
        figure.savefig(scratch, format="png", dpi=DPI, transparent=True)
