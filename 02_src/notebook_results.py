"""What the notebook shows of a run: prediction and outcome, evaluation, merge, a second run."""

import itertools
import statistics
from collections.abc import Sequence

import pandas as pd

from checkpoints import Run
from evaluation.views import (
    METRIC_LABELS,
    count_confusions,
    label_split,
    list_all_figures,
    sample_answers,
)
from grounding import CONFUSED, GROUNDED, INVENTED
from hardware import GIB
from notebook_views import GREEN, GREY, RED, Html, build_table, count_steps
from run_log import read_metrics, select_series
from statistics_of_runs import Share

HEADLINE = {
    "says the right expansion": "grounding",
    "names another field's": "confusion",
    "says it does not know": "abstention",
    "invents one": "invention",
    "prefers the right one": "forced_choice",
    "ranks the better answer first": "ranking_accuracy",
}
FIRST_AND_LAST = {
    "loss": "loss",
    "rewards/chosen": "reward of the chosen answer",
    "rewards/rejected": "reward of the rejected answer",
    "rewards/margins": "reward margin",
    "rewards/accuracies": "reward accuracy",
    "logps/chosen": "log p chosen, nats",
    "logps/rejected": "log p rejected, nats",
}
NOTHING_ASKED = "No test row lists accepted answers: nothing was asked, pairs were only ranked."
OUTCOME_COLOURS = {GROUNDED: GREEN, CONFUSED: RED, INVENTED: RED}


def view_outcome(planned, run: Run, pairs: int, device_kind: str) -> Html:
    """The prediction beside what then happened."""
    records = read_metrics(run.log_folder)
    plan = planned.plan
    peak = max((r["memory_gib"] for r in records if r.get("memory_gib")), default=None)
    expected = (plan.peak if device_kind == "cuda" else plan.process) / GIB  # as it is logged
    steps = count_steps(planned.config, pairs) - run.resumed_at
    step = measure_step(records)
    rows = [
        compare("memory at the peak, GiB", expected, peak, ".2f"),
        compare("seconds a step, median", plan.step_seconds, step, ".2f"),
        compare("minutes; measured with validation", steps * plan.step_seconds / 60,
                run.seconds / 60, ".1f"),
    ]  # fmt: skip
    if peak is None or step is None:
        return build_table(rows, "This run's log is too short to compare.")
    pace = step / plan.step_seconds
    text = f"Memory was {peak / expected:.0%} of what was predicted, a step took {pace:.0%}."
    return build_table(rows, text)


def compare(name: str, expected: float | None, found: float | None, form: str) -> dict:
    """One row of prediction and measurement."""
    shown = [format(value, form) if value is not None else "-" for value in (expected, found)]
    return {"": name, "predicted": shown[0], "measured": shown[1]}


def measure_step(records: Sequence[dict]) -> float | None:
    """Median seconds of a step between two training records with no validation between them."""
    marks = [(r["step"], r["seconds"], "loss" in r) for r in records if "seconds" in r]
    found = [
        (b[1] - a[1]) / (b[0] - a[0])
        for a, b in itertools.pairwise(marks)
        if a[2] and b[2] and b[0] > a[0] and b[1] > a[1]
    ]
    return statistics.median(found) if found else None


def view_training(run: Run, beta: float) -> Html:
    """First and last figures of the training, and what they say.

    Args:
        beta: of the run; its rewards are beta times a change of log p.
    """
    records = read_metrics(run.log_folder)
    rows, last = [], {}
    for name, label in FIRST_AND_LAST.items():
        _, values = select_series(records, name)
        if values:
            last[name] = values[-1]
            rows.append({"": label, "first": f"{values[0]:.2f}", "last": f"{values[-1]:.2f}"})
    moved, margin = last["rewards/chosen"] / beta, last["rewards/margins"]
    good = moved > 0 and margin > 0
    return build_table(
        rows,
        f"The margin ended at {margin:.1f}, and against the reference the chosen answers' log p "
        f"moved {moved:+.1f} nats: they are {'' if good else 'not '}both told apart and learned.",
    )


def view_shares(reports: Sequence[dict]) -> pd.DataFrame:
    """Headline shares of every model and split in the reports, with 95 % intervals.

    Columns that no split has are left out; neutral text shows its perplexity ratio instead.
    """
    rows = []
    for report in reports:
        for name, model in report["models"].items():
            for split, figures in model["splits"].items():
                shares = {label: view_share(figures.get(key)) for label, key in HEADLINE.items()}
                ratio = figures.get("perplexity_ratio")
                shares["perplexity, times the base's"] = f"{ratio['value']:.3f}" if ratio else "-"
                rows.append({"model": name, "split": split, **shares})
    frame = pd.DataFrame(rows).set_index(["model", "split"])
    return frame.loc[:, (frame != "-").any()]


def view_share(share: dict | None) -> str:
    """One share with its interval, or "-"."""
    return str(Share(**share)) if share and share["n"] else "-"


