"""Turn scored answers (instruction, response, reward) into preference pairs.

The command: python 03_scripts/convert_reward_to_dpo.py scored.jsonl pairs.jsonl --min-gap 0.5
"""

import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from config import Config, show_path, write_text
from errors import UserError
from row_readers import read_rows

Mode = Literal["best-worst", "best-each"]
MODES: tuple[Mode, ...] = get_args(Mode)
ROUNDING = 1e-9  # 0.3 - 0.1 counts as a gap of 0.2
HALF_CHARACTER = re.compile("[\ud800-\udfff]")
GroupKey = tuple[str, str | None]


@dataclass(frozen=True)
class RewardFields:
    """The names of the columns to read."""

    instruction: str = "instruction"
    response: str = "response"
    reward: str = "reward"
    context: str = "context"


@dataclass
class Conversion:
    """The pairs made, and how many groups and rows they came from or were skipped."""

    pairs: list[dict[str, Any]] = field(default_factory=list)
    rows: int = 0
    groups: int = 0
    skipped: Counter[str] = field(default_factory=Counter)  # reason -> count
    first_places: dict[str, str] = field(default_factory=dict)  # reason -> file:line

    def skip(self, reason: str, place: str) -> None:
        """Count a row, group or answer that makes no pair."""
        self.skipped[reason] += 1
        self.first_places.setdefault(reason, place)

    def describe(self) -> list[str]:
        """The counts as short lines."""
        lines = [f"{self.rows:,} rows, {self.groups:,} groups, {len(self.pairs):,} pairs"]
        for reason, count in self.skipped.items():
            lines.append(f"skipped {count:,}: {reason} (first: {self.first_places[reason]})")
        return lines


@dataclass(frozen=True)
class Answer:
    """A response and its reward, the mean where the same response was scored several times."""

    text: str
    reward: float


@dataclass
class Group:
    """Everything answered to one instruction in one context."""

    source: str  # file:line of its first row
    rewards: dict[str, list[float]] = field(default_factory=dict)  # response -> its rewards

    def rank_answers(self) -> list[Answer]:
        """Best first; equal rewards keep the order of the file."""
        answers = [Answer(text, sum(seen) / len(seen)) for text, seen in self.rewards.items()]
        return sorted(answers, key=lambda answer: -answer.reward)


def convert_rewards(
    source: str | Path,
    output: str | Path,
    fields: RewardFields | None = None,
    mode: Mode = "best-worst",
    min_gap: float = 0.0,
) -> Conversion:
    """Read scored answers, write preference pairs as JSON Lines.

    Args:
        source: .jsonl, .json, .csv or .parquet.
        output: the .jsonl file to write; it appears whole or not at all.
        fields: the column names; None is instruction, response, reward, context.
        mode: best-worst makes one pair a group, best-each one for every worse answer.
        min_gap: pairs need at least this difference in reward, and always more than none.

    Raises:
        UserError: an unreadable file, a column that no row has, or no pair to write.
    """
    check_arguments(Path(source), Path(output), mode, min_gap)
    result = Conversion()
    groups = group_rows(str(source), fields or RewardFields(), result)
    result.groups = len(groups)
    for (instruction, context), group in groups.items():
        for better, worse in pair_answers(group, mode, min_gap, result):
            result.pairs.append(make_row(instruction, context, better, worse))
    if not result.pairs:
        raise UserError(f"{show_path(source)}: makes no pairs: {'; '.join(result.describe())}")
    lines = [json.dumps(pair, ensure_ascii=False) + "\n" for pair in result.pairs]
    write_text(Path(output), "".join(lines))
    return result


