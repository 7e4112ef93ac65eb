"""Preference pairs: read, check every row, split by prompt.

    data = load_preferences(config)     # PreferenceData; problems are reported with file:line

Needs no torch.
"""

import hashlib
import json
import random
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from config import Config, resolve_path
from errors import UserError, escape_controls
from general_texts import GeneralText, load_texts
from row_readers import LISTS, PATH_LIKE, read_rows, require_file
from utils.formatting import Message, format_row
from utils.text import holds_half_character

SHOWN_PROBLEMS = 20


@dataclass(frozen=True)
class Pair:
    """One preference: prompt messages, the better and the worse answer, and where it stands."""

    prompt: list[Message]
    chosen: str
    rejected: str
    source: str  # file:line
    row: dict[str, Any] = field(default_factory=dict, compare=False)  # the row as read

    @property
    def prompt_key(self) -> str:
        """The prompt as text: pairs with the same key never land on both sides of a split."""
        return json.dumps(self.prompt, ensure_ascii=False)


@dataclass(frozen=True)
class PreferenceData:
    """Pairs to train and validate on, and what was noticed on the way."""

    train: list[Pair]
    validation: list[Pair]
    notices: list[str]
    general: list[GeneralText] = field(default_factory=list)  # to rehearse


def load_preferences(config: Config) -> PreferenceData:
    """Read the config's data, check it, split off a validation set by prompt.

    Raises:
        UserError: no such file, test files that the config names included, or rows that cannot be
            trained on; one line names each (the first 20 on stderr), the last line the count.
    """
    if "test_files" in config.model_fields_set:  # evaluation comes after hours of training
        for file in filter(PATH_LIKE.search, config.test_files.values()):
            require_file(resolve_path(file))
    general = load_texts(config)
    pairs, notices = load_pairs(config.dataset_hf, config)
    if config.dataset_shuffle:
        random.Random(config.seed).shuffle(pairs)
    pairs = pairs[: config.max_train_samples]
    if config.validation_file:
        validation, more = load_pairs(config.validation_file, config)
        return PreferenceData(pairs, validation, notices + more, general)
    train, validation = split_by_prompt(pairs, config.validation_fraction, config.seed)
    return PreferenceData(train, validation, notices, general)


def load_pairs(name: str, config: Config) -> tuple[list[Pair], list[str]]:
    """Pairs of one file or hub data set, with notices; UserError where a row is unusable."""
    pairs: list[Pair] = []
    problems: list[str] = []
    for source, row in read_rows(name, config):
        if isinstance(row, str):
            problems.append(f"{source}: {row}")
            continue
        problem = find_row_problem(row)
        if problem is None:
            try:
                pairs.append(Pair(*format_row(row), source, row))
                continue
            except ValueError as error:
                problem = str(error)
        problems.append(f"{source}: {problem}")
    problems += find_contradictions(pairs)
    report_problems(problems, name)
    if not pairs:
        raise UserError(f"{name}: holds no pairs; give rows with instruction, chosen, rejected")
    return drop_duplicates(pairs)


def find_row_problem(row: dict[str, Any]) -> str | None:
    """What keeps a row from being a pair, and what to do; None when it is one."""
    conversational = isinstance(row.get("chosen"), list)
    names = ["chosen", "rejected"]
    if not conversational or "prompt" in row:
        names.insert(0, "instruction" if "instruction" in row or "prompt" not in row else "prompt")
    for name in names:
        value = row.get(name)
        if value is None:
            found = ", ".join(sorted(row)) or "nothing"
            return f"field {name} is missing (found {found}); add it or remove the row"
        if not isinstance(value, str | list):
            return f"field {name} must be text, found {type(value).__name__}; put it in quotes"
        if not value or (isinstance(value, str) and not value.strip()):
            return f"field {name} is empty; fill it or remove the row"
    for name in ("context", "system"):
        if row.get(name) is not None and not isinstance(row[name], str):
            return f"field {name} must be text, found {type(row[name]).__name__}; put it in quotes"
    for name in LISTS:
        if not is_list_of_texts(row.get(name)):
            return f'field {name} must be a list of texts; correct it: ["Dynamic Positioning"]'
    for name in [*names, *(name for name in ("context", "system") if row.get(name))]:
        if holds_half_character(row[name]):
            return f"field {name} holds half a character (a lone surrogate); retype the text"
    if strip_text(row["chosen"]) == strip_text(row["rejected"]):
        return "chosen and rejected are the same; there is nothing to prefer, remove the row"
    return None


def strip_text(value: str | list) -> str | list:
    """Text without white space around it; messages as they are."""
    return value.strip() if isinstance(value, str) else value


def is_list_of_texts(value: Any) -> bool:
    """Whether an optional list is absent or holds texts; a bare text would be read by letters."""
    if value is None:
        return True
    return isinstance(value, list) and all(isinstance(v, str) and v.strip() for v in value)


def find_contradictions(pairs: Iterable[Pair]) -> list[str]:
    """Pairs that prefer a over b where another prefers b over a."""
    seen: dict[tuple[str, str, str], str] = {}
    problems = []
    for pair in pairs:
        other = seen.get((pair.prompt_key, pair.rejected, pair.chosen))
        if other:
            problems.append(
                f"{pair.source}: contradicts {other}: chosen and rejected are swapped; "
                "remove one of the two"
            )
        seen.setdefault((pair.prompt_key, pair.chosen, pair.rejected), pair.source)
    return problems


def report_problems(problems: list[str], name: str) -> None:
    """Print up to 20 problems to stderr and raise UserError with the count, if there are any."""
    if not problems:
        return
    if len(problems) == 1:
        raise UserError(problems[0])
    for line in problems[:SHOWN_PROBLEMS]:
        print(escape_controls(line), file=sys.stderr)
    rest = len(problems) - SHOWN_PROBLEMS
    more = f" ({rest} more not shown)" if rest > 0 else ""
    raise UserError(f"{name}: {len(problems)} rows to repair, see above{more}")


def drop_duplicates(pairs: list[Pair]) -> tuple[list[Pair], list[str]]:
    """Pairs without repeats, and a notice that names the first repeat."""
    seen: dict[tuple[str, str, str], str] = {}
    repeats = []
    for pair in pairs:
        identity = (pair.prompt_key, pair.chosen, pair.rejected)
        if identity in seen:
            repeats.append(f"{pair.source} repeats {seen[identity]}")
        seen.setdefault(identity, pair.source)
    kept = list({(p.prompt_key, p.chosen, p.rejected): p for p in reversed(pairs)}.values())[::-1]
    notices = [f"{len(repeats)} duplicate rows were left out: {repeats[0]}"] if repeats else []
    return kept, notices


def split_by_prompt(pairs: list[Pair], fraction: float, seed: int) -> tuple[list[Pair], list[Pair]]:
    """(train, validation): each prompt is on one side, chosen by a hash that ignores row order."""

    def draw(pair: Pair) -> float:
        digest = hashlib.sha256(f"{seed}:{pair.prompt_key}".encode()).digest()
        return int.from_bytes(digest[:8], "big") / 2**64

    validation = [pair for pair in pairs if draw(pair) < fraction]
    train = [pair for pair in pairs if draw(pair) >= fraction]
    return (train, validation) if train else (validation, [])
