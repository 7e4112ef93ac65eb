"""evaluation.html: one file that opens offline, with the verdict first and the evidence after."""

from collections.abc import Iterable, Sequence
from html import escape

from evaluation import charts, views
from evaluation.model_names import choose_tuned
from evaluation.page_style import STYLE
from evaluation.tables import list_tables
from evaluation.verdict import percent
from grounding import ABSTAINED, CONFUSED, GROUNDED, INVENTED

TAGS = {
    GROUNDED: "right expansion",
    CONFUSED: "another sense",
    ABSTAINED: "does not know",
    INVENTED: "invents",
}


def render_html(report: dict, records: Sequence[dict]) -> str:
    """The whole page."""
    tuned = choose_tuned(report) or next(iter(report["models"]))
    sections = [
        render_head(report),
        render_headline(report, tuned),
        render_outcomes(report),
        render_answers(records, report, tuned),
        render_categories(report, tuned),
        render_confusions(records, tuned),
        render_wrong(records, tuned),
        *(render_cells(*section) for section in list_tables(report, tuned)),
        render_all_figures(report),
        render_method(),
    ]
    title = f"Evaluation of {escape(report['run'])}"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{STYLE}</style></head><body><main>"
        f"{''.join(sections)}</main></body></html>\n"
    )


def render_head(report: dict) -> str:
    """Title, what was measured, and the verdict."""
    first, *rest = report["verdict"]
    seconds = f" in {report['seconds']:.0f} s" if "seconds" in report else ""
    return (
        f"<h1>Evaluation of {escape(report['run'])}</h1>"
        f'<p class="soft">{escape(report["device"])}{seconds}. '
        f"{escape(views.describe_limits(report))}</p>"
        f'<div class="verdict"><p>{escape(first)}</p>'
        f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in rest)}</ul></div>"
    )


def render_headline(report: dict, tuned: str) -> str:
    """The headline table: metrics by model, with intervals."""
    rows = views.list_headline(report)
    return f"<h2>Headline figures</h2>{render_rows(rows, report, tuned)}" if rows else ""


def render_all_figures(report: dict) -> str:
    """Every share, folded away."""
    rows = views.list_all_figures(report)
    table = render_rows(rows, report, choose_tuned(report) or "")
    return f"<details><summary>Every figure, all items counted</summary>{table}</details>"


def render_rows(rows: Sequence[views.Row], report: dict, tuned: str) -> str:
    """A table of shares: one line a metric, one column a model."""
    models = list(report["models"])
    lines, last = [], None
    for row in rows:
        label, better = views.METRIC_LABELS[row.metric]
        split = views.label_split(row.split) if row.split != last else ""
        hint = f'<br><span class="better">{better} is better</span>' if better else ""
        cells = [render_share(row.shares.get(name), name == tuned) for name in models]
        lines.append([f'<td class="split">{escape(split)}', f"<td>{escape(label)}{hint}", *cells])
        last = row.split
    return render_table(("split", "the model", *map(views.label_model, models)), lines)


def render_share(share: dict | None, tuned: bool) -> str:
    """One share as a cell: value, interval, bar."""
    if not share:
        return '<td class="value soft">-'
    interval = f"{percent(share['low'])} to {percent(share['high'])}, n={share['n']}"
    picture = charts.draw_interval(share, tuned)
    return f'<td class="value"><b>{percent(share["value"])}</b>{picture}<small>{interval}</small>'


def render_table(heads: Iterable[str], lines: Iterable[Sequence[str]]) -> str:
    """A table; cells come with their own opening <td ...>."""
    head = "".join(f"<th>{escape(text)}</th>" for text in heads)
    body = "".join(f"<tr>{'</td>'.join(cells)}</td></tr>" for cells in lines)
    return f'<div class="wide"><table><tr>{head}</tr>{body}</table></div>'


def render_outcomes(report: dict) -> str:
    """Stacked bars of what the answers were, per split and model."""
    rows = [
        (f"{split}: {views.label_model(name)}", model["splits"][split])
        for split in views.list_splits(report)
        for name, model in report["models"].items()
        if model["splits"].get(split, {}).get("invention", {}).get("n")
    ]
    if not rows:
        return ""
    rows = [(label, fill_missing(figures)) for label, figures in rows]
    colours = ("right", "other", "unknown", "invented")
    legend = "".join(
        f'<span><i style="background:var(--{colour})"></i>{words}</span>'
        for colour, words in zip(colours, charts.OUTCOME_WORDS, strict=True)
    )
    return (
        f'<h2>What the answers were</h2><p class="legend">{legend}</p>{charts.draw_outcomes(rows)}'
    )


