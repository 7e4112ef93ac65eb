"""Run the stages of quickstart.py in order, skip what is done, and say how to go on after a stop.

Standard library only: it runs before .venv exists.
"""

import argparse
import os
import shlex
import subprocess
import sys
import time

from bootstrap import (
    REPOSITORY,
    child_environment,
    is_ready,
    is_usable,
    make_environment,
    venv_python,
)
from find_python import SetupError, wait_for
from quickstart_report import print_report, print_seconds
from quickstart_stages import STAGES, Places, read_places

INTERRUPTED = 130
FIRST_STAGE = "setup"


def run_quickstart(arguments: argparse.Namespace, names: tuple[str, ...]) -> int:
    """Run the stages from --keep-going-from on, then report; the exit code.

    Raises:
        SetupError: .venv cannot be made, or the config cannot be read.
    """
    sys.stdout.reconfigure(errors="replace", line_buffering=True)
    places = read_places(arguments.config)
    first = names.index(arguments.keep_going_from)
    if first and not is_usable(venv_python()):
        raise SetupError("there is no .venv to go on with: leave out --keep-going-from")
    seconds: dict[str, float | None] = {}
    for number, name in enumerate(names[first:], start=first + 1):
        label = f"[{number}/{len(names)}] {name}"
        try:
            code, seconds[name] = time_stage(label, name, places, arguments)
        except KeyboardInterrupt:
            print_next_command(name, arguments)
            raise
        if code:
            print_next_command(name, arguments, code)
            return code
    print_report(places)
    print_seconds(seconds)
    return 0


def time_stage(
    label: str, name: str, places: Places, arguments: argparse.Namespace
) -> tuple[int, float | None]:
    """(exit code, seconds) of a stage; no seconds where it was done already."""
    done, purpose = describe_stage(name, places, arguments)
    if done:
        print(f"{label}: done already: {done}")
        return 0, None
    print(f"{label}: {purpose}")
    began = time.monotonic()
    code = run_setup(arguments) if name == FIRST_STAGE else run_command(name, places)
    seconds = time.monotonic() - began
    if not code:
        print(f"{label}: took {seconds:.0f} s")
    return code, seconds


def describe_stage(
    name: str, places: Places, arguments: argparse.Namespace
) -> tuple[str | None, str]:
    """(where its result lies if it is done, what it does and about how long that takes)."""
    if name != FIRST_STAGE:
        stage = STAGES[name]
        return stage.find_done(places), f"{stage.purpose} ({stage.duration})"
    done = is_ready(arguments.torch_index) and not arguments.python
    return ".venv" if done else None, "make .venv (1 to 10 minutes, mostly download)"


def run_setup(arguments: argparse.Namespace) -> int:
    """Make .venv."""
    make_environment(arguments.python, arguments.torch_index)
    return 0


def run_command(name: str, places: Places) -> int:
    """Exit code of a stage's command, run by .venv's Python with its output shown."""
    script, *options = STAGES[name].build_command(places)
    command = [str(venv_python()), "-u", str(REPOSITORY / script), *options]
    return wait_for(subprocess.Popen(command, cwd=REPOSITORY, env=child_environment()))


def print_next_command(name: str, arguments: argparse.Namespace, code: int | None = None) -> None:
    """Say where the run ended and the command that goes on from there."""
    how = "stopped" if code in (None, INTERRUPTED) else f"failed with exit code {code}"
    print(f"{name}: {how}; go on with: {build_next_command(name, arguments)}")


def build_next_command(name: str, arguments: argparse.Namespace) -> str:
    """The command that starts at stage `name` with the same options."""
    options = {"--config": arguments.config, "--python": arguments.python}
    options |= {"--torch-index": arguments.torch_index}
    if name != FIRST_STAGE:
        options = {"--config": arguments.config, "--keep-going-from": name}
    given = [part for option, value in options.items() if value for part in (option, value)]
    command = ["py" if os.name == "nt" else "python3", sys.argv[0], *given]
    return subprocess.list2cmdline(command) if os.name == "nt" else shlex.join(command)
