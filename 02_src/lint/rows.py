"""Read the rows to lint: pairs with their normalised texts, and the lines that are no pair."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from config import Config
from lint.report import Finding, Track, make_finding
from preferences import Pair, find_row_problem
from row_readers import read_rows
from utils.formatting import format_row
from utils.text import normalise


@dataclass(frozen=True, slots=True)
class LintRow:
    """A pair and its texts, normalised once for all checks."""

    pair: Pair
    prompt: str
    chosen: str
    rejected: str

    @property
    def source(self) -> str:
        """file:line."""
        return self.pair.source

    @property
    def context(self) -> str | None:
        """The normalised context, None where the row has none."""
        value = self.pair.row.get("context")
        return normalise_once(value) if isinstance(value, str) and value.strip() else None

    @property
    def instruction(self) -> str:
        """The question as written: without context where the row has one of its own."""
        value = self.pair.row.get("instruction")
        return value if isinstance(value, str) else self.pair.prompt[-1]["content"]

    @property
    def question(self) -> str:
        """The normalised instruction."""
        alone = self.context is None and len(self.pair.prompt) == 1
        return self.prompt if alone else normalise_once(self.instruction)


def read_pairs(name: str, config: Config, track: Track) -> tuple[list[LintRow], list[Finding]]:
    """Every usable pair of `name`, and a finding for the rows that cannot be trained on."""
    rows: list[LintRow] = []
    problems: list[str] = []
    for source, row in track(read_rows(name, config), f"reading {name}"):
        pair = parse_row(source, row)
        if isinstance(pair, str):
            problems.append(pair)
        else:
            rows.append(normalise_pair(pair))
    return rows, report_unreadable(problems)


def parse_row(source: str, row: dict[str, Any] | str) -> Pair | str:
    """The pair in a row, or `file:line: what is wrong`."""
    problem = row if isinstance(row, str) else find_row_problem(row)
    if problem is None:
        try:
            return Pair(*format_row(row), source, row)
        except ValueError as error:
            problem = str(error)
    return f"{source}: {problem}"


def normalise_pair(pair: Pair) -> LintRow:
    """The pair with its normalised texts."""
    prompt = "\n".join(message["content"] for message in pair.prompt)
    return LintRow(pair, normalise(prompt), normalise(pair.chosen), normalise(pair.rejected))


@lru_cache(maxsize=100_000)
def normalise_once(text: str) -> str:
    """normalise(), remembered: contexts and accepted expansions come back in many rows."""
    return normalise(text)


def report_unreadable(problems: list[str]) -> list[Finding]:
    """One finding for all rows that are no pair; each place carries its reason."""
    advice = "repair or remove these rows; training refuses them"
    text = "row(s) cannot be trained on"
    return make_finding("unreadable_row", "error", problems, text, advice)


@dataclass(frozen=True, slots=True)
class TestRow:
    """One row of a test file: the question, its normalised prompt, and its split group."""

    __test__ = False  # not a test case, though pytest might think so by its name

    source: str
    prompt: str
    body: str  # what may be copied from train: the context, else the question
    group: str | None


def read_test_rows(name: str, config: Config, track: Track) -> tuple[list[TestRow], list[Finding]]:
    """The questions of a test file, and a finding for the rows without one; answers may miss."""
    rows: list[TestRow] = []
    problems: list[str] = []
    for source, row in track(read_rows(name, config), f"reading {name}"):
        parts = [] if isinstance(row, str) else list_texts(row)
        if parts:
            prompt = normalise("\n".join(parts))
            rows.append(TestRow(source, prompt, find_body(row, prompt), find_group(row)))
        else:
            problems.append(f"{source}: {row if isinstance(row, str) else 'holds no question'}")
    return rows, report_unreadable(problems)


def list_texts(row: dict[str, Any]) -> list[str]:
    """The texts of a row's prompt: of a pair, a question without answers, or a plain passage."""
    if find_row_problem(row) is None:
        pair = parse_row("", row)
        return [] if isinstance(pair, str) else [message["content"] for message in pair.prompt]
    names = ("system", "context", "instruction", "prompt", "text")
    return [row[name] for name in names if isinstance(row.get(name), str) and row[name].strip()]


def find_body(row: dict[str, Any], prompt: str) -> str:
    """The normalised context where the row has one, else its whole prompt."""
    context = row.get("context")
    return normalise(context) if isinstance(context, str) and context.strip() else prompt


def find_group(row: dict[str, Any]) -> str | None:
    """The row's split_group as text, None where it has none."""
    group = row.get("split_group")
    return None if group in (None, "") else str(group)
