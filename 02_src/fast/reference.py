"""Reference log-probs: one pass with the adapter off, cached on disk under 04_models."""

import hashlib
import json
from pathlib import Path

import torch
import xxhash
from datasets import Dataset
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from fast.columns import read_ids
from safe_files import replacing

Logps = tuple[torch.Tensor, torch.Tensor]


def fingerprint_weights(model: torch.nn.Module) -> str:
    """Hash of the frozen base (names, shapes, bytes, 4-bit scales), adapters left out.

    xxh3 because a base holds gigabytes and sha256 takes seconds for them.
    """
    digest = xxhash.xxh3_128()
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


def read_cached_logps(folder: Path, key: str, rows: int) -> Logps | None:
    """(chosen, rejected) log-probs [rows] from the cache; None when missing or unreadable."""
    file = folder / f"{key}.safetensors"
    if not file.is_file():
        return None
    try:
        tensors = load_file(file)
        chosen, rejected = tensors["chosen"], tensors["rejected"]
    except (OSError, KeyError, SafetensorError):  # a damaged cache is computed again
        return None
    return (chosen, rejected) if len(chosen) == len(rejected) == rows else None


def write_cached_logps(folder: Path, key: str, logps: Logps) -> None:
    """Save log-probs through a temporary sibling."""
    with replacing(folder / f"{key}.safetensors", many_writers=True) as scratch:
        save_file({"chosen": logps[0].contiguous(), "rejected": logps[1].contiguous()}, scratch)


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
