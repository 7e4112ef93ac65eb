"""Draw the README's pictures from a finished, evaluated run and a kept benchmark.

    python 03_scripts/draw_pictures.py --run 04_models/adapters/quickstart

Writes training.png, answers.png and speed.png to .github/pictures, which also holds the
benchmark's figures. All read on light and on dark pages.
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "02_src"))

from benchmark_measure import VARIANTS
from benchmark_plots import plot_workloads

from config import REPOSITORY, load_run_config, log_folder, resolve_path, show_path
from errors import run_main
from evaluation.report import read_evaluation
from live_view import draw_live
from notebook_figures import view_outcomes
from run_log import read_metrics

PICTURES = REPOSITORY / ".github" / "pictures"
BENCHMARK = PICTURES / "benchmark_h100.jsonl"


def main() -> int:
    """Draw all of them."""
    parser = argparse.ArgumentParser(description="Draw the README's pictures.")
    parser.add_argument("--run", required=True, help="run folder with evaluation.json")
    run = resolve_path(parser.parse_args().run)
    records = read_metrics(log_folder(load_run_config(run)))
    report, _ = read_evaluation(run)
    drawn = {
        "training.png": draw_live(records, f"{run.name}, {records[-1]['step']} steps"),
        "answers.png": view_outcomes(report).data,
    }
    for name, data in drawn.items():
        (PICTURES / name).write_bytes(data)
    results = [json.loads(line) for line in BENCHMARK.read_text("utf-8").splitlines()]
    measured = {result["variant"] for result in results}
    titles = {name: title for name, (title, _, _) in VARIANTS.items() if name in measured}
    workloads = list(dict.fromkeys(result["workload"] for result in results))
    plot_workloads(results, workloads, titles, PICTURES / "speed.png")
    print(f"drawn in {show_path(PICTURES)}")
    return 0


if __name__ == "__main__":
    run_main(main)
