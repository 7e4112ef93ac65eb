"""What the reports show, taken from figures and records: the same rows for HTML and Markdown."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from evaluation.verdict import pick_primary
from grounding import CONFUSED, GROUNDED, INVENTED

SHOWN_ANSWERS = 12
SHOWN_WRONG = 60
SHOWN_CONFUSIONS = 20

# metric -> (what it says, which way is better)
METRIC_LABELS = {
    "grounding": ("says the right expansion", "higher"),
    "strict_grounding": ("says it at once, and no other", "higher"),
    "confusion": ("names another field's sense", "lower"),
    "abstention": ("says it does not know", ""),
    "invention": ("invents an expansion", "lower"),
    "forced_choice": ("prefers the right sense", "higher"),
    "forced_choice_per_byte": ("prefers it, per byte", "higher"),
    "context_pair": ("right in every context of it", "higher"),
    "choice_agreement": ("chooses as the base does", "higher"),
    "ranking_accuracy": ("ranks the better answer first", "higher"),
    "reward_accuracy": ("reward ranks it first", "higher"),
    "displaced": ("better answer became less likely", "lower"),
}
GENERAL = ("grounding", "forced_choice", "context_pair")
HEADLINE = {
    "seen": ("grounding", "strict_grounding", "confusion", "forced_choice"),
    "casual": ("grounding", "strict_grounding", "confusion"),
    "validation": ("grounding", "strict_grounding", "confusion"),
    "unseen": ("invention", "abstention", "grounding", "forced_choice"),
    "general_seen": GENERAL,
    "general_unseen": GENERAL,
    "polysemy": GENERAL,
    "made_up": ("invention", "abstention"),
    "locality": ("forced_choice", "choice_agreement"),
}
SPLIT_LABELS = {
    "seen": "Trained abbreviations, new wordings",
    "casual": "Trained abbreviations, asked as people type",
    "validation": "Validation",
    "unseen": "Abbreviations never taught",
    "general_seen": "General senses, taught",
    "general_unseen": "General senses, never taught",
    "polysemy": "Several oil and gas senses, context decides",
    "made_up": "Made-up abbreviations",
    "locality": "Acronyms next door",
    "drift": "Neutral text",
}
DEFAULT_METRICS = ("grounding", "ranking_accuracy", "reward_accuracy")
Records = Sequence[dict]


@dataclass(frozen=True)
class Row:
    """One line of the headline table: a metric on a split, for every model."""

    split: str
    metric: str
    shares: dict[str, dict]  # model -> share


def label_split(name: str) -> str:
    """A split as a reader knows it."""
    return SPLIT_LABELS.get(name, name)


def label_model(name: str) -> str:
    """A model as a reader knows it."""
    return name.replace("_", " ")


def list_splits(report: dict) -> list[str]:
    """Splits of all models, in the order of the config."""
    splits = [split for model in report["models"].values() for split in model["splits"]]
    return list(dict.fromkeys(splits))


def list_headline(report: dict) -> list[Row]:
    """The rows of the headline table: what matters on each split."""
    rows = []
    for split in list_splits(report):
        for metric in HEADLINE.get(split, DEFAULT_METRICS):
            row = find_row(report, split, metric, primary=True)
            if row.shares:
                rows.append(row)
    return rows


def list_all_figures(report: dict) -> list[Row]:
    """Every share on every split, all items counted."""
    rows = [
        find_row(report, split, m, False) for split in list_splits(report) for m in METRIC_LABELS
    ]
    return [row for row in rows if row.shares]


def find_row(report: dict, split: str, metric: str, primary: bool) -> Row:
    """One metric on one split; models that lack it are left out."""
    shares = {}
    for name, model in report["models"].items():
        figures = model["splits"].get(split, {})
        share = (pick_primary(figures) if primary else figures).get(metric) or figures.get(metric)
        if share and share["n"]:
            shares[name] = share
    return Row(split, metric, shares)


def group_answers(records: Records) -> list[dict[str, dict]]:
    """Answered questions in order, each as {model: record}."""
    by_item: dict[tuple, dict[str, dict]] = {}
    for record in records:
        if "answer" in record:
            key = (record["split"], record["item"])
            by_item.setdefault(key, {})[record["model"]] = record
    return list(by_item.values())


def sample_answers(records: Records, models: Sequence[str]) -> list[dict[str, dict]]:
    """Questions that all `models` answered: evenly spaced, nobody's choice, all splits served."""
    groups = [g for g in group_answers(records) if all(model in g for model in models)]
    splits = list(dict.fromkeys(next(iter(g.values()))["split"] for g in groups))
    sample = []
    for split in splits:
        members = [g for g in groups if next(iter(g.values()))["split"] == split]
        count = min(len(members), max(3, SHOWN_ANSWERS // len(splits)))
        sample += [members[index * len(members) // count] for index in range(count)]
    return sample


def list_wrong(records: Records, model: str) -> list[dict]:
    """Answers of `model` that are wrong: another sense, nothing, or an invention."""
    asked = [r for r in records if r["model"] == model and "answer" in r]
    return [r for r in asked if is_wrong(r)]


def is_wrong(record: dict) -> bool:
    """Not grounded; where nothing is right (made-up, or never taught), only an invention."""
    if not record["accepted"] or record["split"] == "unseen":
        return record["outcome"] in (INVENTED, CONFUSED)
    return record["outcome"] != GROUNDED


def count_confusions(records: Records, model: str) -> list[tuple[str, str, str, int]]:
    """(abbreviation, expected, said instead, times), the commonest first."""
    confused = [r for r in records if r["model"] == model and r.get("outcome") == CONFUSED]
    counts = Counter(
        (r["abbreviation"] or "", (r["accepted"] or ["-"])[0], r["matched"]) for r in confused
    )
    return [(*key, times) for key, times in counts.most_common(SHOWN_CONFUSIONS)]


def describe_limits(report: dict) -> str:
    """How many items of what were used."""
    splits = {s: f["n"] for m in report["models"].values() for s, f in m["splits"].items()}
    counts = ", ".join(f"{name} {n}" for name, n in splits.items())
    limit = report.get("limit")
    bound = f"at most {limit} a split (eval_limit or --limit)" if limit else "all there are"
    return f"Items: {counts}; {bound}."


METHOD = (
    "Answers are greedy, under the run's chat template. An answer gets the first outcome that "
    "fits: a right expansion stands in it (as whole words; case, hyphens and a plural s aside); "
    "another sense; it says it does not know and names nothing; else it invents.",
    "At once, and no other: right in the first sentence, no other sense or second expansion "
    "anywhere, and the question did not print it.",
    'Prefers the right sense: "X stands for right." has the higher log-probability than '
    '"X stands for other.", summed over tokens.',
    "Intervals: Wilson, 95 %; where a split asks about an abbreviation several times, the headline "
    "counts its first question only. Comparisons: exact McNemar, and a bootstrap of 10,000 "
    "draws of whole abbreviations.",
    "One run shows one seed: a claim about a recipe needs three.",
)
