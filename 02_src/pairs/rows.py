"""One row of a pair file: its keys, their order, and how accepted and competing are filled."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glossary import Entry, Sense
from utils.text import contains_phrase, normalise


@dataclass(frozen=True)
class Prompt:
    """A question as asked: `context` stands before it, `system` sets the domain."""

    phrasing: str  # "P1"
    instruction: str
    context: str | None = None
    system: str | None = None

    @property
    def text(self) -> str:
        """All that the model reads, for comparisons."""
        return "\n".join(t for t in (self.system, self.context, self.instruction) if t)


@dataclass(frozen=True)
class Row:
    """One preference pair; the field order is the key order of the files (after `id`)."""

    instruction: str
    context: str | None
    system: str | None
    chosen: str
    rejected: str
    abbreviation: str
    kind: str
    phrasing: str
    sense_id: str | None
    split_group: str
    rejected_class: str
    accepted: list[str]
    competing: list[str]

    @property
    def prompt_key(self) -> str:
        """The prompt after normalisation: two rows with the same key ask the same."""
        return normalise(" ".join(t for t in (self.system, self.context, self.instruction) if t))


@dataclass(frozen=True)
class Subject:
    """What a question is about: an entry, the sense that is right here, the entry's group."""

    entry: Entry
    sense: Sense
    group: str
    fixed: bool  # the prompt fixes this one sense; else any oil and gas sense is right

    @property
    def accepted(self) -> list[str]:
        """All wordings that count as right."""
        senses = [self.sense] if self.fixed else list(self.entry.oil_gas)
        return list(dict.fromkeys(name for sense in senses for name in sense.names))

    @property
    def competing(self) -> list[str]:
        """Wordings of all other senses of the entry."""
        right = {normalise(name) for name in self.accepted}
        names = (name for sense in self.entry.senses for name in sense.names)
        return list(dict.fromkeys(n for n in names if normalise(n) not in right))


def make_row(
    subject: Subject, prompt: Prompt, kind: str, answers: tuple[str, str], rejected_class: str
) -> Row:
    """A row about `subject`; `answers` are (chosen, rejected)."""
    return Row(
        prompt.instruction,
        prompt.context,
        prompt.system,
        *answers,
        subject.entry.abbreviation,
        kind,
        prompt.phrasing,
        subject.sense.id,
        subject.group,
        rejected_class,
        subject.accepted,
        subject.competing,
    )


def leaks_answer(subject: Subject, prompt: Prompt) -> bool:
    """Whether the prompt already holds a right answer."""
    return any(contains_phrase(name, prompt.text) for name in subject.accepted)


def drop_repeats(rows: Iterable[Row]) -> list[Row]:
    """Rows without those that repeat an earlier prompt and rejected answer."""
    return list({(row.prompt_key, row.rejected): row for row in rows}.values())


def write_rows(path: Path, rows: list[Row], prefix: str) -> None:
    """Write rows as JSON Lines with an id each ("train-00001")."""
    records = [{"id": f"{prefix}-{n:05d}", **vars(row)} for n, row in enumerate(rows, 1)]
    write_records(path, records)


def write_records(path: Path, records: Iterable[dict[str, Any]]) -> None:
    """Write records as JSON Lines, the same bytes on every machine."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in records]
    path.write_bytes("".join(lines).encode())


def hash_file(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal text."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
