"""Figures of one model on one split, from its records. No model, no torch: all of it testable.

Definitions. Ranking accuracy: log p(chosen) > log p(rejected). Reward: beta times the change of
log p against the reference, as TRL logs it (Rafailov et al. 2023, arXiv 2305.18290, section 4).
Displacement: the chosen answer became less likely than under the reference (Razin et al. 2024,
arXiv 2410.08847). Forced choice: log p("X stands for gold.") > log p("X stands for competing.").
"""

import math
from collections import defaultdict
from collections.abc import Sequence

from grounding import Judgement, summarize_judgements
from statistics_of_runs import bootstrap_ratio, share_of, wilson

GROUPINGS = ("category", "kind", "phrasing")
SENSE_METRICS = ("grounding", "confusion", "strict_grounding")  # need an accepted expansion
Records = Sequence[dict]


def summarize_set(
    records: Records, base: Records = (), seen: Records = (), beta: float = 0.1
) -> dict:
    """All figures of one model on one split.

    Args:
        records: the model's records of the split.
        base: the base model's records of it, where there are any.
        seen: the same model's records of the split `seen`, for context pairs.
        beta: DPO beta of the run, for rewards.
    """
    if records and "nll" in records[0]:
        return {"n": len(records), **summarize_answers([]), **summarize_drift(records, base)}
    figures = {"n": len(records), **summarize_answers(records), **summarize_ranking(records)}
    figures |= summarize_choices(records, base, seen)
    figures |= summarize_rewards(records, base, beta) | summarize_lengths(records, base)
    first = keep_first(records)
    if 0 < len(first) < len(records):
        figures["primary"] = summarize_answers(first) | summarize_choices(first, base, seen)
    return {**figures, "groups": summarize_groups(records)}


def summarize_answers(records: Records) -> dict:
    """Shares of the outcomes of generated answers; n is 0 where a share means nothing."""
    asked = [record for record in records if record.get("outcome")]
    judgements = [Judgement(r["outcome"], r["strict"], r["matched"]) for r in asked]
    shares = summarize_judgements(judgements)
    if not any(record["accepted"] for record in asked):
        shares |= dict.fromkeys(SENSE_METRICS, wilson(0, 0))
    return {name: share.to_dict() for name, share in shares.items()}


def summarize_ranking(records: Records) -> dict:
    """Share of pairs whose chosen answer is the likelier one."""
    scored = [r for r in records if r.get("chosen_logp") is not None]
    return {
        "ranking_accuracy": share_of(
            [r["chosen_logp"] > r["rejected_logp"] for r in scored]
        ).to_dict()
    }


def summarize_choices(records: Records, base: Records, seen: Records) -> dict:
    """Forced choice, its pairs across contexts, and agreement with the base's choices."""
    chose = [r for r in records if "choice_margin" in r]
    if not chose:
        return {}
    figures = {
        "forced_choice": share_of([r["choice_margin"] > 0 for r in chose]).to_dict(),
        "forced_choice_per_byte": share_of(
            [r["choice_margin_per_byte"] > 0 for r in chose]
        ).to_dict(),
    }
    pairs = pair_contexts(chose, seen)
    if pairs:
        figures["context_pair"] = share_of(pairs).to_dict()
    if chose[0]["split"] == "locality" and base and chose[0]["model"] != base[0]["model"]:
        before = {r["item"]: r["choice_margin"] > 0 for r in base if "choice_margin" in r}
        same = [(r["choice_margin"] > 0) == before[r["item"]] for r in chose if r["item"] in before]
        figures["choice_agreement"] = share_of(same).to_dict()
    return figures


