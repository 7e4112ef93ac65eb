"""What the reference says: one pass with the adapter off, cached on disk under 04_models."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import torch
import xxhash
from datasets import Dataset
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from fast.columns import read_ids
from safe_files import replacing

LOGPS = ("chosen", "rejected")  # names of cached log-probs, [rows] each
STATES = "states"  # and of cached hidden states, [tokens, H]
NOT_ARITHMETIC = ("_name_or_path", "use_cache")  # keys of a model's config


def fingerprint_weights(model: torch.nn.Module) -> str:
    """Hash of the frozen base (names, shapes, bytes, 4-bit scales, its config), adapters left out.

    The config, since equal weights with another rope or norm answer otherwise; without its path.
    xxh3 because a base holds gigabytes and sha256 takes seconds for them.
    """
    digest = xxhash.xxh3_128()
    settings = {k: v for k, v in model.config.to_dict().items() if k not in NOT_ARITHMETIC}
    digest.update(json.dumps(settings, sort_keys=True, default=str).encode())
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            continue
        digest.update(f"{name}{tuple(parameter.shape)}{parameter.dtype}".encode())
        digest.update(to_bytes(parameter.data))
        state = getattr(parameter, "quant_state", None)
        if state is not None:
            digest.update(f"{state.quant_type}{state.dtype}".encode())
            digest.update(to_bytes(state.absmax))
    return digest.hexdigest()


def to_bytes(tensor: torch.Tensor) -> memoryview:
    """The tensor's memory, for hashing."""
    return memoryview(tensor.detach().cpu().contiguous().view(torch.uint8).flatten().numpy())


def reference_key(weights: str, rows: Dataset, settings: dict) -> str:
    """Cache key of a data set's reference log-probs: weights, token ids and number formats."""
    digest = hashlib.sha256(weights.encode())
    digest.update(json.dumps(settings, sort_keys=True).encode())
    for lengths, ids in read_ids(rows):
        digest.update(lengths.tobytes())
        digest.update(ids.tobytes())
    return digest.hexdigest()[:32]


def states_key(weights: str, blocks: torch.Tensor, settings: dict) -> str:
    """Cache key of the reference's hidden states on blocks of text."""
    digest = hashlib.sha256(weights.encode())
    digest.update(json.dumps(settings, sort_keys=True).encode())
    digest.update(to_bytes(blocks))
    return digest.hexdigest()[:32]


def read_cached(folder: Path, key: str, names: Sequence[str], rows: int) -> list | None:
    """The named tensors, of `rows` rows each; None when missing, unreadable or of another size."""
    file = folder / f"{key}.safetensors"
    if not file.is_file():
        return None
    try:
        tensors = load_file(file)
        found = [tensors[name] for name in names]
    except (OSError, KeyError, SafetensorError):  # a damaged cache is computed again
        return None
    return found if all(len(tensor) == rows for tensor in found) else None


def write_cached(folder: Path, key: str, tensors: dict[str, torch.Tensor]) -> None:
    """Save tensors through a temporary sibling."""
    with replacing(folder / f"{key}.safetensors", many_writers=True) as scratch:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, scratch)


def split_by_tokens(lengths: list[int], tokens: int, most: int) -> list[list[int]]:
    """Indices in batches of like length, longest first: `tokens` each, one to `most` items."""
    batches: list[list[int]] = []
    room = 0
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if not batches or room < lengths[index] or len(batches[-1]) >= most:
            batches.append([])
            room = tokens
        batches[-1].append(index)
        room -= lengths[index]
    return batches
