"""Measure what training takes on this machine's GPU, stage by stage, beside the plan's prediction.

    python 03_scripts/measure_memory.py > memory.jsonl
    python 03_scripts/measure_memory.py --tiny           # two tiny models; runs on a CPU too
    python 03_scripts/measure_memory.py --only nf4 --parallel 1

Two shapes with random weights (Llama-3.2-1B, SmolLM2-360M), 4 bit and bf16, checkpointing on and
off, batches of 1 to 32 pairs, rows of 128 to 2048 tokens. Each combination is a process of its
own and one JSON line. Processes share the GPU while the allocated figures are taken; those that
read the whole device's memory through NVML, and step times, run alone afterwards.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "02_src"))

from measure_shapes import SHAPES, TINY_SHAPES, make_model

ROWS = {  # checkpointing: [(pairs, tokens of a row)]
    False: [(1, 128), (8, 128), (32, 128), (1, 512), (8, 512), (32, 512), (1, 2048), (8, 2048)],
    True: [(8, 128), (32, 128), (8, 512), (32, 512), (1, 2048), (8, 2048), (32, 2048)],
}
SOLO = [(True, 1, 64), (True, 8, 64), (False, 8, 64), (False, 8, 1024)]  # NVML and step time
TINY_ROWS = {False: [(2, 64)], True: [(2, 64)]}
ROOM_GIB = 68  # of an 80 GB card, for processes that run at the same time
TIMEOUT_S = 150
CHILD = Path(__file__).with_name("measure_memory_once.py")


def list_jobs(shapes: dict, rows: dict) -> list[dict]:
    """Every combination, the largest first, so that the last minutes are not one long job."""
    jobs = [
        {"shape": shape, "nf4": nf4, "checkpointing": checkpointing, "pairs": pairs, "row": row}
        for shape in shapes
        for nf4 in (True, False)
        for checkpointing, choices in rows.items()
        for pairs, row in choices
    ]
    return sorted(jobs, key=guess_gib, reverse=True)


def guess_gib(job: dict) -> float:
    """A generous guess of what a job takes, for sharing the GPU."""
    config = (SHAPES | TINY_SHAPES)[job["shape"]][1]
    per_token = 2 * (14 * config["hidden_size"] + 4 * config["intermediate_size"])
    layers = 3 if job["checkpointing"] else config["num_hidden_layers"] * 1.25
    return 4.5 + job["pairs"] * job["row"] * per_token * layers / 2**30


class Room:
    """Lets jobs run side by side while their guesses fit the card."""

    def __init__(self, gib: float) -> None:
        self.free = self.total = gib
        self.changed = threading.Condition()

    def run(self, job: dict, folder: str, solo: bool) -> dict:
        """Wait for room, run the job, give the room back."""
        need = min(guess_gib(job), self.total)
        with self.changed:
            self.changed.wait_for(lambda: self.free >= need)
            self.free -= need
        try:
            return run_job(job, folder, solo)
        finally:
            with self.changed:
                self.free += need
                self.changed.notify_all()


def run_job(job: dict, folder: str, solo: bool) -> dict:
    """One combination in a process of its own; what went wrong where it fails."""
    model = str(Path(folder) / job["shape"])
    command = [sys.executable, str(CHILD), json.dumps({**job, "solo": solo, "model": model})]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return {"combination": job, "error": f"took more than {TIMEOUT_S} s"}
    found = [line for line in done.stdout.splitlines() if line.startswith('{"combination"')]
    if not found:
        return {"combination": job, "error": done.stderr.strip()[-600:]}
    return json.loads(found[-1])


def main() -> int:
    """Measure all combinations, print a JSON line each; 1 when one fails."""
    parser = argparse.ArgumentParser(description="Measured memory of training, by combination.")
    parser.add_argument("--tiny", action="store_true", help="tiny models, to try the script")
    parser.add_argument("--only", choices=["nf4", "bf16"], help="one kind of weights")
    parser.add_argument("--parallel", type=int, default=5, help="processes at a time")
    parser.add_argument("--no-solo", action="store_true", help="no NVML figures, no step times")
    arguments = parser.parse_args()
    shapes = TINY_SHAPES if arguments.tiny else SHAPES
    jobs = list_jobs(shapes, TINY_ROWS if arguments.tiny else ROWS)
    jobs = [j for j in jobs if arguments.only in (None, "nf4" if j["nf4"] else "bf16")]
    first = next(iter(shapes))
    solo = [
        {"shape": first, "nf4": True, "checkpointing": c, "pairs": p, "row": r} for c, p, r in SOLO
    ]
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        for name in shapes:
            make_model(name, Path(folder) / name)
        room = Room(ROOM_GIB)
        with ThreadPoolExecutor(arguments.parallel) as pool:
            for found in pool.map(lambda job: room.run(job, folder, False), jobs):
                print(json.dumps(found), flush=True)
                failed |= "error" in found
        for job in [] if arguments.no_solo else solo[: 1 if arguments.tiny else None]:
            found = run_job(job, folder, True)
            print(json.dumps(found), flush=True)
            failed |= "error" in found
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
