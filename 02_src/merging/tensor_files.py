"""Read and write safetensors files tensor by tensor, so that memory stays at one tensor.

The format: 8 bytes with the header's length (little endian), a JSON header with dtype, shape and
byte range of every tensor, then the bytes. Mapping a shard into memory, as safetensors does,
counts every page that was read as resident: a 16 GB file would look, and on a full machine be,
16 GB large.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from config import show_path
from errors import UserError
from safe_files import replacing

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
LARGEST_HEADER = 100_000_000  # bytes; the format's own limit
CHUNK = 1 << 24  # bytes copied at a time
Layout = dict[str, list["TensorEntry"]]  # file name -> its tensors


@dataclass(frozen=True)
class TensorEntry:
    """Where one tensor lies."""

    name: str
    file: Path
    dtype: str  # as safetensors names it: BF16, F32, ...
    shape: tuple[int, ...]
    start: int  # byte offset in the file
    size: int  # bytes


def read_layout(folder: Path) -> Layout:
    """Every tensor of a model folder, by file: one file, or those that the index names.

    Raises:
        UserError: the folder holds no safetensors weights, a file is missing or damaged, or the
            index names a tensor that its file lacks.
    """
    index = folder / INDEX_FILE
    if not index.is_file():
        if not (folder / SINGLE_FILE).is_file():
            raise UserError(f"{show_path(folder)}: holds no {SINGLE_FILE} and no {INDEX_FILE}")
        return {SINGLE_FILE: read_header(folder / SINGLE_FILE)}
    try:
        places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        names = sorted({str(name) for name in places.values()})
    except (ValueError, KeyError, AttributeError, TypeError):
        raise UserError(f"{show_path(index)}: damaged; download the model again") from None
    layout = {name: read_header(folder / Path(name).name) for name in names}
    for tensor, name in places.items():
        if all(entry.name != tensor for entry in layout[name]):
            raise UserError(f"{show_path(folder / name)}: lacks {tensor}, which the index names")
    return layout


def read_header(file: Path) -> list[TensorEntry]:
    """The tensors of one file, in the order of their bytes; UserError where it is damaged."""
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if not 2 <= length <= min(LARGEST_HEADER, size - 8):
                raise ValueError
            header = json.loads(stream.read(length))
        header.pop("__metadata__", None)
        start = 8 + length
        entries = [read_entry(file, name, fields, start) for name, fields in header.items()]
        if any(entry.start + entry.size > size for entry in entries):
            raise ValueError
        return sorted(entries, key=lambda entry: entry.start)
    except FileNotFoundError:
        raise UserError(f"{show_path(file)}: missing; download the model again") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{show_path(file)}: damaged; download the model again") from None


def read_entry(file: Path, name: str, fields: dict, start: int) -> TensorEntry:
    """One line of a header; ValueError where its byte range is none."""
    first, last = fields["data_offsets"]
    if not 0 <= first <= last:
        raise ValueError(name)
    shape = tuple(int(n) for n in fields["shape"])
    return TensorEntry(name, file, fields["dtype"], shape, start + first, last - first)


def read_tensor(entry: TensorEntry) -> torch.Tensor:
    """The tensor's values, in memory of their own."""
    buffer = bytearray(entry.size)
    with entry.file.open("rb") as stream:
        stream.seek(entry.start)
        if stream.readinto(buffer) != entry.size:
            raise UserError(f"{show_path(entry.file)}: shorter than its header says")
    return torch.frombuffer(buffer, dtype=DTYPES[entry.dtype]).reshape(entry.shape)


def read_chunks(entry: TensorEntry) -> Iterator[bytes]:
    """The tensor's bytes, a piece at a time."""
    with entry.file.open("rb") as stream:
        stream.seek(entry.start)
        left = entry.size
        while left:
            piece = stream.read(min(CHUNK, left))
            if not piece:
                raise UserError(f"{show_path(entry.file)}: shorter than its header says")
            left -= len(piece)
            yield piece


def write_tensors(
    file: Path,
    entries: Sequence[TensorEntry],
    dtypes: dict[str, str],
    produce: Callable[[TensorEntry], Iterator[bytes]],
) -> None:
    """Write `entries` with their new dtypes; complete under its name, or absent.

    Args:
        file: the file to write.
        entries: the tensors; shapes stay.
        dtypes: new dtype by tensor name.
        produce: the new bytes of a tensor, piece by piece.
    """
    header: dict = {"__metadata__": {"format": "pt"}}
    end = 0
    for entry in entries:
        size = count_bytes(entry, dtypes[entry.name])
        fields = {"dtype": dtypes[entry.name], "shape": list(entry.shape)}
        header[entry.name] = {**fields, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with replacing(file) as scratch, scratch.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for entry in entries:
            for piece in produce(entry):
                stream.write(piece)


def count_bytes(entry: TensorEntry, dtype: str) -> int:
    """Bytes of the tensor in another dtype; unknown dtypes keep their size."""
    if dtype == entry.dtype:
        return entry.size
    return entry.size // DTYPES[entry.dtype].itemsize * DTYPES[dtype].itemsize


def to_bytes(tensor: torch.Tensor) -> memoryview:
    """The tensor's memory, for writing."""
    return memoryview(tensor.contiguous().view(torch.uint8).flatten().numpy())
