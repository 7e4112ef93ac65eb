"""The plain tables that end a report: drift, rewards and lengths, paired comparisons."""

from collections.abc import Sequence

from evaluation.views import METRIC_LABELS, label_model

REWARD_HEADS = (
    "split",
    "n",
    "reward margin",
    "change of log p(better), nats",
    "answer length / base",
)
DRIFT_HEADS = ("model", "tokens", "perplexity", "ratio to the base", "KL per token (nats)")
COMPARISON_HEADS = (
    "split",
    "metric",
    "first",
    "second",
    "n",
    "difference",
    "only first / second",
    "p",
)


def list_tables(report: dict, tuned: str) -> list[tuple[str, Sequence[str], list]]:
    """(title, heads, rows) of the plain tables that end a report."""
    rewards = describe_rewards(report, tuned)
    return [
        ("Drift on neutral text", DRIFT_HEADS, describe_drift(list_drift(report))),
        (f"Reward, likelihood and length, {label_model(tuned)}", REWARD_HEADS, rewards),
        ("Paired comparisons", COMPARISON_HEADS, describe_comparisons(report)),
    ]


def list_drift(report: dict) -> list[tuple[str, dict]]:
    """(model, figures) of the neutral text."""
    return [
        (name, figures)
        for name, model in report["models"].items()
        for figures in model["splits"].values()
        if "perplexity" in figures
    ]


def describe_drift(rows: Sequence[tuple[str, dict]]) -> list[tuple[str, ...]]:
    """Cells of the drift table."""
    return [
        (
            name,
            f"{figures['tokens']:,}",
            f"{figures['perplexity']:.2f}",
            show_estimate(figures.get("perplexity_ratio")),
            show_estimate(figures.get("kl_per_token")),
        )
        for name, figures in rows
    ]


def describe_rewards(report: dict, model: str) -> list[tuple[str, ...]]:
    """Cells of the table of rewards, likelihood and length."""
    rows = []
    for split, figures in report["models"][model]["splits"].items():
        margin, change = figures.get("reward_margin"), figures.get("chosen_logp_change")
        ratio = figures.get("length_ratio")
        if margin is not None or ratio:
            shown = [format(x, "+.2f") if x is not None else "-" for x in (margin, change)]
            rows.append((split, str(figures["n"]), *shown, show_estimate(ratio)))
    return rows


def describe_comparisons(report: dict) -> list[tuple[str, ...]]:
    """Cells of the comparison table."""
    return [
        (
            c["split"],
            METRIC_LABELS[c["metric"]][0],
            c["first"],
            c["second"],
            str(c["n"]),
            show_estimate(c["difference"], "+.3f"),
            f"{c['only_first']} / {c['only_second']}",
            f"{c['p']:.2g}",
        )
        for c in report.get("comparisons", [])
    ]


def show_estimate(estimate: dict | None, form: str = ".3f") -> str:
    """A figure with its interval."""
    if not estimate:
        return "-"
    value, low, high = (format(estimate[key], form) for key in ("value", "low", "high"))
    return f"{value} ({low} to {high})"
