"""Write a merged model shard by shard, in the base's own layout; finished shards are kept.

Peak memory is a few times the largest adapted tensor, whatever the shards' sizes.
"""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm.auto import tqdm

from config import Config, show_path, write_text
from errors import UserError
from merging.adapter_weights import SIMILAR, Update
from merging.quantised_base import find_training_dtype, list_quantised_weights, round_to_4bit
from merging.tensor_files import (
    DTYPES,
    INDEX_FILE,
    Layout,
    TensorEntry,
    read_chunks,
    read_tensor,
    to_bytes,
    write_tensors,
)

NAMES = {dtype: name for name, dtype in DTYPES.items()}
SPARE = 1.05  # disk space wanted over the files' sizes


@dataclass
class TensorMerger:
    """Turns a tensor of the base into that of the merged model."""

    config: Config
    updates: dict[str, Update]
    quantised: set[str]  # weights to take through 4 bit first; empty for `original`
    training_dtype: torch.dtype
    dtype: torch.dtype | None = None  # of every float; None: 16 bit, bf16 where the base has more
    largest_error: float = 0.0  # of the arithmetic, relative, fp32

    def choose_dtype(self, entry: TensorEntry) -> str:
        """The dtype the tensor is written in."""
        if entry.dtype not in DTYPES:
            return entry.dtype
        if self.dtype is not None:
            return NAMES[self.dtype]
        return entry.dtype if entry.dtype in ("F16", "BF16") else "BF16"

    def produce(self, entry: TensorEntry) -> Iterator[bytes]:
        """The tensor's new bytes."""
        dtype = self.choose_dtype(entry)
        touched = entry.name in self.updates or entry.name in self.quantised
        if not touched and dtype == entry.dtype:
            yield from read_chunks(entry)
            return
        if entry.dtype not in DTYPES:
            raise UserError(
                f"{show_path(entry.file)}: {entry.name} is {entry.dtype}; only a 16 or 32-bit "
                "base can be merged"
            )
        yield to_bytes(self.merge(entry).to(DTYPES[dtype]))

    def merge(self, entry: TensorEntry) -> torch.Tensor:
        """The merged tensor, before it is rounded for the file."""
        weight = read_tensor(entry)
        if entry.name in self.quantised:
            weight = round_to_4bit(weight, self.config, self.training_dtype)
        update = self.updates.get(entry.name)
        if update is None:
            return weight
        merged = update.add_to(weight)
        error = update.measure_error(weight, merged)
        self.largest_error = max(self.largest_error, error)
        if not error <= SIMILAR:
            raise UserError(
                f"{entry.name}: the merged weight differs from base plus adapter by {error:.2g} "
                f"(relative; limit {SIMILAR}); the adapter holds values that are not finite, or "
                "too large to be added"
            )
        return merged


def make_merger(
    strategy: str, config: Config, base: Path, updates: dict[str, Update]
) -> TensorMerger:
    """The merger of a strategy: `original` or `dequantized`."""
    quantised = list_quantised_weights(config, base) if strategy == "dequantized" else set()
    return TensorMerger(config, updates, quantised, find_training_dtype(config))


def write_weights(layout: Layout, folder: Path, merger: TensorMerger, label: str) -> None:
    """Write every shard that `folder` does not hold yet, then the index where there are several."""
    folder.mkdir(parents=True, exist_ok=True)
    total = sum(entry.size for entries in layout.values() for entry in entries)
    with tqdm(total=total, desc=label, unit="B", unit_scale=True, leave=False) as bar:
        for name, entries in layout.items():
            if not (folder / name).is_file():
                dtypes = {entry.name: merger.choose_dtype(entry) for entry in entries}
                write_tensors(folder / name, entries, dtypes, merger.produce)
            bar.update(sum(entry.size for entry in entries))
    if len(layout) > 1:
        places = {entry.name: name for name, entries in layout.items() for entry in entries}
        size = sum((folder / name).stat().st_size for name in layout)
        index = {"metadata": {"total_size": size}, "weight_map": places}
        write_text(folder / INDEX_FILE, json.dumps(index, indent=1) + "\n")


def check_disk_space(folder: Path, layout: Layout, copies: int) -> None:
    """UserError when `copies` of the base do not fit beside `folder`."""
    wanted = copies * SPARE * sum(e.size for entries in layout.values() for e in entries)
    place = next(parent for parent in folder.parents if parent.is_dir())
    free = shutil.disk_usage(place).free
    if free < wanted:
        raise UserError(
            f"{show_path(place)}: merging needs {wanted / 2**30:.1f} GiB of disk, "
            f"{free / 2**30:.1f} are free; make room, or set merged_dir (auto holds two models for "
            "a while: --strategy original needs half)"
        )


def write_model_settings(base: Path, folder: Path, dtype: str, eos: list[int], pad: int) -> None:
    """config.json and generation_config.json: the base's, with the contract's end tokens."""
    settings = json.loads((base / "config.json").read_text(encoding="utf-8"))
    settings.pop("torch_dtype", None)
    settings |= {"dtype": dtype, "use_cache": True, "eos_token_id": eos, "pad_token_id": pad}
    write_text(folder / "config.json", json.dumps(settings, indent=2) + "\n")
    file = base / "generation_config.json"
    generation = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    generation |= {"eos_token_id": eos, "pad_token_id": pad}
    write_text(folder / "generation_config.json", json.dumps(generation, indent=2) + "\n")
    for code in base.glob("*.py"):  # a model with code of its own, loaded with trust_remote_code
        shutil.copyfile(code, folder / code.name)
