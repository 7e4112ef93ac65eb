"""Measure what training takes on this machine's GPU beside the plan's prediction.

    python 03_scripts/measure_memory.py --table memory.md > memory.jsonl
    python 03_scripts/measure_memory.py --tiny            # two tiny models; runs on a CPU too
    python 03_scripts/measure_memory.py --tokenizer 04_models/base/smollm2-135m-instruct

Two shapes with random weights (Llama-3.2-1B, SmolLM2-360M), 4 bit and bf16, checkpointing on and
off, batches of 1 to 32 pairs, rows of 128 to 2048 tokens: four processes share the GPU and print
a JSON line for each combination as it is done. Then, alone on the GPU: step times, the device's
memory through NVML, runs under memory caps with auto_fit, and, where --tokenizer names a
folder, two cold starts. --table writes the error table as Markdown.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "02_src"))

from measure_shapes import SHAPES, TINY_SHAPES, list_caps, list_queues, list_solo, make_model
from measure_start import measure_start
from measure_table import write_table

CHILD = Path(__file__).with_name("measure_memory_once.py")
FIRST_LINE_S, LINE_S = 120, 60  # importing, then one combination
PRINTING = threading.Lock()


def run_queue(jobs: list[dict], folder: str) -> list[dict]:
    """Run jobs one after another in one process; a job that hangs or kills it is reported."""
    done: list[dict] = []
    while len(done) < len(jobs):
        done += run_worker(jobs[len(done) :], folder)
    return done


def run_worker(jobs: list[dict], folder: str) -> list[dict]:
    """Results of one process until it ends or one job takes too long: at least one."""
    todo = [{**job, "model": str(Path(folder) / job["shape"]), "cache": folder} for job in jobs]
    environment = {**os.environ, "OMP_NUM_THREADS": "2", **jobs[0].get("environment", {})}
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            [sys.executable, str(CHILD), json.dumps(todo)],
            stdout=subprocess.PIPE, stderr=errors, text=True, env=environment,
        )  # fmt: skip
        found: list[dict] = []
        timer = start_timer(process, FIRST_LINE_S)
        for line in process.stdout:
            if not line.startswith('{"combination"'):
                continue
            timer.cancel()
            found.append(json.loads(line))
            show(found[-1])
            timer = start_timer(process, LINE_S)
        timer.cancel()
        process.wait()
        if len(found) < len(jobs) and process.returncode:
            errors.seek(0)
            text = errors.read().strip()[-600:] or "no output"
            failed = {"combination": jobs[len(found)], "error": text, "rc": process.returncode}
            found.append(failed)
            show(failed)
    return found


def start_timer(process: subprocess.Popen, seconds: float) -> threading.Timer:
    """Kill the process unless the timer is cancelled before."""
    timer = threading.Timer(seconds, process.kill)
    timer.start()
    return timer


def show(result: dict) -> None:
    """One JSON line, whole, at once."""
    with PRINTING:
        print(json.dumps(result), flush=True)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Measured memory of training, by combination.")
    parser.add_argument("--tiny", action="store_true", help="tiny models, to try the script")
    parser.add_argument("--only", choices=["shared", "solo", "caps", "start"], help="one part")
    parser.add_argument("--caps", nargs="+", type=int, default=[4, 6, 8], help="GiB of each cap")
    parser.add_argument("--tokenizer", help="folder of a tokenizer, for the cold starts")
    parser.add_argument("--table", help="write the error table to this Markdown file")
    return parser.parse_args()


def main() -> int:
    """Measure, print, tabulate; 1 when a combination failed."""
    arguments = parse_arguments()
    shapes = TINY_SHAPES if arguments.tiny else SHAPES
    wanted = [arguments.only] if arguments.only else ["shared", "solo", "caps", "start"]
    results: list[dict] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in shapes:
            make_model(name, Path(folder) / name)
        if "shared" in wanted:
            queues = list_queues(shapes)
            with ThreadPoolExecutor(1 if arguments.tiny else len(queues)) as pool:
                for found in pool.map(lambda jobs: run_queue(jobs, folder), queues):
                    results += found
        first = next(iter(shapes))
        alone = list_solo(first) if "solo" in wanted else []
        alone += list_caps(first, arguments.tiny, arguments.caps) if "caps" in wanted else []
        for job in alone:
            results += run_queue([job], folder)
        if "start" in wanted and arguments.tokenizer:
            results.append(measure_start(Path(folder) / first, Path(arguments.tokenizer)))
            show(results[-1])
    if arguments.table:
        write_table(results, Path(arguments.table))
    return 1 if any("error" in result for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
