"""Which base an adapter was trained on: a hash of its weights, the same in any shard layout."""

import json
from pathlib import Path

import xxhash
from huggingface_hub import snapshot_download
from tqdm.auto import tqdm

from base_models import ModelSource, readable_hub_errors, resolve_model
from config import Config, show_path, write_text
from errors import UserError
from merging.tensor_files import INDEX_FILE, SINGLE_FILE, Layout, read_chunks, read_layout

IDENTITY_FILE = "base_fingerprint.json"
BASE_FILES = ["model*.safetensors", INDEX_FILE, "config.json", "generation_config.json", "*.py"]


def find_base_folder(source: ModelSource) -> Path:
    """The folder with the base's files; a hub model's are taken from the cache or downloaded."""
    if source.is_local:
        return Path(source.location)
    options = source.load_options()
    with readable_hub_errors(source):
        return Path(
            snapshot_download(
                source.location,
                revision=options["revision"],
                token=options["token"],
                allow_patterns=BASE_FILES,
            )
        )


def fingerprint_base(layout: Layout) -> str:
    """xxh3 of all tensors (name, dtype, shape, bytes) by name: resharding does not change it.

    xxh3 because a base holds gigabytes and sha256 takes seconds for them; it guards against a
    mix-up, not against an attacker.
    """
    entries = sorted((e for entries in layout.values() for e in entries), key=lambda e: e.name)
    digest = xxhash.xxh3_128()
    total = sum(entry.size for entry in entries)
    with tqdm(total=total, desc="checking base", unit="B", unit_scale=True, leave=False) as bar:
        for entry in entries:
            digest.update(f"{entry.name}{entry.shape}{entry.dtype}".encode())
            for piece in read_chunks(entry):
                digest.update(piece)
                bar.update(len(piece))
    return digest.hexdigest()


def write_identity(config: Config, folder: Path) -> None:
    """Write base_fingerprint.json beside an adapter; nothing for a base without safetensors."""
    base = find_base_folder(resolve_model(config))
    if not ((base / SINGLE_FILE).is_file() or (base / INDEX_FILE).is_file()):
        return
    identity = {"model_name": config.model_name, "xxh3_128": fingerprint_base(read_layout(base))}
    write_text(folder / IDENTITY_FILE, json.dumps(identity, indent=1) + "\n")


def read_identity(run_folder: Path) -> str | None:
    """The fingerprint of the base a run was trained on; None for a run older than this file.

    Raises:
        UserError: the file is damaged.
    """
    file = run_folder / IDENTITY_FILE
    if not file.is_file():
        return None
    try:
        return str(json.loads(file.read_text(encoding="utf-8"))["xxh3_128"])
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{show_path(file)}: damaged; restore it, or train again") from None


def check_identity(run_folder: Path, layout: Layout, name: str) -> str:
    """The base's fingerprint; UserError when the run was trained on another base."""
    found, expected = fingerprint_base(layout), read_identity(run_folder)
    if expected is None:
        print(f"{show_path(run_folder)}: holds no {IDENTITY_FILE}; only the base's shapes checked")
    elif found != expected:
        raise UserError(
            f"model_name: {name}: holds other weights ({found[:12]}) than the adapter in "
            f"{show_path(run_folder)} was trained on ({expected[:12]}); restore that base, set "
            "model_revision, or train again"
        )
    return found
