"""Finished splits of an evaluation, kept until all of it is done: an interrupted one goes on.

A part is known by everything its records depend on: the model's files, the test file, the limits
and the version of the metrics.
"""

import hashlib
import json
import shutil
from pathlib import Path

from config import Config, write_text
from evaluation.question_sets import QuestionSet

METRICS_VERSION = 1  # raise it when records change their meaning
FOLDER = ".evaluation"
MODEL_FILES = ("*.safetensors", "run_config.json", "tokenizer.json", "*.jinja", "config.json")


class Parts:
    """Records per model and split, on disk under `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / FOLDER

    def read(self, key: str) -> list[dict] | None:
        """The records kept under `key`, or None."""
        try:
            text = (self.folder / f"{key}.jsonl").read_text(encoding="utf-8")
            return [json.loads(line) for line in text.splitlines()]
        except (OSError, ValueError):  # absent or damaged: measured again
            return None

    def write(self, key: str, records: list[dict]) -> None:
        """Keep records."""
        write_text(self.folder / f"{key}.jsonl", to_lines(records))

    def clear(self) -> None:
        """Forget everything: the evaluation is complete."""
        shutil.rmtree(self.folder, ignore_errors=True)


def to_lines(records: list[dict]) -> str:
    """Records as JSON Lines."""
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def hash_model(folder: Path) -> str:
    """sha256 over the files that make a model (adapter, tokenizer, template, settings)."""
    digest = hashlib.sha256()
    for file in sorted({f for pattern in MODEL_FILES for f in folder.glob(pattern)}):
        with file.open("rb") as stream:
            digest.update(file.name.encode() + hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def part_key(name: str, model_hash: str, config: Config, questions: QuestionSet, ask: bool) -> str:
    """The key of one model's records on one split."""
    parts = {
        "version": METRICS_VERSION,
        "model": [name, model_hash],
        "questions": [questions.name, questions.sha256, len(questions)],
        "settings": [config.max_new_tokens, config.max_seq_length, ask],
    }
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    safe = "".join(c if c.isalnum() else "_" for c in f"{name}-{questions.name}")
    return f"{safe}-{digest[:16]}"
