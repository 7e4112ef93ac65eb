"""Lengths: does length alone tell the better answer, and what does max_seq_length cut?"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from config import Config
from lint.report import Finding, keep_places, make_finding
from lint.rows import LintRow
from utils.formatting import Message

NOTICEABLE_D, DECISIVE_D = 0.2, 2.0  # Cohen's own "small"; and where two bells hardly overlap
FAIR_SHARE = (0.4, 0.6)  # of pairs whose chosen answer is the longer one
FEW_PAIRS = 20  # below this a bias may be chance: never an error
BYTES_PER_TOKEN = 3.5  # English runs at 4 to 4.5; lower, so that cuts are not missed
TEMPLATE_TOKENS = 30  # what a chat template writes around a question
BIAS_ADVICE = (
    'write answers of like length; or set loss_type ["sigmoid_norm", "sft"] '
    "(scores per token), or ld_alpha 0.5 (less weight past the shorter answer's end)"
)


def measure_lengths(rows: Sequence[LintRow]) -> dict[str, Any]:
    """Statistics of the answers' lengths in characters; empty without rows."""
    if not rows:
        return {}
    chosen = np.array([len(row.pair.chosen) for row in rows], dtype=float)
    rejected = np.array([len(row.pair.rejected) for row in rows], dtype=float)
    return {
        "chosen_mean": round(float(chosen.mean()), 2),
        "rejected_mean": round(float(rejected.mean()), 2),
        "length_ratio": round(float(chosen.sum() / max(rejected.sum(), 1)), 4),
        "mean_pair_ratio": round(float((chosen / np.maximum(rejected, 1)).mean()), 4),
        "cohens_d": round(compute_cohens_d(chosen, rejected), 4),
        "share_chosen_longer": round(float((chosen > rejected).mean()), 4),
        "share_equal": round(float((chosen == rejected).mean()), 4),
    }


def compute_cohens_d(first: np.ndarray, second: np.ndarray) -> float:
    """(mean - mean) / pooled deviation, which is taken as at least half a character."""
    if len(first) < 2:
        return 0.0
    pooled = math.sqrt((first.var(ddof=1) + second.var(ddof=1)) / 2)
    return float((first.mean() - second.mean()) / max(pooled, 0.5))


def describe_lengths(statistics: dict[str, Any]) -> str:
    """The length statistics as half a sentence."""
    return (
        f"chosen {statistics['chosen_mean']:.0f}, rejected {statistics['rejected_mean']:.0f} "
        f"characters (ratio {statistics['length_ratio']:.2f}), "
        f"Cohen's d {statistics['cohens_d']:.2f}, "
        f"chosen longer in {statistics['share_chosen_longer']:.0%}"
    )


def find_length_bias(rows: Sequence[LintRow], statistics: dict[str, Any]) -> list[Finding]:
    """A finding where length separates chosen from rejected: DPO then learns length."""
    if not rows:
        return []
    size, share = abs(statistics["cohens_d"]), statistics["share_chosen_longer"]
    longer = share + statistics["share_equal"] / 2  # a tie speaks for neither side
    if size < NOTICEABLE_D and FAIR_SHARE[0] <= longer <= FAIR_SHARE[1]:
        return []
    decisive = size >= DECISIVE_D and len(rows) >= FEW_PAIRS
    sign = 1 if statistics["cohens_d"] >= 0 else -1
    biased = [r for r in rows if sign * (len(r.pair.chosen) - len(r.pair.rejected)) > 0]
    biased.sort(key=lambda row: -abs(len(row.pair.chosen) - len(row.pair.rejected)))
    text = f"length tells the better answer: {describe_lengths(statistics)}"
    return [
        Finding(
            "length_bias", "error" if decisive else "warning", len(biased), text,
            keep_places([row.source for row in biased]),
            BIAS_ADVICE, ("loss_type", "ld_alpha"),
        )
    ]  # fmt: skip


def find_truncation(rows: Sequence[LintRow], config: Config, tokenizer=None) -> list[Finding]:
    """Pairs that the config's length limits cut; counted exactly only with a tokenizer."""
    if not rows:
        return []
    prompts = count_tokens([render_prompt(row.pair.prompt, tokenizer) for row in rows], tokenizer)
    if not has_template(tokenizer):
        prompts += TEMPLATE_TOKENS
    chosen = count_tokens([row.pair.chosen for row in rows], tokenizer) + 1
    rejected = count_tokens([row.pair.rejected for row in rows], tokenizer) + 1
    limit = config.max_seq_length
    kept = np.minimum(prompts, config.max_prompt_length or limit)
    room = np.minimum(limit - kept, config.max_target_length or limit)
    cut = (np.maximum(chosen, rejected) > room) | (prompts > kept)
    places = [rows[i].source for i in np.flatnonzero(cut)]
    note = "" if tokenizer else f" (estimated at {BYTES_PER_TOKEN} bytes a token)"
    longest = int((prompts + np.maximum(chosen, rejected)).max())
    text = (
        f"pair(s) are cut at max_seq_length={limit}{describe_limits(config)}{note}; "
        f"the longest needs {longest:,} tokens, {int((room < 1).sum()):,} leave no room to answer"
    )
    advice = f"raise max_seq_length (here to {longest:,}), or shorten these rows"
    options = ("max_seq_length", "max_prompt_length", "max_target_length")
    return make_finding("truncation", "warning", places, text, advice, options)


def describe_limits(config: Config) -> str:
    """The optional limits in force, to be put behind max_seq_length."""
    names = ("max_prompt_length", "max_target_length")
    return "".join(f", {name}={getattr(config, name)}" for name in names if getattr(config, name))


def has_template(tokenizer) -> bool:
    """Whether there is a chat template that adds its own tokens to a prompt."""
    return tokenizer is not None and bool(tokenizer.chat_template)


def render_prompt(messages: list[Message], tokenizer=None) -> str:
    """The prompt as the model sees it, or its bare text without a chat template."""
    if not has_template(tokenizer):
        return "\n".join(message["content"] for message in messages)
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


def count_tokens(texts: list[str], tokenizer=None) -> np.ndarray:
    """Tokens of each text: counted, or estimated from its UTF-8 length without a tokenizer."""
    if tokenizer is None:
        sizes = [len(text.encode("utf-8", "replace")) for text in texts]
        return np.ceil(np.array(sizes) / BYTES_PER_TOKEN).astype(int)
    ids = tokenizer(texts, add_special_tokens=False)["input_ids"]
    return np.array([len(row) for row in ids])
