"""What the notebook shows: small tables and one coloured pair. Nothing is computed here."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

import pandas as pd

from config import Config
from preferences import Pair
from statistics_of_runs import Share

COLOURS = {"prompt": "#5b6b7b", "chosen": "#1a7f4b", "rejected": "#b3403a"}


class Html:
    """A piece of HTML that Jupyter shows, with a plain form for other front ends."""

    def __init__(self, html: str, text: str) -> None:
        self.html, self.text = html, text

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        return self.text


def view_changes(config: Config) -> pd.DataFrame:
    """Keys whose value differs from the default, with the default and the meaning."""
    rows = []
    for name, field in Config.model_fields.items():
        value = getattr(config, name)
        if value != field.default:
            rows.append((name, shorten(value), shorten(field.default), field.description))
    return pd.DataFrame(rows, columns=["key", "this run", "default", "meaning"]).set_index("key")


def shorten(value: object, width: int = 60) -> str:
    """A value as text of limited width."""
    text = str(value)
    return text if len(text) <= width else text[: width - 1] + "…"


def view_pair(pair: Pair, tokenizer) -> Html:
    """One pair as the model sees it: the shared prompt once, then both answers."""
    from prompt_contract import answer_ending, render_text

    ending = answer_ending(tokenizer)
    parts = {
        "prompt": render_text(tokenizer, pair.prompt),
        "chosen": pair.chosen + ending,
        "rejected": pair.rejected + ending,
    }
    html = "".join(
        f'<p style="margin:2px 0"><b style="color:{COLOURS[name]}">{name}</b></p>'
        f'<pre style="white-space:pre-wrap;border-left:3px solid {COLOURS[name]};'
        f'padding-left:8px;margin:2px 0 8px">{escape(text)}</pre>'
        for name, text in parts.items()
    )
    return Html(html, "\n".join(f"{name}: {text}" for name, text in parts.items()))


def view_answers(prompts: Sequence[str], **answers: Sequence[str]) -> pd.DataFrame:
    """Questions with one column of answers per model."""
    frame = pd.DataFrame({"question": list(prompts)} | {k: list(v) for k, v in answers.items()})
    return frame.set_index("question")


def view_shares(reports: Sequence[dict]) -> pd.DataFrame:
    """Headline shares of every model and split in the reports, with 95 % intervals.

    Columns that no split has are left out; neutral text shows its perplexity ratio instead.
    """
    columns = {
        "says the right expansion": "grounding",
        "names another field's": "confusion",
        "says it does not know": "abstention",
        "invents one": "invention",
        "prefers the right one": "forced_choice",
        "ranks the better answer first": "ranking_accuracy",
    }
    rows = []
    for report in reports:
        for name, model in report["models"].items():
            for split, figures in model["splits"].items():
                shares = {label: view_share(figures.get(key)) for label, key in columns.items()}
                ratio = figures.get("perplexity_ratio")
                shares["perplexity, times the base's"] = f"{ratio['value']:.3f}" if ratio else "-"
                rows.append({"model": name, "split": split, **shares})
    frame = pd.DataFrame(rows).set_index(["model", "split"])
    return frame.loc[:, (frame != "-").any()]


def view_share(share: dict | None) -> str:
    """One share with its interval, or "-"."""
    return str(Share(**share)) if share and share["n"] else "-"


def view_picture(file: Path):
    """A PNG of the run, shown inline."""
    from IPython.display import Image

    return Image(filename=str(file))
