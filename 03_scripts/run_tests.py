"""Lint, format check and tests, in a .venv this makes where it is missing.

    python3 03_scripts/run_tests.py
    python3 03_scripts/run_tests.py -k contract -x          (other arguments go to pytest)

All three always run; the exit code is that of the first that failed. .ci/run calls this.
"""

import argparse
import os
import subprocess
import sys

from find_python import SetupError, rerun_if_old, wait_for

MOST_WORKERS = 4  # test processes; each has one thread, since the tests' matrices are small
WORKER_BYTES = 5 * 2**30  # of memory that a test process may take


def parse_arguments() -> "tuple[argparse.Namespace, list[str]]":
    """(own arguments, pytest's)."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--python", metavar="PATH", help="Python to make .venv with")
    parser.add_argument("--torch-index", metavar="URL", help="package index to take torch from")
    return parser.parse_known_args()


def prepare(arguments: argparse.Namespace) -> "list[str]":
    """Make .venv and the embedded model; the start of a command run by .venv's Python."""
    from bootstrap import make_environment

    python = [str(make_environment(arguments.python, arguments.torch_index))]
    if run_step(python + ["03_scripts/fetch_embedded_model.py"]):
        raise SetupError("the tests need the embedded model; see the line above")
    return python


def run_step(command: "list[str]") -> int:
    """Exit code of a command, run at the repository root with its output shown."""
    from bootstrap import REPOSITORY, child_environment

    environment = {"OMP_NUM_THREADS": "1", **child_environment()}
    print("+ python " + " ".join(command[1:]), flush=True)
    return wait_for(subprocess.Popen(command, cwd=str(REPOSITORY), env=environment))


def count_workers() -> int:
    """Test processes that this machine has cores and memory for."""
    fitting = MOST_WORKERS
    if hasattr(os, "sysconf"):  # not on Windows
        fitting = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // WORKER_BYTES
    return max(1, min(MOST_WORKERS, os.cpu_count() or 1, fitting))


def main() -> int:
    """Prepare, run every check, report the first failure."""
    arguments, for_pytest = parse_arguments()
    try:
        code = rerun_if_old(__file__, arguments.python)
        if code is not None:
            return code
        python, workers = prepare(arguments), str(count_workers())
        codes = [
            run_step(python + ["-m", "ruff", "check"]),
            run_step(python + ["-m", "ruff", "format", "--check"]),
            run_step(python + ["-m", "pytest", "-n", workers, "--dist", "loadfile"] + for_pytest),
        ]
        return next((code for code in codes if code), 0)
    except SetupError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
