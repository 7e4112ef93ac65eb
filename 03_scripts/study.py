"""Train and evaluate the recipes of a study with several seeds, keep the results, write STUDY.md.

    python 03_scripts/study.py                                  # 01_data/study/full, made for a GPU
    python 03_scripts/study.py 01_data/study/quickstart         # two processor cores, 70 minutes
    python 03_scripts/study.py FOLDER --jobs 4 --set model_name=path   # four trainings at a time
    python 03_scripts/study.py FOLDER --only table              # STUDY.md again, nothing is run
    python 03_scripts/study.py FOLDER --only_recipes a,b --no_controls --out elsewhere

FOLDER holds recipes.json (02_src/recipes/plan.py says what is in it). Runs what has no result with
these settings and today's data, and prints a JSON line per finished run. Interrupted, it goes on
where it was; a run that fails is reported and the others go on. Kept: FOLDER/results/<recipe>/
seed_<n>/ (02_src/recipes/kept.py), FOLDER/STUDY.md and study.png; with --out all are there.
"""

import argparse
import json
import math
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "02_src"))

from tqdm.auto import tqdm

from config import parse_overrides, resolve_path, show_path, write_text
from errors import UserError, run_main
from recipes.jobs import run_all
from recipes.kept import are_controls_kept, check_kept, is_kept, read_kept
from recipes.picture import draw_study
from recipes.plan import Study, StudyRun, list_runs, load_study
from recipes.table import render_study

FULL = "01_data/study/full"


def parse_arguments() -> argparse.Namespace:
    """The command line, checked."""
    parser = argparse.ArgumentParser(description="Compare recipes over seeds.")
    parser.add_argument("folder", nargs="?", default=FULL, help="holds the study's recipes.json")
    parser.add_argument("--out", help="where results/ and STUDY.md go; FOLDER without it")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--only_recipes", help="names, separated by commas; all without it")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--only", choices=["table"], help="write STUDY.md from kept results")
    parser.add_argument("--no_controls", action="store_true", help="leave the untrained base out")
    parser.add_argument("--time_limit", type=float, help="seconds after which no run is started")
    arguments = parser.parse_args()
    if arguments.jobs < 1:
        raise UserError(f"--jobs {arguments.jobs}: must be 1 or more")
    return arguments


def run_missing(arguments: argparse.Namespace, runs: list[StudyRun], out: Path) -> int:
    """Run what has no result; returns how many failed."""
    controls = not (arguments.no_controls or are_controls_kept(out))
    missing = [run for run in runs if not is_kept(out, run)] or (runs[:1] if controls else [])
    ends = time.monotonic() + (arguments.time_limit or math.inf)
    failed = 0
    with tqdm(total=len(missing), desc="study", unit="run") as bar:
        for lines in run_all(missing, out, arguments.jobs, controls, ends):
            for line in lines:
                tqdm.write(json.dumps(line), file=sys.stdout)
                sys.stdout.flush()
                failed += "failed" in line
            bar.update()
    return failed


def write_table(study: Study, folder: str, out: Path) -> None:
    """STUDY.md and study.png from the results kept in `out`."""
    kept = read_kept(out / "results")
    file = out / "STUDY.md"
    write_text(file, render_study(study, kept, folder, check_kept(kept, study)))
    draw_study(study, kept, out / "study.png")
    print(f"wrote {show_path(file)} and study.png", file=sys.stderr)


def main() -> int:
    """Plan, run what is missing, write the table."""
    arguments = parse_arguments()
    folder = resolve_path(arguments.folder)
    study = load_study(folder / "recipes.json")
    only = arguments.only_recipes.split(",") if arguments.only_recipes else None
    runs = list_runs(study, parse_overrides(arguments.set), only)
    out = resolve_path(arguments.out or folder)
    failed = 0 if arguments.only else run_missing(arguments, runs, out / "results")
    write_table(study, show_path(folder), out)
    return 1 if failed else 0


if __name__ == "__main__":
    run_main(main)
