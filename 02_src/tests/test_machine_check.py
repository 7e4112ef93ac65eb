"""Findings about broken set-ups: each named in words, with what to do and the exit code."""

import dataclasses

import pytest

from hardware import GIB
from machine import Gpu, Machine, read_machine
from machine_check import diagnose, judge

CARD = Gpu("RTX 3060", (8, 6), 11 * GIB, 12 * GIB, (), 45, 20.0, 170.0, None)
HEALTHY = Machine(
    system="Linux", wsl=False, gpus=(CARD,), driver="580.10", driver_cuda=(13, 0),
    vendors=("nvidia",), torch="2.13.0+cu130", torch_cuda="13.0", torch_hip=None,
    torch_sees_gpu=True, torch_archs=("sm_75", "sm_86", "sm_90"), mps=False,
    bitsandbytes="0.50.2", bitsandbytes_kernels=("cpu", "cuda130"), cpu="CPU", cores=8,
    cpu_features=("avx2",), memory_free=12 * GIB, memory_total=16 * GIB, disk_free=100 * GIB,
)  # fmt: skip
NO_CARD = {"gpus": (), "driver": None, "driver_cuda": None, "torch_sees_gpu": False}
BARE = {**NO_CARD, "vendors": (), "torch": "2.13.0+cpu", "torch_cuda": None, "torch_archs": ()}


def change_card(**values) -> dict:
    return {"gpus": (dataclasses.replace(CARD, **values),)}


@pytest.mark.parametrize(
    "changes, code, words",
    [
        ({}, 0, ["11.0 of 12.0 GiB free", "Llama-3.2-1B"]),
        (change_card(free=3 * GIB, users=("12 game: 8000 MiB",)), 1, ["12 game", "auto_fit=true"]),
        (change_card(free=GIB // 2), 1, ["too little"]),
        (change_card(slowed="heat", celsius=90), 1, ["slowed down by heat (90 C"]),
        (change_card(name="GTX 1060", capability=(6, 1)), 1, ["too old", "sm_61", "cu126"]),
        (change_card(name="RTX 2060", capability=(7, 5)), 0, ["no fast bf16: fp16"]),
        (
            {"driver": "535.1", "driver_cuda": (12, 2), "torch_sees_gpu": False},
            1,
            ["driver 535.1 runs CUDA 12.x", "driver 580 or newer"],
        ),
        (
            {"torch": "2.13.0+cpu", "torch_cuda": None, "torch_sees_gpu": False},
            1,
            ["CPU build", "--torch-index https://download.pytorch.org/whl/cu130"],
        ),
        ({"torch_sees_gpu": False}, 1, ["restart the machine", "CUDA_VISIBLE_DEVICES"]),
        ({"bitsandbytes_kernels": ("cpu",)}, 1, ["no kernels for cuda130", "load_in_4bit=false"]),
        ({"bitsandbytes": None}, 2, ["bitsandbytes is missing"]),
        ({"wsl": True}, 0, ["WSL", "memory_budget_gib"]),
        ({**NO_CARD, "wsl": True}, 1, ["in Windows, not inside WSL"]),
        (NO_CARD, 1, ["NVIDIA card without a working driver"]),
        ({**BARE, "vendors": ("amd",)}, 1, ["AMD card", "ROCm"]),
        ({**BARE, "mps": True}, 1, ["Apple GPU", "load_in_4bit=false"]),
        (BARE, 0, ["trains in fp32"]),
        ({**BARE, "cpu_features": ("amx_bf16",)}, 0, ["trains in bf16 (amx_bf16)"]),
        ({**BARE, "memory_free": GIB}, 1, ["close programs"]),
        ({**BARE, "memory_free": GIB, "memory_total": 2 * GIB}, 2, ["the quickstart takes 3"]),
        ({"disk_free": 2 * GIB}, 2, ["2.0 GiB free on the disk"]),
    ],
)
def test_each_broken_setup_is_named_with_a_remedy(changes, code, words):
    findings = diagnose(dataclasses.replace(HEALTHY, **changes))
    text = "\n".join(finding.text for finding in findings)
    assert all(word in text for word in words), text
    assert judge(findings) == code, text


def test_a_healthy_machine_gets_nothing_to_change():
    assert {finding.level for finding in diagnose(HEALTHY)} == {"ok"}


def test_the_facts_of_this_machine_are_read():
    machine = read_machine()
    assert machine.memory_total >= machine.memory_free > 0 and machine.disk_free > 0
    assert machine.cores >= 1 and machine.torch and "cpu" in machine.bitsandbytes_kernels
    assert diagnose(machine) is not None and machine.to_dict()["system"] == machine.system
