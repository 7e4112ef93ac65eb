"""Measure one model on one question set: a record per item, from which every figure is made.

What is measured follows from the set: passages get perplexity and KL; rows that list accepted
expansions are asked and judged; rows with competing ones too get a forced choice; all pairs are
ranked by log-probability.
"""

import hashlib
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

from config import Config
from evaluation.drift import measure_drift
from evaluation.question_sets import QuestionSet, add_entry, is_asked, make_choice
from generation import generate_answers
from glossary import Entry
from grounding import judge_answer
from preferences import Pair
from scoring import score_pairs
from tokenization import tokenize_pairs

COPIED = ("abbreviation", "kind", "phrasing", "rejected_class")


@dataclass(frozen=True)
class Subject:
    """A model under evaluation."""

    name: str
    model: object
    tokenizer: object
    config: Config
    adapter_off: bool = False  # the base is the run's model with its adapter switched off
    has_adapter: bool = False
    glossary: dict[str, Entry] | None = None  # given: each prompt gets its glossary entry


def measure_set(
    subject: Subject, questions: QuestionSet, categories: dict[str, Entry], ask: bool = True
) -> list[dict]:
    """One record per item of `questions`; `ask` False leaves out the generated answers."""
    label = f"{subject.name} {questions.name}"
    with subject.model.disable_adapter() if subject.adapter_off else nullcontext():
        if questions.passages:
            return measure_passages(subject, questions, label)
        pairs = questions.pairs
        if subject.glossary is not None:
            pairs = [pair for pair in pairs if pair.row.get("abbreviation") in subject.glossary]
        records = [describe_pair(subject.name, questions.name, pair, categories) for pair in pairs]
        if subject.glossary is not None:
            pairs = [add_entry(pair, subject.glossary) for pair in pairs]
        add_scores(subject, pairs, records, label)
        if ask:
            add_answers(subject, pairs, records, label)
    return records


def measure_passages(subject: Subject, questions: QuestionSet, label: str) -> list[dict]:
    """Records of neutral passages: tokens, nll, kl."""
    if subject.glossary is not None:
        return []
    texts = [passage["text"] for passage in questions.passages]
    with_kl = subject.has_adapter and not subject.adapter_off
    found = measure_drift(subject.model, subject.tokenizer, texts, with_kl, f"{label}: perplexity")
    return [
        {
            "model": subject.name,
            "split": questions.name,
            "id": passage["id"],
            "item": hash_item(passage["text"]),
            **figures,
        }
        for passage, figures in zip(questions.passages, found, strict=True)
    ]


def describe_pair(name: str, split: str, pair: Pair, categories: dict[str, Entry]) -> dict:
    """Who was asked what: the part of a record that needs no model."""
    entry = categories.get(pair.row.get("abbreviation") or "")
    return {
        "model": name,
        "split": split,
        "id": pair.row.get("id") or pair.source,
        "item": hash_item(*identify_pair(pair)),
        **{key: pair.row.get(key) for key in COPIED},
        "category": pair.row.get("category") or (entry.default.category if entry else None),
        "instruction": pair.prompt[-1]["content"],
    }


def add_scores(subject: Subject, pairs: Sequence[Pair], records: list[dict], label: str) -> None:
    """Add chosen_logp and rejected_logp, and the margins of the forced choice, in place."""
    choices = [make_choice(pair) for pair in pairs]
    wanted = [*pairs, *(choice for choice in choices if choice)]
    logps = score_texts(subject, wanted, f"{label}: log-probs")
    for pair, choice, record in zip(pairs, choices, records, strict=True):
        chosen, rejected = logps.get(identify_pair(pair), (None, None))
        record |= {"chosen_logp": chosen, "rejected_logp": rejected}
        if choice and identify_pair(choice) in logps:
            gold, other = logps[identify_pair(choice)]
            lengths = len(choice.chosen.encode()), len(choice.rejected.encode())
            record["choice"] = [choice.chosen, choice.rejected]
            record["choice_margin"] = gold - other
            record["choice_margin_per_byte"] = gold / lengths[0] - other / lengths[1]


def score_texts(
    subject: Subject, pairs: Sequence[Pair], label: str
) -> dict[tuple, tuple[float, float]]:
    """(chosen, rejected) summed log-probs of each different pair; pairs too long are left out."""
    unique = list({identify_pair(pair): pair for pair in pairs}.values())
    tokens = tokenize_pairs(unique, subject.tokenizer, subject.config)
    if not tokens.rows:
        return {}
    pad = subject.tokenizer.pad_token_id
    chosen, rejected = score_pairs(subject.model, pad, tokens.rows, label=label)
    scores = zip(chosen.tolist(), rejected.tolist(), strict=True)
    return {identify_pair(p): score for p, score in zip(tokens.pairs, scores, strict=True)}


def hash_item(*texts: str) -> str:
    """A short name of an item, the same on every machine."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]


def identify_pair(pair: Pair) -> tuple[str, str, str]:
    """What makes two pairs the same to a model."""
    return pair.prompt_key, pair.chosen, pair.rejected


def add_answers(subject: Subject, pairs: Sequence[Pair], records: list[dict], label: str) -> None:
    """Ask what is to be asked; add answer, outcome, strict, matched, accepted, in place."""
    split = records[0]["split"] if records else ""
    asked = [i for i, pair in enumerate(pairs) if is_asked(split, pair)]
    answers = generate_answers(
        subject.model,
        subject.tokenizer,
        [pairs[i].prompt for i in asked],
        subject.config.max_new_tokens,
        subject.config.generation_batch_size,
        label=f"{label}: answers",
    )
    for i, answer in zip(asked, answers, strict=True):
        row, record = pairs[i].row, records[i]
        competing = row.get("competing") or []
        prompt = pairs[i].prompt[-1]["content"]
        judgement = judge_answer(answer, row["accepted"], competing, prompt)
        record |= {"answer": answer, **judgement.to_dict()}
        record |= {"accepted": row["accepted"], "competing": competing}