def check_arguments(source: Path, output: Path, mode: str, min_gap: float) -> None:
    """UserError on what cannot work, before any row is read."""
    if mode not in MODES:
        raise UserError(f"--mode: must be {' or '.join(MODES)} (got {mode})")
    if not (math.isfinite(min_gap) and min_gap >= 0):
        raise UserError(f"--min-gap: must be a number >= 0 (got {min_gap})")
    if not source.is_file():
        raise UserError(f"{show_path(source)}: no such file; give scored answers, one a row")
    if output.suffix != ".jsonl":
        raise UserError(f"{output}: the output is JSON Lines; give a name that ends in .jsonl")
    if output.is_dir():
        raise UserError(f"{output}: is a folder; give a file to write")
    if source.resolve() == output.resolve():
        raise UserError(f"{output}: is the input too; give another output file")


def group_rows(source: str, fields: RewardFields, result: Conversion) -> dict[GroupKey, Group]:
    """Groups by instruction and context, in the order of the file; unusable rows are counted."""
    groups: dict[GroupKey, Group] = {}
    seen: set[str] = set()
    for place, row in read_rows(source, Config()):
        result.rows += 1
        if isinstance(row, str):
            result.skip(row, place)
            continue
        seen.update(row)
        problem = find_problem(row, fields)
        if problem:
            result.skip(problem, place)
            continue
        context = row.get(fields.context)
        key = row[fields.instruction].strip(), (context or "").strip() or None
        group = groups.setdefault(key, Group(place))
        reward = parse_reward(row[fields.reward])
        group.rewards.setdefault(row[fields.response].strip(), []).append(reward)
    check_columns(source, fields, seen)
    return groups


def check_columns(source: str, fields: RewardFields, seen: set[str]) -> None:
    """UserError where a column is in no row at all: most likely its name is another one."""
    for option in ("instruction", "response", "reward"):
        name = getattr(fields, option)
        if name not in seen:
            found = ", ".join(sorted(seen)) or "nothing"
            raise UserError(
                f"{show_path(source)}: no row has a field {name} (found {found}); "
                f"name it with --{option}-field"
            )


def find_problem(row: dict[str, Any], fields: RewardFields) -> str | None:
    """Why a row cannot be used, None where it can."""
    for name in (fields.instruction, fields.response):
        if not isinstance(row.get(name), str) or not row[name].strip():
            return f"{name} is missing, empty or not text"
    context = row.get(fields.context)
    if context is not None and not isinstance(context, str):
        return f"{fields.context} is not text"
    if HALF_CHARACTER.search(row[fields.instruction] + row[fields.response] + (context or "")):
        return "text holds half a character (\\ud800-\\udfff), which no file can store"
    if parse_reward(row.get(fields.reward)) is None:
        return f"{fields.reward} is not a finite number"
    return None


def parse_reward(value: Any) -> float | None:
    """A reward as a number; text such as "0.5" counts, as CSV files hold it."""
    try:
        reward = float(value)
    except (TypeError, ValueError):
        return None
    return reward if math.isfinite(reward) else None


def pair_answers(
    group: Group, mode: Mode, min_gap: float, result: Conversion
) -> Iterator[tuple[Answer, Answer]]:
    """(better, worse) of one group: the best against the worst, or against each worse, worst last.

    What falls out is counted in `result`.
    """
    best, *others = group.rank_answers()
    if not others:
        result.skip("group has one answer only", group.source)
        return
    for worse in others if mode == "best-each" else others[-1:]:
        gap = best.reward - worse.reward
        if gap > ROUNDING and gap >= min_gap - ROUNDING:
            yield best, worse
        elif gap <= ROUNDING:
            result.skip("equal rewards", group.source)
        else:
            result.skip(f"reward gap below {min_gap:g}", group.source)


def make_row(
    instruction: str, context: str | None, better: Answer, worse: Answer
) -> dict[str, Any]:
    """One line of the output; every line has the same keys."""
    return {
        "instruction": instruction,
        "context": context,
        "chosen": better.text,
        "rejected": worse.text,
        "chosen_reward": better.reward,
        "rejected_reward": worse.reward,
    }
