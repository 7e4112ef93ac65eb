"""Small charts as inline SVG: they need no script, no network, and follow the page's colours."""

from collections.abc import Sequence
from html import escape

OUTCOMES = ("grounding", "confusion", "abstention", "invention")
OUTCOME_WORDS = ("right expansion", "another sense", "does not know", "invents")
WIDTH, BAR = 620, 18
LEFT = 250  # room for labels


def draw_interval(share: dict, tuned: bool) -> str:
    """One share as a bar with its interval: a table cell's picture."""
    low, high, value = (100 * share[key] for key in ("low", "high", "value"))
    kind = "tuned" if tuned else "base"
    return (
        f'<svg class="cell" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect class="track" width="100" height="8"/>'
        f'<rect class="{kind}" width="{value:.1f}" height="8"/>'
        f'<rect class="whisker" x="{low:.1f}" y="3.2" width="{max(high - low, 0.6):.1f}" '
        'height="1.6"/></svg>'
    )


def draw_outcomes(rows: Sequence[tuple[str, dict]]) -> str:
    """Stacked bars of the four outcomes, a row each: (label, figures)."""
    height = len(rows) * (BAR + 10)
    parts = [open_svg(height, "Outcomes of generated answers")]
    for index, (label, figures) in enumerate(rows):
        top, left = index * (BAR + 10) + 4, float(LEFT)
        parts.append(draw_label(label, top))
        for name, words in zip(OUTCOMES, OUTCOME_WORDS, strict=True):
            share = figures[name]
            width = (share["value"] or 0.0) * (WIDTH - LEFT)
            if width:
                parts.append(draw_block(name, left, top, width, f"{words}: {share['value']:.1%}"))
            left += width
    return "".join([*parts, "</svg>"])


def draw_block(name: str, left: float, top: float, width: float, title: str) -> str:
    """One outcome's part of a bar, with its share written in where there is room."""
    share = title.rsplit(": ", 1)[1]
    text = ""
    if width > 44:
        text = f'<text class="in" x="{left + width / 2:.1f}" y="{top + 13}">{share}</text>'
    return (
        f'<rect class="{name}" x="{left:.1f}" y="{top}" width="{width:.1f}" height="{BAR}">'
        f"<title>{escape(title)}</title></rect>{text}"
    )


def draw_categories(rows: Sequence[tuple[str, dict | None, dict]]) -> str:
    """Bars of a share per category: (label, base's share or None, tuned share)."""
    height = len(rows) * (BAR + 10)
    scale = WIDTH - LEFT - 60
    parts = [open_svg(height, "Right expansions per category")]
    for index, (label, base, tuned) in enumerate(rows):
        top = index * (BAR + 10) + 4
        parts.append(draw_label(f"{label} (n={tuned['n']})", top))
        parts.append(f'<rect class="track" x="{LEFT}" y="{top}" width="{scale}" height="{BAR}"/>')
        half = BAR / 2
        for share, kind, y in ((tuned, "tuned", top), (base, "base", top + half)):
            if share and share["n"]:
                width = share["value"] * scale
                parts.append(
                    f'<rect class="{kind}" x="{LEFT}" y="{y}" width="{width:.1f}" height="{half}"/>'
                )
        low, high = tuned["low"] * scale + LEFT, tuned["high"] * scale + LEFT
        parts.append(
            f'<rect class="whisker" x="{low:.1f}" y="{top + 4}" width="{high - low:.1f}" '
            'height="1.5"/>'
            f'<text x="{WIDTH - 52}" y="{top + 13}">{tuned["value"]:.1%}</text>'
        )
    return "".join([*parts, "</svg>"])


def open_svg(height: int, title: str) -> str:
    """The start of a chart."""
    return f'<svg class="chart" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{title}">'


def draw_label(text: str, top: float) -> str:
    """A row's label, right-aligned before its bar."""
    return f'<text class="label" x="{LEFT - 8}" y="{top + 13}">{escape(text)}</text>'
