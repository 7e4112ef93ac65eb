"""Search for good settings: learning rate, sft weight, beta, rank, epochs, by what a model says.

    python 03_scripts/sweep.py --config 00_configs/quickstart.json --trials 20
    python 03_scripts/sweep.py --config 00_configs/dpo.json --time_limit 3600 --search space.json

Every trial is a training of its own, judged by validation grounding (ties: less drift on neutral
text) and stopped early where it falls behind the median. Results lie in 05_logs/<study>/: sweep.md,
sweep.png, best.json (a config to train with), trial_N/, optuna.db. Ctrl-C keeps everything; the
same command goes on. What a search space looks like: 02_src/recipes/search_space.py.
"""

import argparse
import json
import math
import re
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "02_src"))

from tqdm.auto import tqdm

from config import DEFAULT_CONFIG, Config, parse_overrides, resolve_path, show_path
from errors import UserError, run_main
from preferences import load_pairs
from recipes.plan import SAFE_NAME
from recipes.search_space import check_space, load_space


def parse_arguments() -> argparse.Namespace:
    """The command line, checked."""
    parser = argparse.ArgumentParser(description="Search for good settings.")
    parser.add_argument("--config", default=str(DEFAULT_CONFIG), help="config to start from")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--trials", type=int, default=20, help="trials in all")
    parser.add_argument("--time_limit", type=float, help="seconds after which no trial is started")
    parser.add_argument("--search", help="JSON file of ranges and choices")
    parser.add_argument("--study", default="sweep", help="name of its folder in 05_logs")
    parser.add_argument("--answers", type=int, default=64, help="validation questions a trial")
    arguments = parser.parse_args()
    for name in ("trials", "answers"):
        if getattr(arguments, name) < 1:
            raise UserError(f"--{name} {getattr(arguments, name)}: must be 1 or more")
    if not re.match(SAFE_NAME, arguments.study):
        raise UserError(f"--study {arguments.study}: use letters, digits, _ and -")
    return arguments


def run_trials(sweep, trials: int, time_limit: float) -> int:
    """Run until `trials` have ended, each reported; exit code 1 when none has a result."""
    from recipes.sweep_report import write_reports
    from recipes.trials import list_ended, open_study, run_trial

    study = open_study(sweep)
    ends = time.monotonic() + time_limit
    ended, best = len(list_ended(study.trials)), write_reports(sweep, study)
    with tqdm(total=trials, initial=min(ended, trials), desc="sweep", unit="trial") as bar:
        while ended < trials and time.monotonic() < ends:
            tqdm.write(json.dumps(run_trial(sweep, study)), file=sys.stdout)
            best = write_reports(sweep, study)
            ended += 1
            bar.update()
    if best is None:
        print(f"no trial has a result: {show_path(sweep.folder)}/sweep.md", file=sys.stderr)
        return 1
    print(f"best: trial {best.number}, {best.params}")
    print(f"  python 02_src/train_dpo.py --config {show_path(sweep.folder)}/best.json")
    return 0


def require_answers(base: Config) -> None:
    """UserError where no validation row says which answers are right: trials are judged by them."""
    pairs, _ = load_pairs(base.validation_file, base)
    if not any(pair.row.get("accepted") for pair in pairs):
        raise UserError(
            f"{base.validation_file}: no row lists accepted expansions, by which trials are "
            'judged; add them, as in "accepted": ["Dynamic Positioning"]'
        )


def main() -> int:
    """Check the whole space, then search."""
    arguments = parse_arguments()
    space = load_space(resolve_path(arguments.search) if arguments.search else None)
    given = parse_overrides(arguments.set)
    base = check_space(space, arguments.config, given)
    require_answers(base)
    from recipes.trials import Sweep

    names = arguments.study, arguments.config
    sweep = Sweep(*names, given, base, space, arguments.answers)
    return run_trials(sweep, arguments.trials, arguments.time_limit or math.inf)


if __name__ == "__main__":
    run_main(main)
