"""The glossary: what an abbreviation stands for in oil and gas, and what else it stands for.

    entries = load_glossary(Path("01_data/glossary/oil_gas.jsonl"))

One abbreviation a line; the schema and its rules are in 01_data/glossary/README.md. Every rule is
checked on reading, so that whatever is built from the entries can rely on them.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

from errors import UserError
from utils.text import contains_phrase, normalise

OIL_GAS = "oil_gas"
COMPETING = "competing"
REVIEWS = ("reviewed", "doubtful")
DEFINITION_WORDS = (12, 25)
CONTEXT_WORDS = (6, 24)
CONTEXTS_NEEDED = {True: 4, False: 2}  # oil and gas sense: 4, competing sense: 2


@dataclass(frozen=True)
class Sense:
    """One meaning of an abbreviation."""

    id: str  # "rop.rate_of_penetration"
    expansion: str
    aliases: tuple[str, ...]  # other wordings a right answer may use
    domain: str  # "oil_gas", or a field that reads well after "in"
    category: str  # part of the industry; "competing" outside it
    default: bool  # the oil and gas sense thought of first
    definition: str
    contexts: tuple[str, ...]
    provenance: tuple[str, ...]
    review: str

    @property
    def names(self) -> tuple[str, ...]:
        """The expansion and its aliases: any of them is a right answer for this sense."""
        return (self.expansion, *self.aliases)

    @property
    def is_oil_gas(self) -> bool:
        """Whether this is a meaning inside the industry."""
        return self.domain == OIL_GAS


@dataclass(frozen=True)
class Entry:
    """An abbreviation and all its registered senses."""

    abbreviation: str
    senses: tuple[Sense, ...]

    @property
    def oil_gas(self) -> tuple[Sense, ...]:
        """The senses inside oil and gas, the default first."""
        return tuple(sorted((s for s in self.senses if s.is_oil_gas), key=lambda s: not s.default))

    @property
    def competing(self) -> tuple[Sense, ...]:
        """The senses outside oil and gas."""
        return tuple(s for s in self.senses if not s.is_oil_gas)

    @property
    def default(self) -> Sense:
        """The oil and gas sense that an answer without further context should give."""
        return self.oil_gas[0]


def holds_abbreviation(abbreviation: str, text: str) -> bool:
    """Whether `text` holds the abbreviation as a word of its own, in this very spelling."""
    return abbreviation in text and compile_abbreviation(abbreviation).search(text) is not None


@cache
def compile_abbreviation(abbreviation: str) -> re.Pattern[str]:
    """A pattern for the abbreviation as a whole word; "&" counts as a letter, as in "P&A"."""
    return re.compile(rf"(?<![A-Za-z0-9&]){re.escape(abbreviation)}(?![A-Za-z0-9&])")


def load_glossary(path: Path) -> list[Entry]:
    """Read and check a glossary file; entries come sorted by abbreviation.

    Raises:
        UserError: no such file, or a line breaks a rule; names file:line and the rule.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; the glossary ships as 01_data/glossary/")
    entries: dict[str, Entry] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        entry = read_entry(line, f"{path}:{number}")
        if entry.abbreviation in entries:
            raise UserError(f"{path}:{number}: {entry.abbreviation} has a line already; merge them")
        entries[entry.abbreviation] = entry
    return [entries[abbreviation] for abbreviation in sorted(entries)]


def read_entry(line: str, place: str) -> Entry:
    """One line as an Entry; UserError with `place` where it breaks a rule."""
    try:
        record = json.loads(line)
        entry = Entry(record["abbreviation"], tuple(read_sense(s) for s in record["senses"]))
    except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{place}: not a glossary line ({error}); see its README.md") from None
    if set(record) != {"abbreviation", "senses"}:
        raise UserError(f"{place}: keys {sorted(record)}, expected abbreviation, senses")
    for problem in find_entry_problems(entry):
        raise UserError(f"{place}: {entry.abbreviation}: {problem}")
    return entry


