"""One process at a time writes a run folder.

    with hold_run(folder):
        ...

The lock is a file beside the folder with process id, host and the process's start time. The
operating system holds it, so the lock of a process that was killed is free at once. Where a file
system has no such locks, or the file comes from another computer, the content decides.
"""

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import psutil

from config import show_path
from errors import UserError

if os.name == "nt":
    import msvcrt
else:
    import fcntl

LOCKED_BYTE = 1 << 20  # far behind the content, which others may read
START_TOLERANCE = 2.0  # seconds; start times of one process differ by less


def lock_file(folder: Path) -> Path:
    """Where the lock of a run folder lies: beside it, so that the folder itself can be deleted."""
    return folder.with_name(f".{folder.name}.lock")


@contextmanager
def hold_run(folder: Path) -> Iterator[None]:
    """Keep other processes out of `folder`; a dead process's lock is taken over with a line.

    Raises:
        UserError: a living process, or one of another computer, is writing there.
    """
    file = lock_file(folder)
    made = [p for p in (file.parent, *file.parent.parents) if not p.exists()]
    file.parent.mkdir(parents=True, exist_ok=True)
    stream = None
    try:
        stream = open_lock(file)
        take_lock(stream, file, folder)
        yield
    finally:
        if stream is not None:
            release_lock(stream, file)
        for path in made:
            with suppress(OSError):  # in use by now
                path.rmdir()


def open_lock(file: Path) -> IO[str]:
    """The lock file, opened without emptying it."""
    return os.fdopen(os.open(file, os.O_RDWR | os.O_CREAT, 0o644), "r+", encoding="utf-8")


def take_lock(stream: IO[str], file: Path, folder: Path) -> None:
    """Lock and write who we are; UserError where someone else has it."""
    owner = read_owner(stream)
    answer = lock_byte(stream)
    mine = answer is True or (answer is None and not is_alive(owner))
    if not mine or is_elsewhere(owner) or not is_same_file(stream, file):
        stream.seek(0, os.SEEK_END)  # not ours: leave it as it is
        raise UserError(describe_conflict(owner, file, folder))
    if owner:
        print(f"note: process {owner.get('pid')} is gone: its lock on {show_path(folder)} is taken")
    me = psutil.Process()
    stream.seek(0)
    stream.truncate()
    json.dump({"pid": me.pid, "host": socket.gethostname(), "started": me.create_time()}, stream)
    stream.flush()


def read_owner(stream: IO[str]) -> dict:
    """Who wrote the lock; {} when it is empty or unreadable."""
    try:
        owner = json.load(stream)
    except ValueError:  # also what is not UTF-8
        return {}
    return owner if isinstance(owner, dict) else {}


def lock_byte(stream: IO[str]) -> bool | None:
    """True: locked by us. False: by another process. None: no locks on this file system."""
    try:
        if os.name == "nt":
            os.lseek(stream.fileno(), LOCKED_BYTE, os.SEEK_SET)
            msvcrt.locking(stream.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            # Record locks: unlike flock's they are not inherited by worker processes.
            fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, LOCKED_BYTE)
    except (PermissionError, BlockingIOError):
        return False
    except OSError:
        return None
    return True


def is_elsewhere(owner: dict) -> bool:
    """Whether the lock was written on another computer: a shared folder's locks may not reach."""
    return owner.get("host", socket.gethostname()) != socket.gethostname()


def is_alive(owner: dict) -> bool:
    """Whether the owner still runs; a new process with its old id started later."""
    try:
        started = psutil.Process(int(owner["pid"])).create_time()
        return abs(started - float(owner["started"])) < START_TOLERANCE
    except (KeyError, TypeError, ValueError, psutil.NoSuchProcess):
        return False


def is_held(folder: Path) -> bool:
    """Whether a living process, or one of another computer, holds `folder`; only looks."""
    try:
        with lock_file(folder).open(encoding="utf-8") as stream:
            owner = read_owner(stream)
    except OSError:
        return False
    return bool(owner) and (is_elsewhere(owner) or is_alive(owner))


def is_same_file(stream: IO[str], file: Path) -> bool:
    """Whether the file at the lock's place is still the one we opened."""
    try:
        return os.path.samestat(os.fstat(stream.fileno()), file.stat())
    except FileNotFoundError:
        return False


def describe_conflict(owner: dict, file: Path, folder: Path) -> str:
    """Who holds the lock, and what to do."""
    who = f"process {owner.get('pid', '?')} on {owner.get('host', 'this computer')}"
    with suppress(KeyError, TypeError, ValueError, OSError, OverflowError):
        who += time.strftime(", started %Y-%m-%d %H:%M", time.localtime(float(owner["started"])))
    advice = "wait for it, or choose another output_dir"
    if is_elsewhere(owner):
        advice += f"; if it no longer runs, delete {show_path(file)}"
    return f"{show_path(folder)}: {who} is writing here; {advice}"


def release_lock(stream: IO[str], file: Path) -> None:
    """Remove the lock if it is ours."""
    stream.seek(0)
    owner = read_owner(stream)
    ours = owner.get("pid") == os.getpid() and not is_elsewhere(owner)
    if ours and os.name != "nt":
        with suppress(OSError):
            file.unlink()
    stream.close()
    if ours and os.name == "nt":  # an open file cannot be deleted there
        with suppress(OSError):
            file.unlink()
