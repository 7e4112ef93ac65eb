"""evaluation.md: the report as plain text, for a terminal or a code host."""

from collections.abc import Iterable, Sequence

from evaluation import views
from evaluation.model_names import choose_tuned
from evaluation.tables import list_tables
from evaluation.verdict import show

LONGEST_CELL = 160


def render_markdown(report: dict, records: Sequence[dict]) -> str:
    """The whole report."""
    tuned = choose_tuned(report) or next(iter(report["models"]))
    first, *rest = report["verdict"]
    sections = [
        f"# Evaluation of {report['run']}",
        f"**{first}**",
        "\n".join(f"- {line}" for line in rest),
        views.describe_limits(report),
        *section("Headline figures", render_shares(views.list_headline(report), report)),
        *section("The same questions, side by side", render_answers(records, report, tuned)),
        *section("Confused senses", render_confusions(records, tuned)),
        *section("Wrong answers", render_wrong(records, tuned)),
        *(
            part
            for title, heads, rows in list_tables(report, tuned)
            for part in section(title, render_table(heads, rows))
        ),
        *section(
            "Every figure, all items counted", render_shares(views.list_all_figures(report), report)
        ),
        "## How this was measured",
        "\n".join(f"- {line}" for line in views.METHOD),
    ]
    return "\n\n".join(part for part in sections if part) + "\n"


def section(title: str, body: str) -> tuple[str, ...]:
    """A heading and its body; nothing where the body is empty."""
    return (f"## {title}", body) if body else ()


def render_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; empty without rows."""
    lines = [f"| {' | '.join(clean(cell) for cell in row)} |" for row in rows]
    if not lines:
        return ""
    return "\n".join([f"| {' | '.join(heads)} |", "|" + "---|" * len(heads), *lines])


def clean(text: str) -> str:
    """A cell on one line, without pipes, of bounded length."""
    text = " ".join(str(text).replace("|", "\\|").split())
    return text if len(text) <= LONGEST_CELL else text[: LONGEST_CELL - 1] + "…"


def render_shares(rows: Sequence[views.Row], report: dict) -> str:
    """Metrics by model with intervals."""
    models = list(report["models"])
    cells = [
        [
            views.label_split(row.split),
            views.METRIC_LABELS[row.metric][0],
            *(show(row.shares[name]) if name in row.shares else "-" for name in models),
        ]
        for row in rows
    ]
    return render_table(["split", "the model", *map(views.label_model, models)], cells)


def render_answers(records: Sequence[dict], report: dict, tuned: str) -> str:
    """Before and after."""
    models = [name for name in report["models"] if name in ("base", tuned)]
    rows = [
        [group[models[0]]["instruction"], *(group[name]["answer"] for name in models)]
        for group in views.sample_answers(records, models)
    ]
    return render_table(["question", *models], rows)


def render_confusions(records: Sequence[dict], tuned: str) -> str:
    """Which sense was named instead of which."""
    rows = views.count_confusions(records, tuned)
    return render_table(["abbreviation", "asked for", "said instead", "times"], rows)


def render_wrong(records: Sequence[dict], tuned: str) -> str:
    """What the tuned model got wrong."""
    rows = [
        [r["split"], r["instruction"], r["answer"], (r["accepted"] or ["-"])[0]]
        for r in views.list_wrong(records, tuned)[: views.SHOWN_WRONG]
    ]
    return render_table(["split", "question", "answer", "right"], rows)
