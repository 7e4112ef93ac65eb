"""Which merge to keep, and the report that says why. No torch: all of it testable."""

from config import Config, show_path
from errors import UserError
from statistics_of_runs import Share

STRATEGIES = ("original", "dequantized")


def list_strategies(config: Config, wanted: str) -> list[str]:
    """The strategies to try; a base trained in 16 bit has only `original`.

    Raises:
        UserError: `dequantized` is asked for and the run's base was not quantised.
    """
    if wanted == "dequantized" and not config.load_in_4bit:
        raise UserError(
            "merge_strategy: dequantized needs a run with load_in_4bit; use original or auto"
        )
    if wanted != "auto":
        return [wanted]
    return list(STRATEGIES) if config.load_in_4bit else ["original"]


def choose_strategy(measured: dict[str, dict], limit: float) -> tuple[str, str]:
    """(strategy, why): within the limit the best grounded, then least drift, then lowest KL.

    Args:
        measured: per strategy its mean_kl, grounding and drift.
        limit: merge_max_kl, nats per token.

    Raises:
        UserError: every strategy is above the limit, or has no finite KL.
    """
    within = [name for name in measured if measured[name]["mean_kl"] <= limit]
    if not within:
        found = ", ".join(f"{name} {m['mean_kl']:.3g}" for name, m in measured.items())
        left = [name for name in STRATEGIES if name not in measured]
        hint = f"try --strategy {left[0]}, or " if left else ""
        raise UserError(
            f"merge_max_kl: mean KL per token from the trained model is {found} nats, above "
            f"{limit:g}; {hint}allow more with --max_kl, or train longer with a smaller "
            "learning_rate; nothing was written"
        )
    best = min(within, key=lambda name: rank(measured[name]))
    return best, explain(best, within, measured, limit)


def rank(figures: dict) -> tuple[float, float, float]:
    """Lower is better: grounding accuracy, then drift, then KL."""
    return -(figures["grounding"]["value"] or 0.0), figures["drift"] or 0.0, figures["mean_kl"]


def explain(best: str, within: list[str], measured: dict[str, dict], limit: float) -> str:
    """One sentence on why `best` was taken."""
    others = [name for name in within if name != best]
    if not others:
        above = [name for name in measured if name not in within]
        rest = f" (above it: {', '.join(above)})" if above else ""
        return f"{best} is within merge_max_kl {limit:g}{rest}"
    ours, theirs = rank(measured[best]), rank(measured[others[0]])
    labels = ("grounding accuracy is higher", "drift is lower", "KL is lower")
    reason = next(
        (label for a, b, label in zip(ours, theirs, labels, strict=True) if a < b), "it comes first"
    )
    return f"{best} and {others[0]} are within merge_max_kl {limit:g}; of {best} the {reason}"


def render_report(report: dict) -> str:
    """merge_report.md: a row per strategy under the trained model's own figures."""
    trained = report["trained"]
    lines = [
        f"# Merge of {report['adapter']}",
        "",
        f"Chosen: **{report['strategy']}**. {report['reason']}.",
        "",
        f"Against the trained model (the adapter on its {report['base_format']} base), on "
        f"{report['sample']['pairs']} items of {report['sample']['source']}, "
        f"{report['device']}. KL in nats per answer token; drift is the perplexity on "
        f"{report['sample']['passages']} neutral passages over the untrained base's.",
        "",
        "| | mean KL | max KL | top-1 agreement | largest logit difference "
        "| grounding | drift | size |",
        "|---|---|---|---|---|---|---|---|",
        f"| trained model | 0 | 0 | 100 % | 0 | {show_share(trained['grounding'])} "
        f"| {show_number(trained['drift'])} | - |",
    ]
    for name, figures in report["strategies"].items():
        lines.append(
            f"| {name} | {figures['mean_kl']:.2g} | {figures['max_kl']:.2g} "
            f"| {figures['top1_agreement']:.1%} | {figures['largest_logit_difference']:.3g} "
            f"| {show_share(figures['grounding'])} | {show_number(figures['drift'])} "
            f"| {figures['bytes'] / 1e6:,.0f} MB |"
        )
    return "\n".join([*lines, ""])


def show_share(share: dict) -> str:
    """A proportion with its interval."""
    return str(Share(**share))


def show_number(value: float | None) -> str:
    """Two decimals, or a dash."""
    return "-" if value is None else f"{value:.3f}"


def describe_run(run_folder, config: Config) -> dict:
    """What was merged, as the report names it."""
    return {
        "adapter": show_path(run_folder),
        "base": config.model_name,
        "base_format": config.bnb_4bit_quant_type.upper() if config.load_in_4bit else "16-bit",
    }
