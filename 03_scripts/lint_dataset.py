"""Check a preference data set: length bias, repeats, contradictions, leaks, odd characters.

    python 03_scripts/lint_dataset.py 01_data/dpo/train.jsonl --test 01_data/dpo/test_unseen.jsonl
    python 03_scripts/lint_dataset.py my_pairs.jsonl --json lint.json --plot lengths.png

Exit code: 0 no errors (warnings may be), 1 errors in the data, 2 wrong usage.
"""

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "02_src"))

from rich.console import Console
from tqdm import tqdm

from config import build_config, resolve_path, write_text
from dataset_lint import LintReport, lint_file
from errors import UserError, run_main
from lint.show import plot_lengths, print_report

PROGRESS_AFTER = 2  # seconds; shorter waits need no bar


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", help="pairs: .jsonl .json .csv .parquet")
    parser.add_argument("--test", nargs="+", default=[], metavar="FILE", help="test files")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the report as JSON")
    parser.add_argument("--plot", type=Path, metavar="OUT.png", help="write a length histogram")
    parser.add_argument("--max-seq-length", type=int, default=512, metavar="N", help="in tokens")
    return parser.parse_args()


def find_input(name: str) -> str:
    """A file as given from the working directory, else as configs mean it: the repository."""
    here, there = Path(name).expanduser().resolve(), resolve_path(name)
    if not here.is_file() and not there.is_file():
        raise UserError(f"{name}: no such file; give pairs as .jsonl, .json, .csv or .parquet")
    return str(here if here.is_file() else there)


def check_outputs(*files: Path | None) -> None:
    """UserError before the work, where an output is a folder."""
    for file in files:
        if file and file.is_dir():
            raise UserError(f"{file}: is a folder; give a file to write")


def show_progress(items: Iterable, label: str) -> Iterable:
    """Wrap a loop in a progress bar on stderr, where it takes long and someone watches."""
    return tqdm(items, desc=label, delay=PROGRESS_AFTER, leave=False, disable=None)


def write_outputs(report: LintReport, json_file: Path | None, plot_file: Path | None) -> None:
    """Write the files asked for; UserError where that fails."""
    try:
        if json_file:
            write_text(json_file, json.dumps(report.as_json(), indent=2) + "\n")
        if plot_file and report.pairs:
            plot_lengths(report, plot_file)
        elif plot_file:
            print(f"{plot_file}: not written, there are no pairs to plot")
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be written: {error.strerror}") from None


def main() -> int:
    """Lint, print, write; the exit code."""
    args = parse_arguments()
    check_outputs(args.json, args.plot)
    values = {"max_seq_length": args.max_seq_length, "per_device_train_batch_size": 1}
    config = build_config(values, "--max-seq-length")
    tests = [find_input(name) for name in args.test]
    report = lint_file(find_input(args.file), config, tests, track=show_progress)
    print_report(report, Console())
    write_outputs(report, args.json, args.plot)
    return report.exit_code


if __name__ == "__main__":
    run_main(main)
