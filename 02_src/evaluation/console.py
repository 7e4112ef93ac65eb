"""An evaluation's headline figures in the terminal."""

from rich.console import Console
from rich.table import Table

from statistics_of_runs import Share


def print_report(report: dict) -> None:
    """The headline figures as a table, and the verdict."""
    columns = {
        "grounding": "right expansion",
        "confusion": "another sense",
        "invention": "invents",
        "forced_choice": "prefers right",
    }
    table = Table(title="held-out questions (95 % intervals)")
    for column in ("model", "split", "n", *columns.values()):
        table.add_column(column)
    for name, model in report["models"].items():
        for split, figures in model["splits"].items():
            shares = [show_share(figures.get(key)) for key in columns]
            table.add_row(name, split, str(figures["n"]), *shares)
    console = Console()
    console.print(table)
    for line in report["verdict"]:
        console.print(line, highlight=False)


def show_share(share: dict | None) -> str:
    """A share for a narrow column."""
    if not share or not share["n"]:
        return "-"
    found = Share(**share)
    return f"{found.value:.1%}\n({found.low:.0%}-{found.high:.0%})"