def fill_missing(figures: dict) -> dict:
    """The four outcome shares; those that mean nothing on a split count as none."""
    return {name: {"value": figures[name]["value"] or 0.0} for name in charts.OUTCOMES}


def render_answers(records: Sequence[dict], report: dict, tuned: str) -> str:
    """The same questions, answered before and after."""
    models = [name for name in report["models"] if name in ("base", tuned)]
    sample = views.sample_answers(records, models)
    if not sample:
        return ""
    lines = []
    for group in sample:
        record = group[models[0]]
        question = escape(record["instruction"])
        lines.append([f'<td class="context">{question}', *(answer_cell(group[m]) for m in models)])
    note = "Evenly spaced over each split: nobody picked them."
    table = render_table(("question", *models), lines)
    return f'<h2>The same questions, side by side</h2><p class="soft">{note}</p>{table}'


def answer_cell(record: dict) -> str:
    """An answer, marked by its outcome in colour and words."""
    return (
        f'<td class="answer {record["outcome"]}"><span class="tag">{TAGS[record["outcome"]]}'
        f"</span>{escape(record['answer'])}"
    )


def render_categories(report: dict, tuned: str) -> str:
    """Right expansions per category, tuned above base."""
    parts = []
    for split, figures in report["models"][tuned]["splits"].items():
        groups = figures.get("groups", {}).get("category") or {}
        before = report["models"].get("base", {}).get("splits", {}).get(split, {})
        before = before.get("groups", {}).get("category") or {}
        rows = [
            (name.replace("_", " "), before.get(name, {}).get("grounding"), shares["grounding"])
            for name, shares in groups.items()
            if shares["grounding"]["n"]
        ]
        if rows:
            chart = charts.draw_categories(rows)
            parts.append(f"<h3>{escape(views.label_split(split))}</h3>{chart}")
    legend = (
        '<p class="legend"><span><i style="background:var(--tuned)"></i>'
        f'{escape(tuned)}</span><span><i style="background:var(--base)"></i>base</span></p>'
    )
    return f"<h2>Right expansions per category</h2>{legend}{''.join(parts)}" if parts else ""


def render_confusions(records: Sequence[dict], tuned: str) -> str:
    """Which sense was named instead of which."""
    rows = views.count_confusions(records, tuned)
    if not rows:
        return f"<h2>Confused senses</h2><p>The {escape(tuned)} model confused none.</p>"
    lines = [[f"<td>{escape(str(cell))}" for cell in row] for row in rows]
    heads = ("abbreviation", "asked for", "said instead", "times")
    return f"<h2>Confused senses</h2>{render_table(heads, lines)}"


def render_wrong(records: Sequence[dict], tuned: str) -> str:
    """The items the tuned model got wrong."""
    wrong = views.list_wrong(records, tuned)
    if not wrong:
        return "<h2>Wrong answers</h2><p>None.</p>"
    lines = [
        [
            f"<td>{escape(record['split'])}",
            f'<td class="context">{escape(record["instruction"])}',
            answer_cell(record),
            f"<td>{escape((record['accepted'] or ['(not an abbreviation)'])[0])}",
        ]
        for record in wrong[: views.SHOWN_WRONG]
    ]
    table = render_table(("split", "question", "answer", "right"), lines)
    note = f"{len(wrong)} wrong answers" + (
        f", the first {views.SHOWN_WRONG} shown" if len(wrong) > views.SHOWN_WRONG else ""
    )
    return f"<h2>Wrong answers</h2><details><summary>{note}</summary>{table}</details>"


def render_cells(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A section that is a plain table; nothing without rows."""
    lines = [[f"<td>{escape(cell)}" for cell in cells] for cells in rows]
    return f"<h2>{title}</h2>{render_table(heads, lines)}" if rows else ""


def render_method() -> str:
    """How it was measured."""
    items = "".join(f"<li>{escape(line)}</li>" for line in views.METHOD)
    return f'<h2>How this was measured</h2><ul class="soft">{items}</ul>'
