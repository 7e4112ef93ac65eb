"""Walk through a .gguf header before any library does: every length must fit into the file.

    check_gguf(path)      # UserError where it does not

A reader that believes a header allocates, or loops, as often as the header says.
"""

import struct
from pathlib import Path
from typing import BinaryIO

from errors import UserError

# Bytes of a value by its type number; 8 is text, 9 an array.
SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
TEXT, ARRAY = 8, 9
SMALLEST_KEY, SMALLEST_TENSOR = 13, 24  # bytes an entry takes at least
MOST_DIMENSIONS = 4


def check_gguf(path: Path) -> None:
    """UserError unless the header is a GGUF's and stays inside the file."""
    try:
        with path.open("rb") as stream:
            walk_header(stream, path.stat().st_size)
    except (ValueError, struct.error):
        raise UserError(
            f"model_name: {path.name}: not a readable GGUF model: its header does not fit "
            "the file; download it again"
        ) from None


def walk_header(stream: BinaryIO, size: int) -> None:
    """Read keys and tensor entries; ValueError at the first length that cannot be."""
    magic, version, tensors, keys = read(stream, "<4sIQQ")
    if magic != b"GGUF" or version not in (2, 3):
        raise ValueError
    if keys * SMALLEST_KEY + tensors * SMALLEST_TENSOR > size:
        raise ValueError
    for _ in range(keys):
        skip_text(stream, size)
        (kind,) = read(stream, "<I")
        skip_value(stream, kind, size)
    for _ in range(tensors):
        skip_text(stream, size)
        (dimensions,) = read(stream, "<I")
        if dimensions > MOST_DIMENSIONS:
            raise ValueError
        *_, offset = read(stream, f"<{dimensions}QIQ")
        if offset > size:
            raise ValueError


def read(stream: BinaryIO, form: str) -> tuple:
    """Numbers at the stream's place; struct.error at the end of the file."""
    return struct.unpack(form, stream.read(struct.calcsize(form)))


def skip_bytes(stream: BinaryIO, count: int, size: int) -> None:
    """Move on; ValueError where that leaves the file."""
    if count > size - stream.tell():
        raise ValueError
    stream.seek(count, 1)


def skip_text(stream: BinaryIO, size: int) -> None:
    """Move past a length and that many bytes."""
    (length,) = read(stream, "<Q")
    skip_bytes(stream, length, size)


def skip_value(stream: BinaryIO, kind: int, size: int) -> None:
    """Move past a value of type `kind`."""
    if kind == TEXT:
        skip_text(stream, size)
    elif kind == ARRAY:
        inner, count = read(stream, "<IQ")
        if inner == TEXT:
            if count * 8 > size:
                raise ValueError
            for _ in range(count):
                skip_text(stream, size)
        else:
            skip_bytes(stream, SIZES.get(inner, size + 1) * count, size)
    else:
        skip_bytes(stream, SIZES.get(kind, size + 1), size)
