"""The files a build reads beside the glossary, and who makes each when it is missing."""

import json
from pathlib import Path
from typing import Any

from errors import UserError
from glossary import Entry

ACRONYM_KEYS = {"abbreviation", "expansion", "wrong", "domain", "contexts"}
MAKERS = {
    "general_acronyms.jsonl": (
        "acronyms without an oil and gas sense, written by hand, one "
        '{"abbreviation", "expansion", "wrong", "domain", "contexts"} a line; '
        "it ships with the repository: git checkout 01_data/glossary"
    ),
    "neutral_passages.jsonl": (
        'neutral text, written by hand, one {"id", "text"} a line; '
        "it ships with the repository: git checkout 01_data/glossary"
    ),
}


def load_acronyms(path: Path, entries: list[Entry]) -> list[dict[str, Any]]:
    """Acronyms of the locality test, sorted; none may be an abbreviation of the glossary."""
    known = {entry.abbreviation for entry in entries}
    seen: set[str] = set()
    records = read_records(path, ACRONYM_KEYS)
    for number, record in enumerate(records, 1):
        name = record["abbreviation"]
        if name in known or name in seen:
            where = "has an oil and gas sense in the glossary" if name in known else "repeats"
            raise UserError(f"{path}:{number}: {name} {where}; remove the line")
        if not record["contexts"]:
            raise UserError(f"{path}:{number}: {name} needs at least one context sentence")
        seen.add(name)
    return sorted(records, key=lambda record: record["abbreviation"])


def load_passages(path: Path) -> list[dict[str, Any]]:
    """Neutral passages of the drift test, as they are."""
    return read_records(path, {"id", "text"})


def read_records(path: Path, keys: set[str]) -> list[dict[str, Any]]:
    """Records of a JSON Lines file, each with exactly these keys.

    Raises:
        UserError: no such file (the text says who makes it), or a line of another form.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file: {MAKERS[path.name]}")
    records = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{path}:{number}: not valid JSON ({error.msg})") from None
        if not isinstance(record, dict) or set(record) != keys:
            raise UserError(f"{path}:{number}: expected the keys {', '.join(sorted(keys))}")
        records.append(record)
    return records