def view_report(report: dict) -> Html:
    """The held-out shares as a table, and the report's own first sentences."""
    frame = view_shares([report]).reset_index()
    frame["split"] = [label_split(name) for name in frame["split"]]
    lines, models = frame.to_dict("records"), list(report["models"])
    rows = []  # a line for each figure: with a column for each, the table is wider than a page
    for split, name in itertools.product(dict.fromkeys(frame["split"]), frame.columns[2:]):
        found = {line["model"]: line[name] for line in lines if line["split"] == split}
        shown = {model: found.get(model, "-") for model in models}
        if set(shown.values()) != {"-"}:
            rows.append({"split": split, "figure": name, **shown})
    return build_table(rows, report["verdict"][0])


def view_before_after(records: Sequence[dict]) -> Html:
    """The same questions to base and adapter: evenly spaced over the splits, nobody's choice."""
    rows, colours, turned = [], [], 0
    for group in sample_answers(records, ("base", "adapter")):
        base, adapter = group["base"], group["adapter"]
        expected = (adapter["accepted"] or ["-"])[0]
        rows.append(
            {"question": adapter["instruction"], "expected": expected, "base": base["answer"],
             "adapter": adapter["answer"]}
        )  # fmt: skip
        colours.append(OUTCOME_COLOURS.get(adapter["outcome"], GREY))
        turned += adapter["outcome"] == GROUNDED and base["outcome"] != GROUNDED
    if not rows:
        return build_table([], NOTHING_ASKED)
    return build_table(rows, f"{turned} of these {len(rows)} went from wrong to right.", colours)


def view_confusions(records: Sequence[dict]) -> Html:
    """Which other sense was said, by base and adapter, the commonest first."""
    rows, totals = [], {}
    for model in ("base", "adapter"):
        found = count_confusions(records, model)
        totals[model] = sum(times for *_, times in found)
        rows += [
            {"model": model, "abbreviation": name, "right": right, "said instead": said,
             "times": times}
            for name, right, said, times in found
        ]  # fmt: skip
    asked = {m: sum(r["model"] == m and "answer" in r for r in records) for m in totals}
    text = "; ".join(
        f"{model}: another field's sense in {totals[model]} of {asked[model]} answers"
        for model in totals
    )
    return build_table(rows, f"{text[0].upper()}{text[1:]}.")


def view_losses(report: dict) -> Html:
    """Every figure that training made worse, and the drift on neutral text."""
    rows = []
    for row in list_all_figures(report):
        label, better = METRIC_LABELS[row.metric]
        base, adapter = (row.shares.get(name) for name in ("base", "adapter"))
        if base and adapter and is_worse(base["value"], adapter["value"], better):
            rows.append({"on": label_split(row.split), "what": label, "base": view_share(base),
                         "adapter": view_share(adapter)})  # fmt: skip
    count = len(rows)
    rows += list_drift(report)
    worse = {0: "No share of answers is", 1: "1 share is"}.get(count, f"{count} shares are")
    verdict = [line for line in report["verdict"] if "perplexity" in line or "less likely" in line]
    return build_table(rows, " ".join([f"{worse} worse than the base's.", *verdict]))


def is_worse(base: float, adapter: float, better: str) -> bool:
    """Whether a share moved the wrong way; one without a better direction never did."""
    return adapter < base if better == "higher" else adapter > base if better == "lower" else False


def list_drift(report: dict) -> list[dict]:
    """Perplexity on neutral text of base and adapter, where it was measured."""
    rows = []
    for split, figures in report["models"]["adapter"]["splits"].items():
        before = report["models"]["base"]["splits"].get(split, {}).get("perplexity")
        if before and figures.get("perplexity"):
            rows.append({"on": label_split(split), "what": "perplexity", "base": f"{before:.1f}",
                         "adapter": f"{figures['perplexity']:.1f}"})  # fmt: skip
    return rows


def view_merge(report: dict) -> Html:
    """One row per way to merge, under the trained model's own figures."""
    trained = report["trained"]
    rows = [
        {"model": "trained: adapter on its 4-bit base", "mean KL": "0", "same top token": "100 %",
         "says the right expansion": view_share(trained["grounding"]),
         "drift": show_ratio(trained["drift"]), "MB": "-"}
    ]  # fmt: skip
    rows += [
        {"model": f"merged, {name}", "mean KL": f"{found['mean_kl']:.2g}",
         "same top token": f"{found['top1_agreement']:.1%}",
         "says the right expansion": view_share(found["grounding"]),
         "drift": show_ratio(found["drift"]), "MB": f"{found['bytes'] / 1e6:,.0f}"}
        for name, found in report["strategies"].items()
    ]  # fmt: skip
    return build_table(rows, f"Chosen: {report['strategy']}. {report['reason']}.")


def show_ratio(value: float | None) -> str:
    """A perplexity ratio, or a dash."""
    return "-" if value is None else f"{value:.3f}"
