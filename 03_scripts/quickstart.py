"""From a fresh clone to a model that was trained, evaluated, merged and asked. No account needed.

    python3 03_scripts/quickstart.py                 (Windows: py 03_scripts\\quickstart.py)

Makes .venv, fetches a 135M model, trains it on a small set of oil and gas abbreviations, and shows
its answers before and after: about 15 minutes on a CPU, less on a GPU. What is done already is not
done again. Needs Python 3.11 or newer and nothing else; on an older one it looks for a newer.
"""

import argparse
import sys

from find_python import SetupError, rerun_if_old

STAGES = ("setup", "model", "train", "evaluate", "merge", "ask")


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", metavar="FILE", help="default: 00_configs/quickstart.json")
    parser.add_argument("--python", metavar="PATH", help="Python to make .venv with")
    parser.add_argument("--torch-index", metavar="URL", help="package index to take torch from")
    parser.add_argument(
        "--keep-going-from",
        choices=STAGES,
        default=STAGES[0],
        metavar="STAGE",
        help="take the stages before STAGE as done; one of: " + ", ".join(STAGES),
    )
    return parser.parse_args()


def main() -> int:
    """Run the stages with a Python that can; the exit code."""
    arguments = parse_arguments()
    try:
        code = rerun_if_old(__file__, arguments.python)
        if code is not None:
            return code
        from quickstart_run import run_quickstart

        return run_quickstart(arguments, STAGES)
    except SetupError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
