"""Files that survive a power cut, and checksums that tell when one did not.

    with replacing(file) as scratch: # write to scratch; whole under the file's name, or absent
    write_manifest(folder)           # checksums.json over what the folder holds
    publish_folder(scratch, folder)  # everything on the disk, then one rename
    problem = find_damage(folder)    # None, or what is wrong with which file

The checksums find corruption, not malice: whoever can change a file can change its checksum.
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

MANIFEST_FILE = "checksums.json"
ABANDONED_AFTER = 24 * 3600  # seconds; a temporary folder as old as that belongs to no one


def hash_file(file: Path) -> str:
    """sha256 of a file."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sync_file(path: Path) -> None:
    """Wait until a file is on the disk; a folder's entries too, where the system can do that."""
    if path.is_dir() and os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def replacing(file: Path, many_writers: bool = False) -> Iterator[Path]:
    """A temporary sibling to write to, which then takes the file's name.

    Readers see the old file or the new one, whole; after an error the old one, and no sibling. What
    a kill leaves is written over the next time.

    Args:
        many_writers: several processes may write this file at once (caches).
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    scratch = file.with_name(f".{file.name}.{os.getpid() if many_writers else 0}.tmp")
    try:
        yield scratch
        sync_file(scratch)
        os.replace(scratch, file)
    finally:
        scratch.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Wait until everything in `folder` is on the disk."""
    for path in (*folder.rglob("*"), folder):
        sync_file(path)


def publish_folder(scratch: Path, target: Path) -> None:
    """Give a finished folder its name; what had that name is removed.

    A crash leaves the old folder, none, or the new one, never a mixture.
    """
    sync_folder(scratch)
    if target.exists():
        old = target.with_name(f".{target.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        target.rename(old)
        scratch.rename(target)
        shutil.rmtree(old, ignore_errors=True)
    else:
        scratch.rename(target)
    sync_file(target.parent)


def write_manifest(folder: Path, names: Iterable[str] | None = None) -> None:
    """Write checksums.json with size and sha256 of the files in `folder` (or of `names`)."""
    files = [folder / name for name in names] if names else sorted(folder.rglob("*"))
    entries = {
        file.relative_to(folder).as_posix(): [file.stat().st_size, hash_file(file)]
        for file in files
        if file.is_file() and file.name != MANIFEST_FILE
    }
    with replacing(folder / MANIFEST_FILE) as scratch:
        scratch.write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")


def find_damage(folder: Path) -> str | None:
    """What is wrong with a folder that has a manifest; None when every file is as written."""
    try:
        entries = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))
        wanted = {Path(name): (int(size), str(digest)) for name, (size, digest) in entries.items()}
    except FileNotFoundError:
        return f"{MANIFEST_FILE} is missing"
    except (ValueError, TypeError, AttributeError):
        return f"{MANIFEST_FILE} is damaged"
    for name, (size, digest) in wanted.items():
        if name.is_absolute() or ".." in name.parts:
            return f"{MANIFEST_FILE} names a file outside the folder"
        file = folder / name
        if not file.is_file():
            return f"{name.as_posix()} is missing"
        if file.stat().st_size != size:
            return f"{name.as_posix()} has {file.stat().st_size} bytes instead of {size}"
        if hash_file(file) != digest:
            return f"{name.as_posix()} is not what was written (sha256 differs)"
    return None


def remove_abandoned(parent: Path, prefixes: Iterable[str]) -> None:
    """Delete temporary folders that a killed process left in `parent` a day ago or earlier."""
    before = time.time() - ABANDONED_AFTER
    for prefix in prefixes:
        for path in parent.glob(f"{prefix}*"):
            if path.is_dir() and path.stat().st_mtime < before:
                shutil.rmtree(path, ignore_errors=True)
