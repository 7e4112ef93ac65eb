"""What a machine's facts mean for training: findings in plain words, and whether it fits.

findings = diagnose(machine)
code = judge(machine, findings)     # 0 fits, 1 fits with changes, 2 cannot
"""

from dataclasses import dataclass

from hardware import GIB
from machine import Gpu, Machine

OLDEST_DRIVER = {12: "525", 13: "580"}  # NVIDIA driver that runs a CUDA major version
CUDA_INDEX = "https://download.pytorch.org/whl/cu130"
OLD_CUDA_INDEX = "https://download.pytorch.org/whl/cu126"
DISK_NEEDED = 6 * GIB  # environment, 1B base, its 4-bit cache, checkpoints
DISK_TIGHT = 15 * GIB
MEMORY_NEEDED = 3 * GIB  # quickstart on a CPU
GPU_WHOLE, GPU_SMALL, GPU_LEAST = 6 * GIB, 2 * GIB, 1 * GIB
FAST_BF16 = {"avx512_bf16", "amx_bf16", "bf16"}
HOT_CELSIUS = 87


@dataclass(frozen=True)
class Finding:
    """Something to know; `level` is ok, change (works after or with a change) or stop."""

    level: str
    text: str


def diagnose(machine: Machine) -> list[Finding]:
    """All findings, the broken things first."""
    found = [*check_torch(machine), *check_cards(machine), *check_kernels(machine)]
    found += [*check_host(machine), *check_room(machine)]
    order = {"stop": 0, "change": 1, "ok": 2}
    return sorted(found, key=lambda finding: order[finding.level])


def judge(findings: list[Finding]) -> int:
    """0: fits as it is; 1: fits with changes; 2: cannot."""
    levels = {finding.level for finding in findings}
    return 2 if "stop" in levels else 1 if "change" in levels else 0


def check_torch(machine: Machine) -> list[Finding]:
    """Whether torch's build fits the cards that are there."""
    if machine.torch_sees_gpu:
        return []
    if not machine.gpus:
        return check_unseen(machine)
    name = machine.gpus[0].name
    if machine.torch_cuda is None:
        return [
            Finding(
                "change",
                f"{name} is here, but this torch ({machine.torch}) is a CPU build: run "
                f"python3 03_scripts/quickstart.py --torch-index {CUDA_INDEX}",
            )
        ]
    needed = int(machine.torch_cuda.split(".")[0])
    if machine.driver_cuda and machine.driver_cuda[0] < needed:
        oldest = OLDEST_DRIVER.get(needed, "the newest")
        return [
            Finding(
                "change",
                f"driver {machine.driver} runs CUDA {machine.driver_cuda[0]}.x and this torch "
                f"needs CUDA {machine.torch_cuda}: install driver {oldest} or newer, or a torch "
                f"for CUDA 12: 03_scripts/quickstart.py --torch-index {OLD_CUDA_INDEX}",
            )
        ]
    return [
        Finding(
            "change",
            f"{name} is here and driver {machine.driver} is new enough, but torch cannot use the "
            "card: restart the machine; look at CUDA_VISIBLE_DEVICES; `nvidia-smi` must work",
        )
    ]


def check_unseen(machine: Machine) -> list[Finding]:
    """Cards that no driver of ours answers for: NVIDIA without a driver, AMD, Intel."""
    found = []
    if "nvidia" in machine.vendors:
        where = "in Windows, not inside WSL" if machine.wsl else "from nvidia.com or your system"
        found.append(
            Finding("change", f"an NVIDIA card without a working driver: install one {where}")
        )
    elif machine.wsl and machine.torch_cuda:
        text = "WSL shows no NVIDIA card: update Windows' driver, then `wsl --update`"
        found.append(Finding("change", text))
    if "amd" in machine.vendors and machine.torch_hip is None and not machine.mps:
        found.append(
            Finding(
                "change",
                "an AMD card: torch needs a ROCm build (Linux, --torch-index "
                "https://download.pytorch.org/whl/rocm6.4); not tested here",
            )
        )
    return found


def check_cards(machine: Machine) -> list[Finding]:
    """Memory, age, heat and company of each NVIDIA card that torch can use."""
    return [finding for gpu in machine.gpus for finding in check_card(gpu, machine)]


