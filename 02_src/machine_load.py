"""How busy this machine is: its NVIDIA GPUs where there are any, else processor and memory."""

from dataclasses import dataclass

from hardware import GIB, memory_of_machine


@dataclass(frozen=True)
class Load:
    """One part of the machine."""

    name: str
    share: float  # 0 to 1
    text: str


def read_load() -> list[Load]:
    """Every GPU's load, memory and temperature, or the processor's load and the memory in use."""
    return read_gpus() or read_processor()


def read_gpus() -> list[Load]:
    """Load of each NVIDIA GPU; empty without a driver."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        return [read_gpu(index) for index in range(pynvml.nvmlDeviceGetCount())]
    finally:
        pynvml.nvmlShutdown()


def read_gpu(index: int) -> Load:
    """One GPU; what its driver does not tell is left out."""
    import pynvml

    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    busy, parts = 0.0, [f"{memory.used / GIB:.1f} of {memory.total / GIB:.1f} GiB"]
    try:
        busy = pynvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100
        degrees = pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU)
        parts = [f"{busy:.0%}", *parts, f"{degrees} °C"]
    except pynvml.NVMLError:
        pass
    return Load(f"GPU {index}", busy, ", ".join(parts))


def read_processor() -> list[Load]:
    """Processor load since the last call (0 at the first), and memory in use."""
    import psutil

    busy = psutil.cpu_percent() / 100
    free, total = memory_of_machine()
    used = f"{(total - free) / GIB:.1f} of {total / GIB:.1f} GiB"
    cores = psutil.cpu_count() or 1
    return [
        Load("processor", busy, f"{busy:.0%} of {cores} cores"),
        Load("memory", 1 - free / total, used),
    ]
