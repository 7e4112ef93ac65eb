"""Make .venv at the repository root: the first stage of quickstart.py and run_tests.py.

    from bootstrap import make_environment
    python = make_environment()          # Path of .venv's Python, requirements.txt installed

Standard library only. torch is installed first and alone, so that no other package picks its
build. A stamp in .venv says what was installed: a second call has nothing to do.
"""

import hashlib
import json
import os
import platform
import shutil
import subprocess
from pathlib import Path

from find_python import SetupError, find_python, probe_python, show_version, wait_for

REPOSITORY = Path(__file__).resolve().parent.parent
VENV = REPOSITORY / ".venv"
REQUIREMENTS = REPOSITORY / "requirements.txt"
STAMP = VENV / "installed.json"
CUDA_INDEX = "https://download.pytorch.org/whl/cu130"
KERNEL_NAME, KERNEL_TITLE = "oilfield-dpo", "Python (oilfield DPO)"


def make_environment(wanted: str | None = None, torch_index: str | None = None) -> Path:
    """Python of .venv with requirements.txt installed; makes, completes or repairs it as needed.

    Args:
        wanted: the Python to make it with (--python).
        torch_index: where torch comes from (--torch-index); None takes the machine's default.

    Raises:
        SetupError: no fitting Python, .venv is another one's than `wanted`, or pip failed.
    """
    python, before = venv_python(), read_stamp()
    check_wanted(wanted)
    if is_ready(torch_index):
        return python
    if before.get("complete") is False or not is_usable(python):
        create_environment(find_python(wanted))
        before = {}
    index = torch_index or before.get("torch_index") or choose_torch_index()
    write_stamp(index, complete=False)
    if before and before["torch_index"] != index:
        run_in_venv("remove the torch there is", "pip", "uninstall", "--yes", "torch")
    install_packages(index)
    write_stamp(index, complete=True)
    return python


def is_ready(torch_index: str | None = None) -> bool:
    """Whether .venv holds requirements.txt, with torch from `torch_index` if one is given."""
    stamp = read_stamp()
    same = stamp.get("complete") is True and stamp["requirements"] == hash_requirements()
    return same and torch_index in (None, stamp["torch_index"]) and is_usable(venv_python())


def venv_python() -> Path:
    """Where .venv's Python is, or will be."""
    return VENV / "Scripts" / "python.exe" if os.name == "nt" else VENV / "bin" / "python"


def is_usable(python: Path) -> bool:
    """Whether .venv's Python starts and has pip: not so once the Python behind it is gone."""
    command = [str(python), "-c", "import pip"]
    try:
        return subprocess.run(command, capture_output=True, env=child_environment()).returncode == 0
    except OSError:
        return False


def check_wanted(wanted: str | None) -> None:
    """SetupError where .venv was made by another Python version than the `wanted` one."""
    there = probe_python([str(venv_python())])
    asked = probe_python([shutil.which(wanted) or wanted]) if wanted else None
    if there and asked and there.version != asked.version:
        raise SetupError(
            f"--python {wanted}: .venv was made with Python {show_version(there.version)}; "
            "delete the folder .venv to make it anew"
        )


def create_environment(base: str) -> None:
    """Make an empty .venv with `base`; what an unfinished setup left there is cleared."""
    if VENV.is_file():
        raise SetupError(".venv is a file: move it away, a folder is made there")
    print(f"making .venv {'anew, it is not complete, ' if VENV.exists() else ''}with {base}")
    command = [base, "-m", "venv", "--clear", str(VENV)]
    done = subprocess.run(command, capture_output=True, text=True, env=child_environment())
    if done.returncode:
        last = " ".join((done.stdout + done.stderr).split())[-300:]
        raise SetupError(f"could not make .venv with {base}: {last}")


def install_packages(index: str | None) -> None:
    """torch, then the rest, then the notebook's kernel; pip's own progress shows."""
    torch = next(line for line in read_requirements() if line.startswith("torch=="))
    source = ["--index-url", index] if index else []
    print(f"installing {torch} from {index or 'the default package index'}", flush=True)
    run_in_venv(f"install {torch}", "pip", "install", *source, torch)
    print(f"installing {REQUIREMENTS.name}", flush=True)
    run_in_venv(f"install {REQUIREMENTS.name}", "pip", "install", "-r", str(REQUIREMENTS))
    names = ("--name", KERNEL_NAME, "--display-name", KERNEL_TITLE)
    run_in_venv("register the Jupyter kernel", "ipykernel", "install", "--sys-prefix", *names)


def run_in_venv(purpose: str, module: str, *arguments: str) -> None:
    """Run `python -m module` of .venv with its output shown; SetupError when it fails."""
    environment = {**child_environment(), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    command = [str(venv_python()), "-m", module, *arguments]
    code = wait_for(subprocess.Popen(command, env=environment))
    if code:
        raise SetupError(
            f"could not {purpose} (exit code {code}; the reason is above): check the network and "
            "the free disk space, then run this again"
        )


def read_requirements() -> list[str]:
    """The requirements, comments and blank lines left out."""
    lines = REQUIREMENTS.read_text(encoding="utf-8").splitlines()
    bare = [line.partition("#")[0].strip() for line in lines]
    return [line for line in bare if line]


def hash_requirements() -> str:
    """Changes when a requirement does, not with a comment or line ends."""
    return hashlib.sha256("\n".join(read_requirements()).encode()).hexdigest()


def read_stamp() -> dict:
    """What was installed; {} without a stamp, not complete where it cannot be read."""
    try:
        return json.loads(STAMP.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError):
        return {"complete": False}


def write_stamp(index: str | None, complete: bool) -> None:
    """Note what is being installed; a setup that is killed leaves `complete` false."""
    stamp = {"requirements": hash_requirements(), "torch_index": index, "complete": complete}
    STAMP.write_text(json.dumps(stamp) + "\n", encoding="utf-8")


def choose_torch_index() -> str | None:
    """The CUDA index where there is an NVIDIA driver and the default wheel has no CUDA: Windows."""
    is_plain_windows = os.name == "nt" and platform.machine().upper() in ("AMD64", "X86_64")
    return CUDA_INDEX if is_plain_windows and has_nvidia_driver() else None


def has_nvidia_driver() -> bool:
    """Whether nvidia-smi is on PATH or where the driver's Windows installers put it."""
    system = Path(os.environ.get("SYSTEMROOT", "C:/Windows")) / "System32"
    programs = Path(os.environ.get("PROGRAMFILES", "C:/Program Files"))
    folders = (system, programs / "NVIDIA Corporation" / "NVSMI")
    known = any((folder / "nvidia-smi.exe").is_file() for folder in folders)
    return known or shutil.which("nvidia-smi") is not None


def child_environment() -> dict[str, str]:
    """Environment of what we start: UTF-8 output, and only .venv's packages."""
    hidden = ("PYTHONPATH", "PYTHONHOME")
    kept = {name: value for name, value in os.environ.items() if name not in hidden}
    return {**kept, "PYTHONUTF8": "1"}
