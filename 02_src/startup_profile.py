"""Where the seconds before the first step went.

    mark("imports")                 # everything since the last mark is called that
    print(format_profile())

Marks cost nothing; `train_dpo.py --profile-startup` prints them.
"""

import time

import psutil

_marks: list[tuple[str, float]] = []


def mark(name: str) -> None:
    """What was done since the last mark, or since the process began, is called `name`."""
    _marks.append((name, time.time()))


def forget_marks() -> None:
    """Start again; the next mark still counts from the process's begin."""
    _marks.clear()


def list_seconds() -> list[tuple[str, float]]:
    """(name, seconds) of each part, in order; parts of one name are added up."""
    last = psutil.Process().create_time()
    found: dict[str, float] = {}
    for name, moment in _marks:
        found[name] = found.get(name, 0.0) + moment - last
        last = moment
    return list(found.items())


def format_profile() -> str:
    """The parts and their sum, a line each."""
    parts = list_seconds()
    lines = [f"  {name:<28}{seconds:7.2f} s" for name, seconds in parts]
    total = sum(seconds for _, seconds in parts)
    return "\n".join(
        ["from process start to the first step:", *lines, f"  {'all':<28}{total:7.2f} s"]
    )
