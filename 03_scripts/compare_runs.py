"""Compare runs: what differs in their configs and what came of it, in a table and a figure.

    python 03_scripts/compare_runs.py 05_logs/quickstart 05_logs/output_dpo
    python 03_scripts/compare_runs.py 04_models/adapters/a 04_models/adapters/b --out 05_logs/a_b

Writes runs.csv, runs.md and runs.png into --out. Exit code: 2 where a folder is no run.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "02_src"))

from errors import UserError, run_main  # first: from here on Ctrl-C is one line

# isort: split
import pandas as pd
from rich.console import Console
from rich.table import Table

from config import resolve_path, show_path, write_text
from run_comparison import compare_runs, plot_runs


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="+", metavar="FOLDER", help="of 05_logs or 04_models")
    parser.add_argument("--out", default="05_logs/comparison", help="folder for table and figure")
    return parser.parse_args()


def find_folder(name: str) -> Path:
    """A folder as given from the working directory, else from the repository."""
    here = Path(name).expanduser()
    return here if here.is_dir() else resolve_path(name)


def show_value(value: object) -> str:
    """A cell as text: four digits of a number, "-" where there is nothing."""
    if value is None or value != value:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def print_table(table: pd.DataFrame) -> None:
    """A column per run: few runs with many figures fit a terminal that way."""
    shown = Table(title="runs compared", show_lines=False)
    shown.add_column("")
    for name in table.index:
        shown.add_column(name, justify="right", overflow="fold")
    for column in table:
        shown.add_row(column, *map(show_value, table[column]))
    Console().print(shown)


def write_markdown(table: pd.DataFrame) -> str:
    """The same table in Markdown, a column per run."""
    lines = [["", *table.index], ["---"] * (len(table) + 1)]
    lines += [[column, *map(show_value, table[column])] for column in table]
    text = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in text)


def main() -> int:
    """Read, print, write."""
    arguments = parse_arguments()
    out = Path(resolve_path(arguments.out))
    if out.is_file():
        raise UserError(f"--out {show_path(out)}: is a file; name a folder")
    folders = [find_folder(name) for name in arguments.folders]
    table = compare_runs(folders)
    print_table(table)
    write_text(out / "runs.csv", table.to_csv())
    write_text(out / "runs.md", write_markdown(table))
    plot_runs(folders, out / "runs.png")
    print(f"written: {show_path(out)}/runs.csv, runs.md, runs.png")
    return 0


if __name__ == "__main__":
    run_main(main)
