"""Rows of a data file or hub data set, each with the place it stands at (file:line).

Needs no torch; `datasets` is imported only for the hub, pyarrow only for Parquet files.
"""

import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from config import REPOSITORY, Config, resolve_path, show_path
from errors import UserError
from secrets_file import find_token

LISTS = ("accepted", "competing")  # columns whose CSV cells hold several texts
# A mistyped path is no hub id: it would be looked up there, and names can be private.
PATH_LIKE = re.compile(
    r"^[/.~]|\\|/.*/|\.(txt|tsv|xlsx?|zip|gz|csv|json|parq)[^/]*$", re.IGNORECASE
)
DATA_SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
PARQUET_ROWS = 64  # unpacked at a time
LARGEST_UNPACKED = 4 << 30  # bytes
Rows = Iterator[tuple[str, dict[str, Any] | str]]


def read_rows(name: str, config: Config) -> Rows:
    """(file:line, row) for each row; the row is a text where the line cannot be read.

    Raises:
        UserError: no such file, not a data file, or not readable as what its name says.
    """
    path = resolve_path(name)
    if path.suffix in DATA_SUFFIXES:
        require_file(path)
        if path.suffix == ".parquet":
            return read_parquet(path, show_path(path))
        readers = {".jsonl": read_json_lines, ".json": read_json, ".csv": read_csv}
        return readers[path.suffix](path, show_path(path))
    if path.exists() or PATH_LIKE.search(name):
        problem = "not a data file" if path.exists() else "no such file"
        kinds = " ".join(DATA_SUFFIXES)
        raise UserError(f"{show_path(path)}: {problem}; give a file {kinds} or a hub id")
    return read_hub_data(name, config)


def require_file(path: Path) -> None:
    """UserError where a data file is missing."""
    if path.is_file():
        return
    shipped = path.parent.is_relative_to(REPOSITORY / "01_data" / "dpo")
    hint = (
        "make it with: python 03_scripts/build_dataset.py"
        if shipped
        else "correct dataset_hf, validation_file or test_files"
    )
    raise UserError(f"{show_path(path)}: no such file; {hint}")


def read_text(path: Path, shown: str) -> str:
    """The file as text, without a byte-order mark."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{shown}: not UTF-8 text at byte {error.start}; save it as UTF-8"
        ) from None


def read_json_lines(path: Path, shown: str) -> Rows:
    """JSON Lines; blank lines are fine."""
    for number, line in enumerate(read_text(path, shown).split("\n"), 1):
        if not line.strip():
            continue
        source = f"{shown}:{number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield source, f"not valid JSON ({describe_json_error(error)})"
            continue
        yield source, row if isinstance(row, dict) else "must be a JSON object {...}"


def read_json(path: Path, shown: str) -> Rows:
    """One JSON list of rows; a .json file that holds JSON Lines is read as such."""
    text = read_text(path, shown)
    try:
        rows = json.loads(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":
            yield from read_json_lines(path, shown)
            return
        raise UserError(f"{shown}:{error.lineno}: not valid JSON ({error.msg})") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{shown}: not valid JSON ({describe_json_error(error)})") from None
    for number, row in enumerate(rows if isinstance(rows, list) else [rows], 1):
        source = f"{shown}:{number}"
        yield source, row if isinstance(row, dict) else "must be a JSON object {...}"


def describe_json_error(error: Exception) -> str:
    """What is wrong with a piece of JSON."""
    if isinstance(error, RecursionError):
        return "nested too deeply"
    return getattr(error, "msg", str(error))


def read_csv(path: Path, shown: str) -> Rows:
    """CSV with a header line; every cell is text, so 42 and NA stay what they are.

    Cells of `accepted` and `competing` hold several texts, with semicolons between them.
    """
    csv.field_size_limit(2**31 - 1)
    lines = read_text(path, shown).splitlines(keepends=True)
    reader = csv.DictReader(lines)
    try:
        for row in reader:
            cells = {k: v for k, v in row.items() if k is not None}
            for name in LISTS:
                if isinstance(cells.get(name), str):
                    parts = (part.strip() for part in cells[name].split(";"))
                    cells[name] = [part for part in parts if part] or None
            yield f"{shown}:{reader.line_num}", cells
    except csv.Error as error:
        raise UserError(f"{shown}:{reader.line_num}: cannot be read as csv: {error}") from None


def read_parquet(path: Path, shown: str) -> Rows:
    """Parquet, a few rows at a time: a small file can unpack to more than the memory holds."""
    import pyarrow
    from pyarrow.parquet import ParquetFile

    number = unpacked = 0
    try:
        for batch in ParquetFile(path).iter_batches(batch_size=PARQUET_ROWS):
            unpacked += batch.nbytes
            if unpacked > LARGEST_UNPACKED:
                raise UserError(
                    f"{shown}: unpacks to more than {LARGEST_UNPACKED >> 30} GiB; split the file"
                )
            for row in batch.to_pylist():
                number += 1
                yield f"{shown}:{number}", row
    except (pyarrow.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{shown}: cannot be read as parquet: {reason}") from None


def read_hub_data(name: str, config: Config) -> Rows:
    """Rows of a hub data set through the datasets library."""
    import datasets

    datasets.disable_progress_bars()
    try:
        rows = datasets.load_dataset(name, split=config.dataset_split, token=find_token())
    except Exception as error:  # the library raises many kinds; all mean: this cannot be read
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{name}: cannot be read as a hub data set: {reason}") from None
    for number, row in enumerate(rows, 1):
        yield f"{name}:{number}", row
