"""Measure training speed: stock TRL against the fast forward, same model, data and seed.

    python 03_scripts/benchmark.py
    python 03_scripts/benchmark.py --model meta-llama/Llama-3.2-1B-Instruct --repeats 3
    python 03_scripts/benchmark.py --config 00_configs/quickstart.json --workloads config_8 \\
        --steps 6 --warmup 2
    python 03_scripts/benchmark.py --growth batch length --variants trl_best ours --plots 05_logs

Each measurement is a process of its own; variants take turns. Without --model and --config, a
model of Llama-3.2-1B's shape with random weights is made. Workloads: short_8 (8 pairs a step of
the shipped set's lengths), short_1x8 (one at a time, 8 accumulated), long_8, length_1024 (4 pairs
of 1,024 tokens), config_8 (the config's own pairs). Rates are medians over steps after warm-up,
then over repeats. Time to first step counts from the loaded model, reference pass included.
"""

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmark_inputs import find_workload, make_model
from benchmark_measure import VARIANTS
from benchmark_table import make_growth_table, make_table

WORKLOADS = ["short_1x8", "short_8", "short_32", "long_8"]
GROWTH = {
    "batch": [f"short_{size}" for size in (1, 2, 4, 8, 16, 32, 64)],
    "length": [f"length_{size}" for size in (128, 256, 512, 1024, 2048, 4096)],
}
MEASURE = Path(__file__).with_name("benchmark_measure.py")


def start_worker() -> subprocess.Popen:
    """A fresh process that imports what it needs, then waits for its job."""
    return subprocess.Popen(
        [sys.executable, str(MEASURE)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def run_job(worker: subprocess.Popen, job: dict) -> dict | None:
    """Measure in a fresh process; None (and the end of its output) when it fails."""
    output, errors = worker.communicate(json.dumps(job) + "\n")
    if worker.returncode:
        print(f"{job['workload']} {job['variant']} failed:\n{errors[-1200:]}", flush=True)
        return None
    return json.loads(output.strip().splitlines()[-1])


def check_workload(name: str) -> str:
    """`name`, if it is a workload (argparse turns the ValueError into a message)."""
    find_workload(name)
    return name


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Training speed, stock TRL against ours.")
    parser.add_argument("--model", help="model folder or hub id; default: random 1B Llama")
    parser.add_argument("--config", help="take model, LoRA rank and config_B's pairs from it")
    parser.add_argument("--workloads", nargs="+", type=check_workload, default=None)
    parser.add_argument("--growth", nargs="+", choices=GROWTH, default=[], help="instead")
    parser.add_argument("--plots", metavar="FOLDER", help="draw the growth there, as PNG")
    parser.add_argument(
        "--variants", nargs="+", choices=VARIANTS, default=["trl", "trl_best", "ours"]
    )
    parser.add_argument("--repeats", type=int, default=2, help="measurements of each")
    parser.add_argument("--steps", type=int, default=60, help="optimizer steps of a measurement")
    parser.add_argument("--warmup", type=int, default=30, help="steps left out at the start")
    parser.add_argument(
        "--stock_steps", type=int, help="steps of TRL's own variants, a third of them warm-up"
    )
    parser.add_argument("--seed", type=int, default=42, help="of data and adapter")
    parser.add_argument("--json", help="append results to this JSON Lines file")
    arguments = parser.parse_args()
    if arguments.steps < arguments.warmup + 2:
        parser.error(f"--steps must be at least --warmup + 2 = {arguments.warmup + 2}")
    names = arguments.workloads or []
    if any(name.startswith("config") for name in names) and not arguments.config:
        parser.error("config_B needs --config FILE")
    return arguments


def list_jobs(arguments: argparse.Namespace, model: str | None) -> list[dict]:
    """Every measurement in its order; variants take turns."""
    growth = [name for kind in arguments.growth for name in GROWTH[kind]]
    names = arguments.workloads or growth or WORKLOADS
    jobs = []
    for _, workload, variant in itertools.product(
        range(arguments.repeats), names, arguments.variants
    ):
        keys = ("config", "steps", "warmup", "seed")
        job = {"workload": workload, "variant": variant, "model": model}
        job |= {key: getattr(arguments, key) for key in keys}
        if VARIANTS[variant][2] is None and arguments.stock_steps:
            job |= {"steps": arguments.stock_steps, "warmup": arguments.stock_steps // 3}
        jobs.append(job)
    return jobs


def measure_all(arguments: argparse.Namespace, model: str | None) -> list[dict]:
    """All results, each printed as it comes. The next process imports while one measures."""
    jobs, results = list_jobs(arguments, model), []
    worker = start_worker()
    for i, job in enumerate(jobs):
        following = start_worker() if i + 1 < len(jobs) else worker
        result = run_job(worker, job)
        worker = following
        if result:
            print(json.dumps(result), flush=True)
            results.append(result)
            append_line(arguments.json, result)
    return results


def append_line(file: str | None, result: dict) -> None:
    """One JSON line more in `file`."""
    if file:
        with open(file, "a", encoding="utf-8") as lines:
            lines.write(json.dumps(result) + "\n")


def main() -> None:
    """Measure everything asked for, print JSON lines, then the tables."""
    arguments = parse_arguments()
    with tempfile.TemporaryDirectory() as folder:
        model = arguments.model
        if not model and not arguments.config:
            model = make_model(Path(folder) / "model")
        results = measure_all(arguments, model)
    titles = {name: title for name, (title, _, _) in VARIANTS.items()}
    for kind in arguments.growth:
        print(make_growth_table(results, GROWTH[kind], titles))
    if not arguments.growth:
        print(make_table(results, arguments.workloads or WORKLOADS, titles))
    if arguments.plots:
        from benchmark_plots import plot_growth

        for kind in arguments.growth:
            print(plot_growth(results, kind, GROWTH[kind], titles, Path(arguments.plots)))


if __name__ == "__main__":
    main()
