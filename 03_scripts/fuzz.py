"""Fuzz the readers of configs, data, adapters and headers; offline, as long as you like.

    python 03_scripts/fuzz.py --minutes 10
    python 03_scripts/fuzz.py --minutes 10 --seed 7

Prints the number of examples of each reader as JSON; the first finding ends it with hypothesis'
smallest example and exit code 1.
"""

import argparse
import contextlib
import io
import json
import sys
import tempfile
import time
from pathlib import Path

SOURCE = Path(__file__).resolve().parent.parent / "02_src"
sys.path[:0] = [str(SOURCE), str(SOURCE / "tests")]

from fuzz_readers import TARGETS
from hypothesis import HealthCheck, given, seed, settings
from tqdm import tqdm

ROUND = 500  # examples of a reader in a row
SETTINGS = settings(
    max_examples=ROUND, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)


def fuzz_once(name: str, folder: Path, number: int) -> int:
    """Examples tried of one reader; hypothesis raises at a finding."""
    strategy, check = TARGETS[name]
    count = 0

    @seed(number)
    @SETTINGS
    @given(strategy)
    def run(case: bytes) -> None:
        nonlocal count
        count += 1
        with contextlib.redirect_stderr(io.StringIO()):  # the lists of bad rows
            check(folder, case)

    run()
    return count


def main() -> int:
    """Round after round over all readers until the time is up."""
    parser = argparse.ArgumentParser(description="Fuzz the readers.")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    end, number = time.monotonic() + 60 * arguments.minutes, arguments.seed
    counts = dict.fromkeys(TARGETS, 0)
    with tempfile.TemporaryDirectory() as folder, tqdm(unit="example") as bar:
        while time.monotonic() < end:
            for name in TARGETS:
                found = fuzz_once(name, Path(folder), number)
                counts[name] += found
                bar.update(found)
            number += 1
    print(json.dumps({"examples": counts, "total": sum(counts.values()), "findings": 0}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
