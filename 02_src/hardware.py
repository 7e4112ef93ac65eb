"""What this machine is: the device a run uses, its memory and its fast number formats.

device = find_device(config)        # Device; also makes exactly one GPU visible
"""

import os
import platform
from dataclasses import asdict, dataclass

from config import Config
from errors import UserError
from processes import local_rank

GIB = 1024**3


@dataclass(frozen=True)
class Device:
    """One device; sizes in bytes."""

    kind: str  # cuda, cpu or mps
    name: str
    free_bytes: int
    total_bytes: int
    bf16: bool  # fast bfloat16 arithmetic
    threads: int
    driver: str | None = None
    capability: str | None = None
    index: int = 0  # of the GPU, among the visible ones

    @property
    def place(self) -> str:
        """The device in torch's words."""
        return f"cuda:{self.index}" if self.kind == "cuda" else self.kind

    def describe(self) -> str:
        """One line for people."""
        formats = "bf16" if self.bf16 else ("fp16" if self.kind == "cuda" else "fp32")
        memory = f"{self.free_bytes / GIB:.1f} of {self.total_bytes / GIB:.1f} GiB free"
        return f"{self.name} ({self.kind}, {formats}, {self.threads} threads), {memory}"

    def to_dict(self) -> dict:
        """All fields, for JSON."""
        return asdict(self)


def find_device(config: Config | None = None) -> Device:
    """The device this run uses.

    Without a launcher exactly one GPU is made visible, before CUDA starts: the one with the most
    free memory, or the config's `gpu` (DPOTrainer refuses two, which would mean nn.DataParallel).
    With one, each process takes the GPU of its number.

    Raises:
        UserError: the config asks for a device this machine does not have.
    """
    wanted = config.device if config else "auto"
    if wanted in ("auto", "cuda") and "LOCAL_RANK" not in os.environ:
        choose_gpu(config.gpu if config else None)
    import torch

    if wanted in ("auto", "cuda") and torch.cuda.is_available():
        return describe_gpu(local_rank())
    if wanted == "cuda":
        raise UserError(
            "device: cuda was asked for, but torch sees no GPU; see 01_data/gpu_check.py"
        )
    if wanted in ("auto", "mps") and torch.backends.mps.is_available():
        free, total = memory_of_machine()
        return Device("mps", f"Apple {platform.machine()}", free, total, True, os.cpu_count() or 1)
    if wanted == "mps":
        raise UserError("device: mps was asked for, but this is no Apple GPU; use auto or cpu")
    return describe_cpu()


def list_gpus() -> list[dict]:
    """NVIDIA GPUs in PCI order, each with index, name, free and total bytes, driver."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    driver = pynvml.nvmlSystemGetDriverVersion()
    gpus = []
    for index in range(pynvml.nvmlDeviceGetCount()):
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
        name = pynvml.nvmlDeviceGetName(handle)
        gpus.append(
            {"index": index, "name": name, "free": memory.free, "total": memory.total,
             "driver": driver}
        )  # fmt: skip
    pynvml.nvmlShutdown()
    return gpus


def choose_gpu(wanted: int | None) -> None:
    """Make one GPU visible: `wanted`, else what the user chose, else the one with most free."""
    if "CUDA_VISIBLE_DEVICES" in os.environ and wanted is None:
        first = os.environ["CUDA_VISIBLE_DEVICES"].split(",")[0]
        os.environ["CUDA_VISIBLE_DEVICES"] = first
        return
    gpus = list_gpus()
    if wanted is not None and gpus and wanted >= len(gpus):
        raise UserError(f"gpu: {wanted} does not exist; this machine has GPUs 0 to {len(gpus) - 1}")
    if gpus:
        best = wanted if wanted is not None else max(gpus, key=lambda gpu: gpu["free"])["index"]
        os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
        os.environ["CUDA_VISIBLE_DEVICES"] = str(best)


def describe_gpu(index: int = 0) -> Device:
    """A visible CUDA device."""
    import torch

    if index >= torch.cuda.device_count():
        raise UserError(
            f"process {index} of this machine has no GPU of its own: torch sees "
            f"{torch.cuda.device_count()}; launch that many processes"
        )
    free, total = torch.cuda.mem_get_info(index)
    properties = torch.cuda.get_device_properties(index)
    drivers = [gpu["driver"] for gpu in list_gpus()]
    return Device(
        kind="cuda",
        name=properties.name,
        free_bytes=free,
        total_bytes=total,
        bf16=properties.major >= 8,
        threads=os.cpu_count() or 1,
        driver=drivers[0] if drivers else None,
        capability=f"{properties.major}.{properties.minor}",
        index=index,
    )


def describe_cpu() -> Device:
    """This machine's processor; bf16 only where it has the instructions (else it is emulated)."""
    import torch

    can = torch.cpu.get_capabilities()
    bf16 = any(can.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    name = str(can.get("cpu_name") or platform.processor() or platform.machine())
    free, total = memory_of_machine()
    return Device("cpu", name, free, total, bool(bf16), torch.get_num_threads())


def memory_of_machine() -> tuple[int, int]:
    """(available, total) bytes of system memory."""
    import psutil

    memory = psutil.virtual_memory()
    return memory.available, memory.total


def describe_fit(device: Device) -> list[str]:
    """What this device can train, in a few lines; figures from the README's measurements."""
    if device.kind == "cpu":
        lines = [
            "quickstart (embedded SmolLM2-135M, 4 bit): fits, some minutes on two cores",
            "Llama-3.2-1B: runs, but slowly; an NVIDIA GPU with 4 GiB or more is the way",
        ]
        return [*describe_missing_gpu(), *lines] if list_gpus() else lines
    if device.kind == "mps":
        return ["quickstart: fits; 4 bit needs bitsandbytes kernels, else set load_in_4bit=false"]
    free = device.free_bytes / GIB
    lines = ["quickstart (embedded SmolLM2-135M): fits"] if free > 1 else []
    if free >= 6:
        return [*lines, "Llama-3.2-1B, 4 bit, batch 8 of short pairs: fits as 00_configs/dpo.json"]
    if free >= 2.5:
        return [*lines, "Llama-3.2-1B, 4 bit: fits with gradient_checkpointing=true, batch 1 to 8"]
    return [*lines, f"{free:.1f} GiB free is too little for Llama-3.2-1B; close other programs"]


def describe_missing_gpu() -> list[str]:
    """Why torch does not see the NVIDIA card that the driver knows."""
    import torch

    gpu = list_gpus()[0]
    if torch.version.cuda is None:
        return [
            f"{gpu['name']} is here, but this torch is a CPU build: run "
            "python3 03_scripts/quickstart.py --torch-index https://download.pytorch.org/whl/cu130"
        ]
    return [
        f"{gpu['name']} is here, but torch (CUDA {torch.version.cuda}) cannot use it with driver "
        f"{gpu['driver']}: update the driver"
    ]
