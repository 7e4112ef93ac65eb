"""The figures in words: what the model learned, what it broke, and with what certainty."""

from evaluation.model_names import choose_tuned

SMALLEST_SET = 100  # below this, an interval is too wide to call a figure settled


def pick_primary(figures: dict) -> dict:
    """One item per abbreviation where a split asks several times, else the whole split."""
    return figures.get("primary") or figures


def write_verdict(report: dict) -> list[str]:
    """Plain sentences; the first is the headline."""
    name = choose_tuned(report) or next(iter(report["models"]), None)
    if name is None:
        return ["Nothing was evaluated."]
    splits = report["models"][name]["splits"]
    base = report["models"].get("base", {}).get("splits", {}) if name != "base" else {}
    return [
        describe_headline(name, splits),
        *describe_splits(splits, base),
        *describe_drift(splits),
        *describe_doubts(splits, report),
    ]


def describe_headline(name: str, splits: dict) -> str:
    """ "The adapter grounds 98 % of trained abbreviations; invents for 41 % of unknown ones"."""
    parts = []
    for split, metric, text in (
        ("seen", "grounding", "grounds {} of trained abbreviations"),
        ("casual", "grounding", "{} of them when asked as people type"),
        ("unseen", "invention", "invents for {} of the abbreviations it was never taught"),
        ("made_up", "invention", "invents for {} of made-up ones"),
        ("general_seen", "grounding", "keeps {} of the general senses it was shown"),
    ):
        share = pick_primary(splits.get(split, {})).get(metric)
        if share and share["n"]:
            parts.append(text.format(percent(share["value"])))
    if not parts:
        ranked = [s["ranking_accuracy"] for s in splits.values() if s.get("ranking_accuracy")]
        ranked = [share for share in ranked if share["n"]]
        parts = [f"prefers the better answer in {percent(s['value'])} of pairs" for s in ranked]
    return f"The {name} model " + ("; ".join(parts) or "was not asked anything") + "."


def describe_splits(splits: dict, base: dict) -> list[str]:
    """Sentences about strictness, confusion, general senses, polysemy, locality, displacement."""
    lines = []
    seen = pick_primary(splits.get("seen", {}))
    if seen.get("grounding", {}).get("n"):
        before = pick_primary(base.get("seen", {})).get("grounding")
        was = f" (base: {percent(before['value'])})" if before and before["n"] else ""
        lines.append(
            f"Trained abbreviations: right in {show(seen['grounding'])}{was}; right at once and "
            f"alone in {percent(seen['strict_grounding']['value'])}; another field's sense in "
            f"{percent(seen['confusion']['value'])}."
        )
    for split, text in (
        ("general_seen", "General senses, taught: the right one chosen in"),
        ("general_unseen", "General senses, never taught: the right one chosen in"),
        ("polysemy", "Several oil and gas senses: the one the context fixes chosen in"),
        ("locality", "Acronyms next door: the right expansion chosen in"),
    ):
        lines += describe_choice(text, splits.get(split, {}), base.get(split, {}))
    fallen = [
        f"{split} {percent(figures['displaced']['value'])}"
        for split, figures in splits.items()
        if figures.get("displaced", {}).get("value")
    ]
    if fallen:
        lines.append(f"Better answers less likely than before training: {', '.join(fallen)}.")
    return lines


def describe_choice(text: str, figures: dict, base: dict) -> list[str]:
    """One sentence about a forced choice, with the base's figure."""
    share = figures.get("forced_choice")
    if not share or not share["n"]:
        return []
    before = base.get("forced_choice")
    was = f" (base: {percent(before['value'])})" if before and before["n"] else ""
    agreed = figures.get("choice_agreement")
    more = f"; it agrees with the base in {percent(agreed['value'])}" if agreed else ""
    return [f"{text} {show(share)}{was}{more}."]


def describe_drift(splits: dict) -> list[str]:
    """One sentence about neutral text."""
    lines = []
    for figures in splits.values():
        ratio = figures.get("perplexity_ratio")
        if ratio:
            kl = figures.get("kl_per_token")
            more = f", KL {kl['value']:.3f} nats a token" if kl else ""
            kept = "little was forgotten" if ratio["value"] <= 1.05 else "it forgets"
            lines.append(
                f"On neutral text its perplexity is {ratio['value']:.3f} times the base's "
                f"({ratio['low']:.3f} to {ratio['high']:.3f}{more}): {kept}."
            )
    return lines


def describe_doubts(splits: dict, report: dict) -> list[str]:
    """What the figures cannot show: small sets, missing base, missing splits."""
    lines = []
    told = [figures.get(name) for figures in splits.values() for name in ("grounding", "invention")]
    if splits and not any(share and share["n"] for share in told):
        lines.append(
            "Nothing was asked freely, since no test row lists the expansions that count as right: "
            'add them, as in "accepted": ["Dynamic Positioning"].'
        )
    small = [f"{name} ({s['n']})" for name, s in splits.items() if 0 < s["n"] < SMALLEST_SET]
    if small:
        lines.append(f"Small sets, wide intervals: {', '.join(small)}.")
    if "base" not in report["models"]:
        lines.append("The base model is not in this report: nothing here says what training did.")
    missing = [name for name in ("unseen", "made_up", "drift") if name not in splits]
    if missing:
        lines.append(f"Not measured: {', '.join(missing)} (add them to test_files).")
    return lines


def percent(value: float | None) -> str:
    """0.978 as "97.8 %"; whole numbers without the point."""
    if value is None:
        return "-"
    text = f"{100 * value:.1f}"
    return f"{text.removesuffix('.0')} %"


def show(share: dict) -> str:
    """A share with its interval and count."""
    low, high = percent(share["low"]), percent(share["high"])
    return f"{percent(share['value'])} (95 % interval {low} to {high}, n={share['n']})"
