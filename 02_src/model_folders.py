"""Model folders on this disk: whole or not, safe to load or not."""

import json
from pathlib import Path

from config import show_path
from errors import UserError


def find_snapshot(name: str, revision: str | None) -> Path | None:
    """The folder of a hub model that is on this disk whole; then the hub is not asked.

    A model_revision of null means the newest at the time of the download.
    """
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(name, "config.json", revision=revision)
    folder = Path(found).parent if isinstance(found, str) else None
    return folder if folder and holds_weights(folder) else None


def holds_weights(folder: Path) -> bool:
    """Whether a model folder has a tokenizer and every safetensors file its index names."""
    index = folder / "model.safetensors.index.json"
    names = {"model.safetensors"}
    if index.is_file():
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    return all((folder / name).is_file() for name in {*names, "tokenizer_config.json"})


def check_model_folder(path: Path) -> None:
    """UserError when a folder holds an adapter, or no model."""
    if (path / "adapter_config.json").is_file():
        raise UserError(
            f"model_name: {show_path(path)} holds an adapter, not a base model; "
            "merge it first: python 02_src/merge_lora.py --run FOLDER"
        )
    if not (path / "config.json").is_file():
        raise UserError(f"model_name: {show_path(path)} holds no config.json; not a model folder")
    if not any(path.glob("*.safetensors")):
        raise UserError(
            f"model_name: {show_path(path)} cannot be loaded: it holds no safetensors weights; "
            "pickled ones can run code and are never loaded"
        )
