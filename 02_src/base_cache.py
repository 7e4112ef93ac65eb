"""The 4-bit base on disk: quantised once, loaded directly afterwards, bit for bit the same.

    folder = find_quantised(source, settings)       # None: quantise, then write_quantised
    write_quantised(model, source, settings)

Under 04_models/cache/base, keyed by the weights, the quantisation and the kind of device that
quantised. Delete the folder to get the disk space back.
"""

import hashlib
import json
import shutil
import sys
import tempfile
from pathlib import Path

from base_models import ModelSource
from config import REPOSITORY, show_path

CACHE_FOLDER = REPOSITORY / "04_models" / "cache" / "base"
SAMPLES, SAMPLE_BYTES = 64, 65536  # of each weight file, spread evenly
ROOM = 1.2  # disk space asked for, times the model's size
SMALLEST = 50e6  # bytes; a smaller base is quantised faster than it is looked up
WEIGHT_FILES = ("*.safetensors", "*.bin")


def fingerprint_files(folder: Path) -> str:
    """A digest of a model folder: each file's name, size, date and evenly spread samples.

    Reading gigabytes whole would cost more than the cache saves.
    """
    digest = hashlib.sha256((folder / "config.json").read_bytes())
    for pattern in WEIGHT_FILES:
        for file in sorted(folder.glob(pattern)):
            status = file.stat()
            digest.update(f"{file.name} {status.st_size} {status.st_mtime_ns}".encode())
            digest.update(sample_file(file, status.st_size))
    return digest.hexdigest()


def sample_file(file: Path, size: int) -> bytes:
    """The evenly spread samples of one file."""
    parts = []
    with file.open("rb") as stream:
        for index in range(SAMPLES):
            stream.seek(max(0, size - SAMPLE_BYTES) * index // (SAMPLES - 1))
            parts.append(stream.read(SAMPLE_BYTES))
    return b"".join(parts)


def name_quantised(source: ModelSource, settings: dict) -> Path:
    """The cache folder of a local model under quantisation settings."""
    weights = fingerprint_files(Path(source.location))
    text = json.dumps([weights, settings], sort_keys=True)
    return CACHE_FOLDER / hashlib.sha256(text.encode()).hexdigest()[:24]


def find_quantised(source: ModelSource, settings: dict) -> Path | None:
    """The folder of the quantised base, or None where there is none yet."""
    if not source.is_local or source.trust_remote_code:
        return None
    folder = name_quantised(source, settings)
    return folder if (folder / "config.json").is_file() else None


def write_quantised(model, source: ModelSource, settings: dict) -> None:
    """Save a quantised base through a temporary sibling; a full disk only costs the cache."""
    size = model.get_memory_footprint()
    if not source.is_local or source.trust_remote_code or size < SMALLEST:
        return
    folder = name_quantised(source, settings)
    CACHE_FOLDER.mkdir(parents=True, exist_ok=True)
    needed = ROOM * size
    if shutil.disk_usage(CACHE_FOLDER).free < needed:
        print(
            f"note: no 4-bit cache: {show_path(CACHE_FOLDER)} needs {needed / 1e9:.1f} GB free",
            file=sys.stderr,
        )
        return
    with tempfile.TemporaryDirectory(dir=CACHE_FOLDER, prefix=".write-") as scratch:
        target = Path(scratch) / folder.name
        model.save_pretrained(target, safe_serialization=True)
        if not folder.exists():
            target.rename(folder)


def discard_quantised(folder: Path, reason: Exception) -> None:
    """Delete a damaged cache folder and say so."""
    print(f"note: {show_path(folder)} is damaged ({reason}); quantising again", file=sys.stderr)
    shutil.rmtree(folder, ignore_errors=True)
