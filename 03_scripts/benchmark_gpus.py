"""Measure one against two GPUs: training speed, and the memory of a base that is sharded over them.

    python 03_scripts/benchmark_gpus.py
    python 03_scripts/benchmark_gpus.py --parts memory --gpus 4

Prints a JSON line for each measurement and one for each comparison. `speed`: pairs/s of `short` at
32 and `long` at 8 pairs per GPU, random Llama-3.2-1B in 4 bit, fast forward and CUDA graphs on.
`memory`: peak of a random 8B model in 4 bit on one GPU, and sharded (FSDP); a step is 2
pairs for each of the several GPUs in both. Each measurement is a launch of its own, through
00_configs/accelerate/.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

MEASURE = Path(__file__).with_name("benchmark_gpus_measure.py")
LAUNCHERS = Path(__file__).resolve().parents[1] / "00_configs" / "accelerate"
LONGEST = 240  # seconds of one measurement
JOBS = {
    "speed": [
        {"model": "1b", "workload": "short_32", "steps": 50, "warmup": 25, "fast": True},
        {"model": "1b", "workload": "long_8", "steps": 50, "warmup": 25, "fast": True},
    ],
    "memory": [
        {"model": "8b", "workload": "long_2", "steps": 3, "warmup": 1, "fast": False},
    ],
}


def run_job(job: dict) -> dict | None:
    """Measure on the job's number of GPUs; None (and the end of its output) when it fails."""
    command = [sys.executable, str(MEASURE), json.dumps(job)]
    environment = dict(os.environ)
    if job["gpus"] == 1:
        environment["CUDA_VISIBLE_DEVICES"] = "0"
    else:
        file = LAUNCHERS / ("fsdp_qlora.yaml" if job["sharded"] else "ddp.yaml")
        launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(file)]
        command = [*launcher, "--num_processes", str(job["gpus"]), *command[1:]]
    code, output, problems = run_to_end(command, environment)
    lines = [line for line in output.splitlines() if line.startswith('{"')]
    if code or not lines:
        print(f"{job} failed ({code}):\n{problems[-3000:]}", flush=True)
        return None
    return json.loads(lines[-1])


def run_to_end(command: list[str], environment: dict[str, str]) -> tuple[int, str, str]:
    """Exit code, stdout, stderr; after LONGEST seconds it ends, and all that it started."""
    options = {"start_new_session": True} if os.name == "posix" else {}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        **options,
    ) as process:  # fmt: skip
        try:
            output = process.communicate(timeout=LONGEST)
        except BaseException as error:  # Ctrl-C does not reach another session
            # Launched processes would hold their GPU, and the pipes, for good.
            os.killpg(process.pid, signal.SIGKILL) if options else process.kill()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            output = process.communicate()
    return process.returncode, *output


def plan_jobs(part: str, job: dict, gpus: int) -> list[dict]:
    """A job on one GPU and on several: as much for each GPU (speed), or in all (memory)."""
    sharded = part == "memory"
    share = int(job["workload"].rpartition("_")[2])
    return [
        {**job, "gpus": 1, "batch": share * gpus if sharded else share, "sharded": False},
        {**job, "gpus": gpus, "batch": share, "sharded": sharded},
    ]


def compare(part: str, one: dict, several: dict) -> dict:
    """The figure a part is about."""
    both = {"compared": part, "workload": one["workload"], "gpus": several["gpus"]}
    if part == "speed":
        ratio = several["pairs_per_s"] / one["pairs_per_s"]
        mean = several["mean_pairs_per_s"] / one["mean_pairs_per_s"]
        return {**both, "speed_ratio": round(ratio, 3), "mean_speed_ratio": round(mean, 3)}
    share = several["peak_gib"] / one["peak_gib"]
    return {**both, "memory_share": round(share, 3)}


def main() -> int:
    """All parts asked for; the exit code is 1 when a measurement failed."""
    parser = argparse.ArgumentParser(description="One against several GPUs.")
    parser.add_argument("--parts", nargs="+", choices=JOBS, default=list(JOBS))
    parser.add_argument("--gpus", type=int, default=2, help="how many to compare with one")
    arguments = parser.parse_args()
    if arguments.gpus < 2:
        parser.error(f"--gpus {arguments.gpus}: must be 2 or more")
    from torch import cuda

    if cuda.device_count() < arguments.gpus:
        parser.error(f"--gpus {arguments.gpus}: this machine has {cuda.device_count()} (NVIDIA)")
    failed = 0
    for part in arguments.parts:
        for job in JOBS[part]:
            found = [run_job(planned) for planned in plan_jobs(part, job, arguments.gpus)]
            for result in filter(None, found):
                print(json.dumps(result), flush=True)
            if None in found:
                failed = 1
            else:
                print(json.dumps(compare(part, *found)), flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
