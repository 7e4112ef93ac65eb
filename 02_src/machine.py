"""Facts about this machine, read without judging them; machine_check.py does that.

    machine = read_machine()        # Machine: graphics cards, torch build, processor, memory, disk

Nothing here starts CUDA, so that a broken set-up can be described too.
"""

import os
import platform
import shutil
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from config import REPOSITORY
from hardware import memory_of_machine

VENDORS = {"0x10de": "nvidia", "0x1002": "amd", "0x8086": "intel"}
CPU_FEATURES = ("avx2", "avx512_f", "avx512_vnni", "avx512_bf16", "amx_bf16", "bf16", "neon", "sve")


@dataclass(frozen=True)
class Gpu:
    """An NVIDIA card as its driver describes it; sizes in bytes."""

    name: str
    capability: tuple[int, int]
    free: int
    total: int
    users: tuple[str, ...]  # "PID program: MiB" of each program on the card
    celsius: int | None
    watts: float | None
    watts_limit: float | None
    slowed: str | None  # why the card runs below its clock, where it does


@dataclass(frozen=True)
class Machine:
    """What gpu_check.py looks at; sizes in bytes."""

    system: str
    wsl: bool
    gpus: tuple[Gpu, ...]
    driver: str | None
    driver_cuda: tuple[int, int] | None  # newest CUDA the NVIDIA driver runs
    vendors: tuple[str, ...]  # of graphics cards the system lists, where it can
    torch: str | None  # version; None: not installed
    torch_cuda: str | None  # CUDA version of the build
    torch_hip: str | None  # ROCm version of the build
    torch_sees_gpu: bool
    torch_archs: tuple[str, ...]  # sm_75 and so on, of the build
    mps: bool
    bitsandbytes: str | None
    bitsandbytes_kernels: tuple[str, ...]  # cuda130, rocm64, cpu
    cpu: str
    cores: int
    cpu_features: tuple[str, ...]
    memory_free: int
    memory_total: int
    disk_free: int

    def to_dict(self) -> dict:
        """All facts, for JSON."""
        return asdict(self)


def read_machine() -> Machine:
    """The facts of the machine this runs on."""
    gpus, driver, driver_cuda = read_nvidia()
    release = platform.uname().release.lower()
    free, total = memory_of_machine()
    return Machine(
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        wsl="microsoft" in release,
        gpus=gpus,
        driver=driver,
        driver_cuda=driver_cuda,
        vendors=read_vendors(),
        memory_free=free,
        memory_total=total,
        disk_free=shutil.disk_usage(REPOSITORY).free,
        cores=os.cpu_count() or 1,
        bitsandbytes=read_version("bitsandbytes"),
        bitsandbytes_kernels=read_kernels(),
        **read_torch(),
    )


def read_torch() -> dict:
    """What the torch build is and sees, and the processor as torch describes it."""
    import torch

    can = torch.cpu.get_capabilities()
    return {
        "torch": torch.__version__,
        "torch_cuda": torch.version.cuda,
        "torch_hip": torch.version.hip,
        "torch_sees_gpu": torch.cuda.is_available(),
        "torch_archs": tuple(torch.cuda.get_arch_list()),
        "mps": torch.backends.mps.is_available(),
        "cpu": str(can.get("cpu_name") or platform.processor() or platform.machine()),
        "cpu_features": tuple(name for name in CPU_FEATURES if can.get(name)),
    }


def read_version(package: str) -> str | None:
    """The installed version of a package."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def read_kernels() -> tuple[str, ...]:
    """The devices bitsandbytes has a library for, by its file names; it is not imported."""
    spec = find_spec("bitsandbytes")
    if spec is None or not spec.submodule_search_locations:
        return ()
    folder = Path(spec.submodule_search_locations[0])
    names = (file.stem for file in sorted(folder.glob("libbitsandbytes_*")))
    return tuple(name.removeprefix("libbitsandbytes_") for name in names)


def read_vendors() -> tuple[str, ...]:
    """Makers of the graphics cards that Linux lists; empty elsewhere."""
    files = sorted(Path("/sys/class/drm").glob("card*/device/vendor"))
    found = (VENDORS.get(file.read_text(encoding="utf-8").strip()) for file in files)
    return tuple(dict.fromkeys(name for name in found if name))


def read_nvidia() -> tuple[tuple[Gpu, ...], str | None, tuple[int, int] | None]:
    """(cards, driver version, newest CUDA of the driver); nothing without a working driver."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return (), None, None
    number = pynvml.nvmlSystemGetCudaDriverVersion_v2()
    driver = pynvml.nvmlSystemGetDriverVersion()
    handles = map(pynvml.nvmlDeviceGetHandleByIndex, range(pynvml.nvmlDeviceGetCount()))
    gpus = tuple(read_gpu(handle) for handle in handles)
    pynvml.nvmlShutdown()
    return gpus, driver, (number // 1000, number % 1000 // 10)


def read_gpu(handle) -> Gpu:
    """One card; what this card does not report is None."""
    import pynvml

    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    watts = ask(pynvml.nvmlDeviceGetPowerUsage, handle)
    limit = ask(pynvml.nvmlDeviceGetEnforcedPowerLimit, handle)
    return Gpu(
        name=pynvml.nvmlDeviceGetName(handle),
        capability=tuple(pynvml.nvmlDeviceGetCudaComputeCapability(handle)),
        free=memory.free,
        total=memory.total,
        users=read_users(handle),
        celsius=ask(pynvml.nvmlDeviceGetTemperature, handle, pynvml.NVML_TEMPERATURE_GPU),
        watts=None if watts is None else watts / 1000,
        watts_limit=None if limit is None else limit / 1000,
        slowed=name_slowdown(ask(pynvml.nvmlDeviceGetCurrentClocksThrottleReasons, handle)),
    )


def ask(question, *arguments):
    """NVML's answer; None where this card or driver has none."""
    import pynvml

    try:
        return question(*arguments)
    except pynvml.NVMLError:
        return None


def name_slowdown(reasons: int | None) -> str | None:
    """Heat or power, where one of them holds the clock down."""
    import pynvml

    heat = pynvml.nvmlClocksThrottleReasonHwThermalSlowdown
    heat |= pynvml.nvmlClocksThrottleReasonSwThermalSlowdown
    power = pynvml.nvmlClocksThrottleReasonHwPowerBrakeSlowdown
    if (reasons or 0) & heat:
        return "heat"
    return "power" if (reasons or 0) & power else None


def read_users(handle) -> tuple[str, ...]:
    """Programs with memory on the card, the largest first."""
    import psutil
    import pynvml

    found = []
    for question in (
        pynvml.nvmlDeviceGetComputeRunningProcesses,
        pynvml.nvmlDeviceGetGraphicsRunningProcesses,
    ):
        for process in ask(question, handle) or []:
            alive = psutil.pid_exists(process.pid)
            name = psutil.Process(process.pid).name() if alive else "?"
            found.append(((process.usedGpuMemory or 0) // 2**20, f"{process.pid} {name}"))
    return tuple(f"{name}: {size} MiB" for size, name in sorted(set(found), reverse=True))
