"""Kill training, evaluation and merge at 20 random moments on the embedded model; compare.

    python 03_scripts/chaos.py                      # 20 kills, 10 to 30 minutes on two cores
    python 03_scripts/chaos.py --seed 7

Each kill is a SIGKILL at a seeded random moment of loading, reference pass, training, checkpoint
writing, evaluation or merge; every stage goes on each time. At the end adapter, answers and merged
weights must be those of an unbroken run, bit for bit (CPU, fp32). Exit code 1 when they are not.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

SOURCE = Path(__file__).resolve().parent.parent / "02_src"
sys.path[:0] = [str(SOURCE), str(SOURCE / "tests")]

from chaos_run import run_chaos

from base_models import fetch_embedded

KILLS = {"load": 3, "precompute": 3, "train": 5, "checkpoint": 4, "evaluate": 3, "merge": 2}


def main() -> int:
    """Run, print the figures as JSON."""
    parser = argparse.ArgumentParser(description="Kill a pipeline at random moments, and compare.")
    parser.add_argument("--seed", type=int, default=1)
    seed = parser.parse_args().seed
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        model = fetch_embedded("smollm2-135m-instruct")
        figures = run_chaos(Path(folder), model, KILLS, seed)
    figures |= {"seed": seed, "seconds": round(time.monotonic() - began)}
    print(json.dumps(figures, indent=1))
    return 0 if all(figures["same"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
