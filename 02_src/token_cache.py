"""Tokenised pairs on disk, keyed by texts, tokenizer, template and length limits."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from config import REPOSITORY, Config
from preferences import Pair
from safe_files import replacing

CACHE_FOLDER = REPOSITORY / "04_models" / "cache" / "tokens"
COLUMNS = ("prompt_ids", "chosen_ids", "rejected_ids")
LIMITS = ("max_seq_length", "max_prompt_length", "max_target_length")
Row = dict[str, list[int]]


def name_tokens(pairs: Sequence[Pair], tokenizer, config: Config) -> Path:
    """The cache file of these pairs under this tokenizer and these limits."""
    limits = [getattr(config, name) for name in LIMITS]
    backend = tokenizer.backend_tokenizer
    backend.no_padding()  # left from the last batch, and set again by the next
    backend.no_truncation()
    digest = hashlib.sha256(backend.to_str().encode())
    digest.update(json.dumps([tokenizer.chat_template, tokenizer.eos_token, limits]).encode())
    texts = [[pair.prompt, pair.chosen, pair.rejected, pair.source] for pair in pairs]
    digest.update(json.dumps(texts).encode())
    return CACHE_FOLDER / f"{digest.hexdigest()[:32]}.safetensors"


def read_tokens(file: Path) -> tuple[list[Row], list[int], list[str]] | None:
    """(rows, index of each row's pair, notices); None when missing or unreadable."""
    if not file.is_file():
        return None
    try:
        with safe_open(file, "pt") as stream:
            notices = json.loads(stream.metadata()["notices"])
            kept = stream.get_tensor("kept").tolist()
            columns = [
                split_column(stream.get_tensor(name), stream.get_tensor(f"{name}_lengths"))
                for name in COLUMNS
            ]
    except (OSError, KeyError, ValueError, SafetensorError):  # damaged: tokenise again
        return None
    return (
        [dict(zip(COLUMNS, ids, strict=True)) for ids in zip(*columns, strict=True)],
        kept,
        notices,
    )


def split_column(flat: torch.Tensor, lengths: torch.Tensor) -> list[list[int]]:
    """Token ids [n] cut into lists of the given lengths."""
    return [part.tolist() for part in flat.split(lengths.tolist())]


def write_tokens(file: Path, rows: list[Row], kept: list[int], notices: list[str]) -> None:
    """Save tokenised pairs through a temporary sibling."""
    tensors = {"kept": torch.tensor(kept, dtype=torch.int32)}
    for name in COLUMNS:
        flat = [token for row in rows for token in row[name]]
        tensors[name] = torch.tensor(flat, dtype=torch.int32)
        tensors[f"{name}_lengths"] = torch.tensor([len(row[name]) for row in rows])
    with replacing(file, many_writers=True) as scratch:
        save_file(tensors, scratch, {"notices": json.dumps(notices)})
