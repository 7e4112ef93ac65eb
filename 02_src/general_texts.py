"""General texts for rehearsal: read and checked. Needs no torch.

    texts = load_texts(config)     # [GeneralText]; none without rehearsal_file

A row is {"text": ...}, or {"instruction": ..., "answer": ...}, which gets the chat template.
"""

from dataclasses import dataclass
from typing import Any

from config import Config, resolve_path, show_path
from errors import UserError
from row_readers import DATA_SUFFIXES, read_rows
from utils.formatting import Message, format_prompt
from utils.text import holds_half_character


@dataclass(frozen=True)
class GeneralText:
    """A bare text, or an answer behind its prompt."""

    text: str
    prompt: list[Message] | None = None


def load_texts(config: Config) -> list[GeneralText]:
    """The texts of rehearsal_file.

    Raises:
        UserError: no such file, or a row that is no text; it names file and line.
    """
    if config.rehearsal_file is None:
        return []
    path = resolve_path(config.rehearsal_file)
    problem = None if path.is_file() else "no such file"
    if path.suffix not in DATA_SUFFIXES:
        problem = f"must end in {', '.join(DATA_SUFFIXES)}"
    if problem:
        raise UserError(
            f"rehearsal_file: {show_path(path)}: {problem}; give a file with rows of text, or null "
            "for no rehearsal"
        )
    texts = [read_row(source, row) for source, row in read_rows(config.rehearsal_file, config)]
    if not texts:
        raise UserError(f"{show_path(path)}: holds no texts; give rows with text")
    return texts


def read_row(source: str, row: dict[str, Any] | str) -> GeneralText:
    """One row; UserError when it has neither form."""
    if isinstance(row, str):
        raise UserError(f"{source}: {row}")
    names = ["text"] if "text" in row else ["instruction", "answer"]
    for name in names:
        if problem := find_text_problem(row, name):
            raise UserError(f"{source}: {problem}")
    if "text" in row:
        return GeneralText(row["text"].strip())
    return GeneralText(row["answer"].strip(), format_prompt(row["instruction"]))


def find_text_problem(row: dict[str, Any], name: str) -> str | None:
    """What keeps a field from being a text, and what to do; None when it is one."""
    if name not in row:
        found = ", ".join(sorted(row)) or "nothing"
        return f"needs field text, or instruction and answer (found {found}); add it"
    value = row[name]
    if not isinstance(value, str):
        return f"field {name} must be text, found {type(value).__name__}; put it in quotes"
    if not value.strip():
        return f"field {name} is empty; fill it or remove the row"
    if holds_half_character(value):
        return f"field {name} holds half a character (a lone surrogate); retype the text"
    return None