def check_card(gpu: Gpu, machine: Machine) -> list[Finding]:
    """What one card can train."""
    free = f"{gpu.name}: {gpu.free / GIB:.1f} of {gpu.total / GIB:.1f} GiB free"
    found = [check_card_room(gpu, free)]
    supported = [
        int(arch.removeprefix("sm_")) for arch in machine.torch_archs if arch[3:].isdigit()
    ]
    own = gpu.capability[0] * 10 + gpu.capability[1]
    if supported and own < min(supported):
        text = (
            f"{gpu.name} (sm_{own}) is too old for this torch, which starts at sm_{min(supported)}"
        )
        found.append(Finding("change", f"{text}: use a torch for CUDA 12.6: {OLD_CUDA_INDEX}"))
    if gpu.capability < (8, 0):
        text = f"{gpu.name} has no fast bf16: fp16 is used and said so"
        found.append(Finding("ok", text))
    if gpu.slowed or (gpu.celsius or 0) >= HOT_CELSIUS:
        why = gpu.slowed or "heat"
        text = f"{gpu.name} is slowed down by {why} ({gpu.celsius} C, {gpu.watts or 0:.0f} W)"
        found.append(Finding("change", f"{text}: free its air or plug in the charger"))
    return found


def check_card_room(gpu: Gpu, free: str) -> Finding:
    """What fits into a card's free memory."""
    users = f"; in use by {', '.join(gpu.users[:3])}" if gpu.users else ""
    if gpu.free >= GPU_WHOLE:
        return Finding("ok", f"{free}: Llama-3.2-1B in 4 bit as 00_configs/dpo.json has it")
    if gpu.free >= GPU_SMALL:
        return Finding("change", f"{free}{users}: Llama-3.2-1B in 4 bit with auto_fit=true")
    if gpu.free >= GPU_LEAST:
        return Finding("change", f"{free}{users}: the quickstart's 135M model; close programs")
    return Finding("change", f"{free}{users}: too little; close programs, or use device=cpu")


def check_kernels(machine: Machine) -> list[Finding]:
    """Whether bitsandbytes can quantise on the device that torch will use."""
    if machine.bitsandbytes is None:
        text = "bitsandbytes is missing: run python3 03_scripts/quickstart.py, which installs it"
        return [Finding("stop", text)]
    kinds = machine.bitsandbytes_kernels
    wanted = None
    if machine.torch_cuda and machine.torch_sees_gpu:
        wanted = "cuda" + machine.torch_cuda.replace(".", "")
    elif machine.torch_hip and machine.torch_sees_gpu:
        wanted = "rocm" + "".join(machine.torch_hip.split(".")[:2])
    if wanted is None or wanted in kinds:
        return []
    have = ", ".join(kinds) or "none"
    return [
        Finding(
            "change",
            f"bitsandbytes {machine.bitsandbytes} has no kernels for {wanted} (it has {have}): "
            "set load_in_4bit=false, or BNB_CUDA_VERSION to one it has",
        )
    ]


def check_host(machine: Machine) -> list[Finding]:
    """System particulars: WSL, Apple, the processor's number formats."""
    found = []
    if machine.wsl:
        text = (
            "WSL: Windows may move GPU memory into system memory without a word, which is ten "
            "times slower; set memory_budget_gib below what the card has"
        )
        found.append(Finding("ok", text))
    if machine.mps:
        text = "Apple GPU: works with load_in_4bit=false (no 4-bit kernels); not tested here"
        found.append(Finding("change", text))
    elif not machine.torch_sees_gpu:
        fast = FAST_BF16 & set(machine.cpu_features)
        form = f"bf16 ({', '.join(sorted(fast))})" if fast else "fp32: about 2.4 times slower"
        found.append(Finding("ok", f"{machine.cpu}, {machine.cores} cores, trains in {form}"))
    return found


def check_room(machine: Machine) -> list[Finding]:
    """System memory and disk."""
    found = []
    memory, disk = machine.memory_free / GIB, machine.disk_free / GIB
    if not machine.torch_sees_gpu and machine.memory_free < MEMORY_NEEDED:
        level = "stop" if machine.memory_total < MEMORY_NEEDED else "change"
        text = f"{memory:.1f} GiB of memory free, the quickstart takes {MEMORY_NEEDED / GIB:.0f}"
        found.append(Finding(level, f"{text}: close programs"))
    if machine.disk_free < DISK_NEEDED:
        text = f"{disk:.1f} GiB free on the disk, a run needs {DISK_NEEDED / GIB:.0f}: make room"
        found.append(Finding("stop", text))
    elif machine.disk_free < DISK_TIGHT:
        text = f"{disk:.1f} GiB free on the disk: enough for the quickstart and a 1B run"
        found.append(Finding("ok", text))
    return found
