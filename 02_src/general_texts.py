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
    if path.suffix not in DATA_SUFFIXES or not path.is_file():
        raise UserError(
            f"rehearsal_file: {show_path(path)}: no such data file; give one with rows of text, or "
            "null for no rehearsal"
        )
    texts = [read_row(source, row) for source, row in read_rows(config.rehearsal_file, config)]
    if not texts:
        raise UserError(f"{show_path(path)}: holds no texts; give rows with text")
    return texts


def read_row(source: str, row: dict[str, Any] | str) -> GeneralText:
    """One row; UserError when it has neither form."""
    if isinstance(row, str):
        raise UserError(f"{source}: {row}")
    if is_text(row.get("text")):
        return GeneralText(row["text"].strip())
    if is_text(row.get("instruction")) and is_text(row.get("answer")):
        return GeneralText(row["answer"].strip(), format_prompt(row["instruction"]))
    found = ", ".join(sorted(row)) or "nothing"
    raise UserError(f"{source}: needs field text, or instruction and answer (found {found})")


def is_text(value: Any) -> bool:
    """Whether a field holds text that a tokenizer can take."""
    if not isinstance(value, str) or not value.strip():
        return False
    return value.isascii() or value.encode("utf-8", "ignore").decode("utf-8") == value
