"""Test files as question sets, and the glossary entries that some controls and tables need.

A set's name and its rows' columns decide what is measured on it (02_src/evaluation/measure.py).
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from config import REPOSITORY, Config, resolve_path, show_path
from errors import UserError
from glossary import Entry, load_glossary
from preferences import Pair, load_pairs
from row_readers import DATA_SUFFIXES, read_rows

GLOSSARY_FILE = REPOSITORY / "01_data" / "glossary" / "oil_gas.jsonl"
CHOICE_ONLY = ("locality",)  # split names whose questions are a forced choice and nothing else


@dataclass(frozen=True)
class QuestionSet:
    """One test split: pairs to ask and rank, or passages of neutral text."""

    name: str
    file: str
    sha256: str
    pairs: list[Pair] = field(default_factory=list)
    passages: list[dict] = field(default_factory=list)  # {"id", "text"}

    def __len__(self) -> int:
        return len(self.pairs) or len(self.passages)

    def take(self, part: slice) -> "QuestionSet":
        """Some of its items."""
        return replace(self, pairs=self.pairs[part], passages=self.passages[part])


def check_limit(limit: int | None) -> None:
    """UserError when --limit is given and below 1."""
    if limit is not None and limit < 1:
        raise UserError(f"--limit {limit}: must be 1 or more")


def load_question_sets(
    config: Config, limit: int | None = None, names: Sequence[str] | None = None
) -> list[QuestionSet]:
    """The config's test files, at most `limit` (else eval_limit) items each.

    Raises:
        UserError: a name is not in test_files, or a file is missing or unusable.
    """
    for name in names or ():
        if name not in config.test_files:
            known = ", ".join(config.test_files) or "none"
            raise UserError(f"--splits {name}: not in the config's test_files ({known})")
    chosen = names or list(config.test_files)
    limit = limit or config.eval_limit
    return [load_question_set(name, config.test_files[name], config, limit) for name in chosen]


def load_question_set(name: str, file: str, config: Config, limit: int | None) -> QuestionSet:
    """One test file; rows with a text and no answers are passages."""
    path = resolve_path(file)
    digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
    if path.suffix in DATA_SUFFIXES:
        first = next(iter(read_rows(file, config)), ("", {}))[1]
        if isinstance(first, dict) and "text" in first and "chosen" not in first:
            return QuestionSet(name, file, digest, passages=load_passages(file, config)[:limit])
    return QuestionSet(name, file, digest, pairs=load_pairs(file, config)[0][:limit])


def load_passages(file: str, config: Config) -> list[dict]:
    """Rows of neutral text; UserError where one has no text."""
    passages = []
    for source, row in read_rows(file, config):
        if not isinstance(row, dict) or not isinstance(row.get("text"), str):
            raise UserError(f"{source}: every row must have a text, as the first one has")
        passages.append({"id": row.get("id") or source, "text": row["text"]})
    return passages


def is_asked(split: str, pair: Pair) -> bool:
    """Whether the model answers this pair's question freely: the row says which answers count."""
    return split not in CHOICE_ONLY and pair.row.get("accepted") is not None


def make_choice(pair: Pair) -> Pair | None:
    """The forced choice of a row: "X stands for gold." against "X stands for competing."

    Gold and competing are the senses that the row's own answers name, else the first listed.
    None where the row lacks an abbreviation, an accepted or a competing expansion.
    """
    row = pair.row
    if not (row.get("abbreviation") and row.get("accepted") and row.get("competing")):
        return None
    gold = pick_named(row["accepted"], pair.chosen)
    other = pick_named(row["competing"], pair.rejected)
    frame = f"{row['abbreviation']} stands for {{}}."
    return replace(pair, chosen=frame.format(gold), rejected=frame.format(other))


def pick_named(names: Sequence[str], answer: str) -> str:
    """The first of `names` that stands in `answer`, else the first."""
    return next((name for name in names if name.lower() in answer.lower()), names[0])


def read_glossary(path: Path = GLOSSARY_FILE) -> dict[str, Entry]:
    """Entries by abbreviation; empty where there is no glossary."""
    entries = load_glossary(path) if path.is_file() else []
    return {entry.abbreviation: entry for entry in entries}


def describe_entry(entry: Entry) -> str:
    """One line that names every sense with its field, the oil and gas ones first."""
    named = [f"oil and gas: {sense.expansion}" for sense in entry.oil_gas]
    named += [f"{sense.domain}: {sense.expansion}" for sense in entry.competing]
    return f"{entry.abbreviation} has these meanings. In {'; in '.join(named)}."


def add_entry(pair: Pair, glossary: dict[str, Entry]) -> Pair:
    """The pair with its abbreviation's glossary entry before the user's text."""
    *before, last = pair.prompt
    text = f"{describe_entry(glossary[pair.row['abbreviation']])}\n\n{last['content']}"
    return replace(pair, prompt=[*before, {**last, "content": text}])


def require_glossary() -> dict[str, Entry]:
    """The glossary; UserError where it is missing."""
    glossary = read_glossary()
    if not glossary:
        raise UserError(f"{show_path(GLOSSARY_FILE)}: no such file; base_with_glossary needs it")
    return glossary
