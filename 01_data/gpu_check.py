"""What this machine can train, what is broken, and what to do about it. Needs no GPU.

    python 01_data/gpu_check.py
    python 01_data/gpu_check.py --json

Exit code: 0 fits as it is, 1 fits with changes, 2 cannot.
"""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "02_src"))

from errors import run_main
from hardware import GIB, find_device
from machine import Machine, read_machine
from machine_check import diagnose, judge
from quickstart_time import estimate_quickstart

VERDICTS = (
    "this machine can train as it is",
    "this machine can train; the changes above make it better",
    "this machine cannot train until the points marked stop are mended",
)


def list_facts(machine: Machine) -> list[str]:
    """The facts, a line each."""
    build = machine.torch_cuda or machine.torch_hip or "CPU"
    lines = [
        f"system     {machine.system}{' (WSL)' if machine.wsl else ''}",
        f"processor  {machine.cpu}, {machine.cores} cores ({', '.join(machine.cpu_features)})",
        f"memory     {machine.memory_free / GIB:.1f} of {machine.memory_total / GIB:.1f} GiB free",
        f"disk       {machine.disk_free / GIB:.1f} GiB free",
        f"torch      {machine.torch}, build for {build}",
        f"4-bit      bitsandbytes {machine.bitsandbytes}, kernels for "
        f"{', '.join(machine.bitsandbytes_kernels) or 'nothing'}",
    ]
    for gpu in machine.gpus:
        major, minor = gpu.capability
        state = f"{gpu.celsius} C" + (f", {gpu.watts:.0f} W" if gpu.watts is not None else "")
        lines.append(
            f"GPU        {gpu.name}, compute capability {major}.{minor}, {gpu.free / GIB:.1f} of "
            f"{gpu.total / GIB:.1f} GiB free, driver {machine.driver}, {state}"
        )
    return lines


def advise_purchase(machine: Machine) -> list[str]:
    """What to get where there is no GPU to train on."""
    if machine.torch_sees_gpu or machine.gpus or machine.mps:
        return []
    return [
        "to train Llama-3.2-1B in minutes: an NVIDIA card from the RTX 20 series on with 4 GiB "
        "or more free (8 GiB for pairs of a thousand tokens); here the quickstart's 135M model"
    ]


def main() -> int:
    """Print facts, findings, the quickstart's time and a verdict."""
    parser = argparse.ArgumentParser(description="What this machine can train.")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    machine = read_machine()
    findings = diagnose(machine)
    code = judge(findings)
    device = find_device()
    seconds = estimate_quickstart()
    if arguments.json:
        values = {
            **device.to_dict(), "machine": machine.to_dict(),
            "findings": [asdict(finding) for finding in findings],
            "advice": [finding.text for finding in findings] + advise_purchase(machine),
            "quickstart_seconds": round(seconds), "exit_code": code, "verdict": VERDICTS[code],
        }  # fmt: skip
        print(json.dumps(values, indent=2))
        return code
    print("\n".join(list_facts(machine)))
    print(f"runs on    {device.describe()}")
    print("\n".join(f"{finding.level}: {finding.text}" for finding in findings))
    print(f"quickstart, after its downloads: about {max(1, round(seconds / 60))} min")
    print("\n".join([*advise_purchase(machine), VERDICTS[code]]))
    return code


if __name__ == "__main__":
    run_main(main)
