"""Find a Python that can make .venv, and wait for the programs we start.

    from find_python import find_python, rerun_if_old

Standard library only, and it has to run on Python 3.6: a user whose `python3` is old gets a newer
one that is on the machine, or one line that says what is missing, instead of a SyntaxError. So
annotations are quoted, and newer syntax stays out of this file, quickstart.py and run_tests.py.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from typing import NamedTuple

OLDEST, NEWEST = (3, 11), (3, 14)  # the pinned packages have wheels for these
PROBE = (
    "import sys; from importlib.util import find_spec; "
    "print(sys.version_info[0], sys.version_info[1], int(sys.maxsize > 2**32), "
    "int(bool(find_spec('venv') and find_spec('ensurepip'))), sys.executable)"
)


class SetupError(Exception):
    """The machine or the command line has to change; the text says in one line what."""

    exit_code = 2


class Interpreter(NamedTuple):
    """A Python found on this machine."""

    path: str
    version: tuple
    is_64bit: bool = True
    has_venv: bool = True


def rerun_if_old(
    script: str, wanted: "str | None" = None, version: tuple = sys.version_info[:2]
) -> "int | None":
    """Exit code of `script` run again by a newer Python; None where the running one will do.

    Raises:
        SetupError: the running Python is too old and there is no other.
    """
    if version >= OLDEST:
        return None
    python = find_python(wanted)
    print(f"Python {show_version(version)} is too old: going on with {python}", flush=True)
    return wait_for(subprocess.Popen([python, script] + sys.argv[1:]))


def find_python(wanted: "str | None" = None) -> str:
    """Path of the Python to make .venv with: `wanted`, else the running one, else another."""
    if not wanted:
        probes = (probe_python(command) for command in list_candidates())
        return choose_python(found for found in probes if found)
    found = probe_python([shutil.which(wanted) or wanted])
    if found is None:
        raise SetupError(f"--python {wanted}: is not a Python that runs")
    return choose_python([found])


def list_candidates() -> "list[list[str]]":
    """Commands that may start a Python, best first: the running one, then newest to oldest."""
    versions = [f"3.{minor}" for minor in range(NEWEST[1], OLDEST[1] - 1, -1)]
    commands = [[getattr(sys, "_base_executable", None) or sys.executable]]
    if os.name == "nt" and shutil.which("py"):
        commands += [["py", f"-{version}"] for version in versions]
    names = [f"python{version}" for version in versions] + ["python3", "python"]
    return commands + [[shutil.which(name)] for name in names if shutil.which(name)]


def probe_python(command: "list[str]") -> "Interpreter | None":
    """What `command` is; None when it is no Python that runs."""
    try:
        output = subprocess.check_output(command + ["-c", PROBE], stderr=subprocess.DEVNULL)
        major, minor, is_64bit, has_venv, path = os.fsdecode(output).split(None, 4)
    except (OSError, ValueError, subprocess.CalledProcessError):
        return None
    return Interpreter(path.strip(), (int(major), int(minor)), is_64bit == "1", has_venv == "1")


def choose_python(found: "Iterable[Interpreter]") -> str:
    """Path of the first interpreter that can make .venv.

    Raises:
        SetupError: none can; where only the venv module is missing, the text names its package.
    """
    without_venv, seen = None, []
    for python in found:
        seen.append(show_version(python.version) + ("" if python.is_64bit else " (32-bit)"))
        if not (OLDEST <= python.version <= NEWEST and python.is_64bit):
            continue
        if python.has_venv:
            return python.path
        without_venv = without_venv or python
    if without_venv:
        raise SetupError(describe_missing_venv(without_venv.version))
    raise SetupError(
        f"needs a 64-bit Python {show_version(OLDEST)} to {show_version(NEWEST)} (found: "
        f"{', '.join(dict.fromkeys(seen)) or 'none'}): install one from python.org or with your "
        "package manager, or name one with --python PATH"
    )


def describe_missing_venv(version: tuple) -> str:
    """What to install where a Python comes without venv or ensurepip, as on Debian and Ubuntu."""
    name = f"python{show_version(version)}"
    return (
        f"{name} has no venv module: on Debian or Ubuntu run `sudo apt install {name}-venv`, "
        "elsewhere install a complete Python; then run this again"
    )


def show_version(version: tuple) -> str:
    """(3, 11) as 3.11."""
    return ".".join(str(part) for part in version[:2])


def wait_for(process: subprocess.Popen) -> int:
    """Exit code of a program we started.

    Ctrl-C reaches it too, and it may need a while to save what it has: we wait for its end.

    Raises:
        KeyboardInterrupt: once it has ended, if Ctrl-C was pressed meanwhile.
    """
    interrupted = False
    while process.returncode is None:
        try:
            process.wait()
        except KeyboardInterrupt:
            interrupted = True
    if interrupted:
        raise KeyboardInterrupt
    return process.returncode