def read_sense(record: dict[str, Any]) -> Sense:
    """One sense record as a Sense; ValueError where its keys or their types differ."""
    names = [field.name for field in fields(Sense)]
    if set(record) != set(names):
        raise ValueError(f"sense keys differ in {sorted(set(record) ^ set(names))}")
    values = {n: tuple(v) if isinstance(v, list) else v for n, v in record.items()}
    for field in fields(Sense):
        wanted = tuple if field.name in ("aliases", "contexts", "provenance") else field.type
        if not isinstance(values[field.name], wanted):
            raise ValueError(f"{field.name} must be {wanted.__name__}")
    return Sense(**values)


def find_entry_problems(entry: Entry) -> Iterator[str]:
    """What breaks a rule of the glossary in this entry, one text each."""
    if not entry.oil_gas or not entry.competing:
        yield "needs at least one oil_gas and one competing sense"
    if [s.is_oil_gas for s in entry.senses if s.default] != [True]:
        yield "exactly one sense is the default, and it is an oil_gas one"
    if len({sense.id for sense in entry.senses}) != len(entry.senses):
        yield "sense ids repeat"
    names = [name for sense in entry.senses for name in sense.names]
    for sense in entry.senses:
        for problem in (*find_sense_problems(entry, sense), *find_context_problems(entry, sense)):
            yield f"{sense.id}: {problem}"
        for context in sense.contexts:
            for name in names:
                if contains_phrase(name, context):
                    yield f"{sense.id}: a context gives {name!r} away: {context}"


def find_sense_problems(entry: Entry, sense: Sense) -> Iterator[str]:
    """What breaks a rule in the fields of one sense."""
    stem = re.sub(r"[^a-z0-9]", "", entry.abbreviation.lower())
    if not re.fullmatch(rf"{stem}\.[a-z0-9_]+", sense.id):
        yield f"id must be {stem}. and the expansion in snake_case"
    if (sense.category == COMPETING) == sense.is_oil_gas:
        yield f"category {sense.category!r} does not go with domain {sense.domain!r}"
    if sense.review not in REVIEWS:
        yield f"review must be one of {', '.join(REVIEWS)}"
    low, high = DEFINITION_WORDS
    if not low <= len(sense.definition.split()) <= high:
        yield f"definition has {len(sense.definition.split())} words, expected {low} to {high}"
    if holds_abbreviation(entry.abbreviation, sense.definition):
        yield "definition holds the abbreviation"
    for name in sense.names:
        if normalise(name) == normalise(entry.abbreviation):
            yield f"{name!r} is the abbreviation itself"
    if holds_abbreviation(entry.abbreviation, sense.expansion):
        yield "expansion holds the abbreviation"


def find_context_problems(entry: Entry, sense: Sense) -> Iterator[str]:
    """What breaks a rule in the contexts of one sense."""
    need = CONTEXTS_NEEDED[sense.is_oil_gas]
    if len(set(sense.contexts)) < need:
        yield f"{len(set(sense.contexts))} contexts, expected at least {need}"
    low, high = CONTEXT_WORDS
    for context in sense.contexts:
        if not low <= len(context.split()) <= high:
            yield f"a context has {len(context.split())} words, expected {low} to {high}: {context}"
        if not holds_abbreviation(entry.abbreviation, context):
            yield f"a context lacks {entry.abbreviation} as a whole word: {context}"


def group_entries(entries: list[Entry]) -> dict[str, str]:
    """Split group of each abbreviation: all that share an oil and gas wording are in one group.

    A group is named by its first abbreviation. Splits keep groups whole: a model that was taught
    "coal seam gas" for CSG has seen an answer to CBM.
    """
    parent = {entry.abbreviation: entry.abbreviation for entry in entries}

    def find_root(abbreviation: str) -> str:
        while parent[abbreviation] != abbreviation:
            abbreviation = parent[abbreviation]
        return abbreviation

    owner: dict[str, str] = {}
    for entry in entries:
        for name in (normalise(n) for sense in entry.oil_gas for n in sense.names):
            first = owner.setdefault(name, entry.abbreviation)
            roots = sorted((find_root(first), find_root(entry.abbreviation)))
            parent[roots[1]] = roots[0]
    return {abbreviation: find_root(abbreviation) for abbreviation in parent}
