"""Write and read an evaluation: reports, judged items, and evaluation.json last."""

import json
from collections.abc import Sequence
from pathlib import Path

from config import show_path, write_text
from errors import UserError
from evaluation.parts import to_lines
from evaluation.report_html import render_html
from evaluation.report_markdown import render_markdown
from evaluation.verdict import write_verdict

REPORT_FILE = "evaluation.json"
ITEMS_FILE = "evaluation_items.jsonl"  # answered questions
SCORES_FILE = "evaluation_scores.jsonl"  # items without an answer
HTML_FILE, MARKDOWN_FILE = "evaluation.html", "evaluation.md"


def save_evaluation(folder: Path, report: dict, records: Sequence[dict]) -> None:
    """Write all outputs, each whole or not at all; evaluation.json says the others are there."""
    report["verdict"] = write_verdict(report)
    write_text(folder / ITEMS_FILE, to_lines([r for r in records if "answer" in r]))
    write_text(folder / SCORES_FILE, to_lines([r for r in records if "answer" not in r]))
    write_text(folder / HTML_FILE, render_html(report, records))
    write_text(folder / MARKDOWN_FILE, render_markdown(report, records))
    write_text(folder / REPORT_FILE, json.dumps(report, indent=2) + "\n")


def read_evaluation(folder: Path) -> tuple[dict, list[dict]]:
    """(report, records) of an evaluated run; UserError names the command that makes them."""
    try:
        report = json.loads((folder / REPORT_FILE).read_text(encoding="utf-8"))
        texts = [(folder / n).read_text(encoding="utf-8") for n in (ITEMS_FILE, SCORES_FILE)]
        records = [json.loads(line) for text in texts for line in text.splitlines()]
        return report, records
    except (OSError, ValueError):
        command = f"python 02_src/evaluate_dpo.py --run {show_path(folder)}"
        raise UserError(f"{show_path(folder)}: no evaluation; make it with: {command}") from None