def pair_contexts(records: Records, seen: Records) -> list[bool]:
    """Whether the choice is right in both contexts of an abbreviation (chance 0.25).

    In general_* splits: in the general context and in the question of the split `seen`. In
    polysemy: in the contexts of all senses of the abbreviation.
    """
    split = records[0]["split"]
    if split.startswith("general"):
        first = {r["abbreviation"]: r for r in reversed(seen) if "choice_margin" in r}
        return [
            r["choice_margin"] > 0 and first[r["abbreviation"]]["choice_margin"] > 0
            for r in records
            if r["abbreviation"] in first
        ]
    if split != "polysemy":
        return []
    by_name = defaultdict(list)
    for record in records:
        by_name[record["abbreviation"]].append(record["choice_margin"] > 0)
    return [all(right) for right in by_name.values() if len(right) > 1]


def summarize_rewards(records: Records, base: Records, beta: float) -> dict:
    """Reward accuracy and margin, displacement; only for a model trained against this base."""
    reference = {r["item"]: r for r in base if r.get("chosen_logp") is not None}
    scored = [r for r in records if r.get("chosen_logp") is not None and r["item"] in reference]
    if not scored or scored[0]["model"] != "adapter":
        return {}
    chosen = [r["chosen_logp"] - reference[r["item"]]["chosen_logp"] for r in scored]
    rejected = [r["rejected_logp"] - reference[r["item"]]["rejected_logp"] for r in scored]
    margins = [beta * (c - r) for c, r in zip(chosen, rejected, strict=True)]
    return {
        "reward_accuracy": share_of([margin > 0 for margin in margins]).to_dict(),
        "reward_margin": sum(margins) / len(margins),
        "displaced": share_of([change < 0 for change in chosen]).to_dict(),
        "chosen_logp_change": sum(chosen) / len(chosen),
    }


def summarize_lengths(records: Records, base: Records) -> dict:
    """Tuned over base answer length, in characters, on the questions both answered."""
    before = {r["item"]: len(r["answer"]) for r in base if "answer" in r}
    both = [r for r in records if "answer" in r and r["item"] in before]
    if not both or both[0]["model"] == base[0]["model"] or not any(before.values()):
        return {}
    ratio = bootstrap_ratio([len(r["answer"]) for r in both], [before[r["item"]] for r in both])
    return {"length_ratio": ratio.to_dict()}


def summarize_drift(records: Records, base: Records) -> dict:
    """Perplexity per token; against the base: its ratio, and mean KL(policy || reference)."""
    tokens = sum(r["tokens"] for r in records)
    figures = {"tokens": tokens, "perplexity": math.exp(sum(r["nll"] for r in records) / tokens)}
    before = {r["item"]: r for r in base}
    both = [
        r for r in records if r["item"] in before and r["tokens"] == before[r["item"]]["tokens"]
    ]
    if len(both) < len(records) or records[0]["model"] == base[0]["model"]:
        return figures
    change = [r["nll"] - before[r["item"]]["nll"] for r in both]
    log_ratio = bootstrap_ratio(change, [r["tokens"] for r in both])
    figures["perplexity_ratio"] = {k: math.exp(v) for k, v in log_ratio.to_dict().items()}
    if all(r["kl"] is not None for r in both):
        kl = bootstrap_ratio([r["kl"] for r in both], [r["tokens"] for r in both])
        figures["kl_per_token"] = kl.to_dict()
    return figures


def keep_first(records: Records) -> list[dict]:
    """The first record of each abbreviation and sense: the same question in other words is no
    independent evidence."""
    first: dict[tuple, dict] = {}
    for record in records:
        if record.get("abbreviation"):
            first.setdefault((record["abbreviation"], *(record.get("accepted") or ())), record)
    return list(first.values())


def summarize_groups(records: Records) -> dict:
    """Outcome shares per category, kind and phrasing, where a split has more than one."""
    groups: dict[str, dict] = {}
    for key in GROUPINGS:
        members = defaultdict(list)
        for record in records:
            if record.get(key) and record.get("outcome"):
                members[record[key]].append(record)
        if len(members) > 1:
            groups[key] = {name: summarize_answers(members[name]) for name in sorted(members)}
    return groups
