"""What quickstart.py shows at the end: answers before and after, the figures, where things lie.

Standard library only. Reads evaluation.json and evaluation_items.jsonl of a run and its merged
model, as 02_src/evaluate_dpo.py writes them.
"""

import json
import shutil
import textwrap
from pathlib import Path

from bootstrap import REPOSITORY, venv_python
from quickstart_stages import Places, show_path

SHOWN_QUESTIONS = 8
LONGEST_CELL = 120  # characters; the base model rambles


def print_report(places: Places) -> None:
    """The before/after table, the figures behind it, and where everything lies."""
    after = read_items(places.merged, "merged")
    one_each = list({item.get("abbreviation") or item["id"]: item for item in after}.values())
    chosen = spread_choice(one_each, SHOWN_QUESTIONS)
    shown = pair_answers(read_items(places.run, "base"), chosen)
    width = min(shutil.get_terminal_size((100, 24)).columns, 120)
    print(f"\n{len(shown)} of {len(after)} held-out questions, evenly spaced:\n")
    print(render_table(("question", "base model", "merged model"), shown, width))
    base, merged = read_splits(places.run, "base"), read_splits(places.merged, "merged")
    for line in describe_grounding(base, merged):
        print(f"\n{line}")
    print(f"\n{describe_places(places)}")


def read_items(folder: Path, model: str) -> list[dict]:
    """One model's judged answers."""
    lines = (folder / "evaluation_items.jsonl").read_text(encoding="utf-8").splitlines()
    return [item for item in map(json.loads, lines) if item["model"] == model]


def read_splits(folder: Path, model: str) -> dict[str, dict]:
    """One model's figures per split."""
    report = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    return report["models"][model]["splits"]


def pair_answers(before: list[dict], after: list[dict]) -> list[tuple[str, str, str]]:
    """(question, base answer, merged answer) of the questions both were asked."""
    answers = {(item["split"], item["id"]): item["answer"] for item in before}
    keyed = [((item["split"], item["id"]), item) for item in after]
    return [
        (item["instruction"], answers[key], item["answer"]) for key, item in keyed if key in answers
    ]


def spread_choice(items: list, count: int) -> list:
    """At most `count` items, evenly spaced: a sample nobody picked by hand."""
    count = min(count, len(items))
    return [items[index * len(items) // count] for index in range(count)]


def describe_grounding(base: dict[str, dict], merged: dict[str, dict]) -> list[str]:
    """A line per split: share of right expansions before and after, with its interval."""
    lines = []
    for split, figures in merged.items():
        after = figures["grounding"]
        if not after["n"] or split not in base:
            continue
        before = show_percent(base[split]["grounding"]["value"])
        where = f" ({split})" if len(merged) > 1 else ""
        lines.append(
            f"grounding accuracy on {after['n']} held-out questions{where}: base {before} -> "
            f"merged {show_percent(after['value'])} "
            f"(95 % interval {show_percent(after['low'])} to {show_percent(after['high'])})"
        )
    return lines


def show_percent(share: float) -> str:
    """0.978 as 97.8 %."""
    return f"{100 * share:.1f} %"


def describe_places(places: Places) -> str:
    """Where the results lie, and what to run next."""
    python = venv_python().relative_to(REPOSITORY)
    merged = show_path(places.merged)
    rows = [
        ("adapter", show_path(places.run)),
        ("merged model", merged),
        ("log, curves", show_path(places.logs)),
        ("notebook", f"{python.with_name('jupyter')} lab dpo_training.ipynb"),
        ("ask it", f'{python} 02_src/run_inference.py --model {merged} --prompt "What is ROP?"'),
    ]
    return "\n".join(f"{name:<14}{text}" for name, text in rows)


def render_table(header: tuple[str, ...], rows: list[tuple[str, ...]], width: int) -> str:
    """Rows as columns of equal width, long cells wrapped, a blank line between rows."""
    column = (width - 2 * (len(header) - 1)) // len(header)
    lines = render_row(header, column) + render_row(("-" * column,) * len(header), column)
    for row in rows:
        lines += [*render_row(row, column), ""]
    return "\n".join(lines).rstrip()


def render_row(cells: tuple[str, ...], column: int) -> list[str]:
    """One row's lines."""
    texts = [textwrap.shorten(cell, LONGEST_CELL, placeholder=" ...") for cell in cells]
    wrapped = [textwrap.wrap(text, column) or [""] for text in texts]
    height = max(map(len, wrapped))
    padded = [lines + [""] * (height - len(lines)) for lines in wrapped]
    lines = zip(*padded, strict=True)
    return ["  ".join(cell.ljust(column) for cell in line).rstrip() for line in lines]


def print_seconds(seconds: dict[str, float | None]) -> None:
    """How long each stage took."""
    print("\nseconds per stage")
    for name, value in seconds.items():
        print(f"  {name:<10}" + ("done before" if value is None else f"{value:>7.0f}"))
    print(f"  {'total':<10}{sum(value or 0 for value in seconds.values()):>7.0f}")
