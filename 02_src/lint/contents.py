"""What the texts say: refusals, invisible characters, answers printed in the prompt, classes."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from grounding import abstains
from lint.report import Finding, make_finding
from lint.rows import LintRow, normalise_once
from utils.text import normalise

REFUSAL_PLACE = 300  # characters: a refusal stands at the start of an answer
ONE_CLASS_SHARE = 0.9  # above this the set knows one kind of wrong answer

REFUSAL = re.compile(
    r"\bas an? (ai|artificial intelligence|(large )?language model)\b"
    r"|\bi('m| am) (just |only )?an? (ai|artificial intelligence|(large )?language model)\b"
    r"|\b(sorry|afraid|apologi[sz]e|unfortunately),? (but )?(that )?i (can ?not|can't|won't|am "
    r"(un|not )able)\b"
    r"|\bi (can ?not|can't|won't|will not) (help|assist|comply|provide|fulfil|answer|discuss|do "
    r"th|write|create|generate|share|engage|support)"
    r"|\bi('m| am) (unable|not able|not allowed|not permitted) to (help|assist|comply|provide"
    r"|fulfil|answer|discuss|write|create|generate)"
    r"|\bi (must|have to|need to) decline\b"
    r"|\b(goes against|violates) (my|our) (guidelines|programming|polic)"
)
# One of these is in every refusal; looking for them spares most answers the pattern.
REFUSAL_HINTS = (
    "as a", "an ai", "artificial", "language model", "can not", "cannot", "can't", "won't",
    "will not", "unable", "not able", "not allowed", "not permitted", "decline", "against",
    "violates",
)  # fmt: skip
# Control, zero-width, direction and private-use characters, soft hyphens, replacement marks.
# Tab, line ends, and the joiners that Persian, Indic scripts and emoji need are fine.
NON_PRINTING = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\xad\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064"
    "\u2066-\u2069\ue000-\uf8ff\ufeff\ufff9-\ufffd]"
)
ABBREVIATION = re.compile(r"\b[A-Z][A-Z&]{1,5}\b")
SENTENCE_END = re.compile(r"(?<=[.!?])\s")
SMALL_WORDS = frozenset((
    "a", "an", "and", "are", "as", "at", "be", "by", "for", "from", "in", "into", "is", "it", "its",
    "means", "of", "on", "or", "per", "stands", "that", "the", "this", "to", "used", "was", "which",
    "while", "with",
))  # fmt: skip


def find_refusals(rows: Sequence[LintRow]) -> list[Finding]:
    """Answers that refuse; saying that something is not known is no refusal."""
    chosen = [row.source for row in rows if is_refusal(row.pair.chosen)]
    rejected = [row.source for row in rows if is_refusal(row.pair.rejected)]
    advice = "remove them, unless refusing is what the model should learn"
    return [
        *make_finding("refusal_chosen", "warning", chosen, "chosen answer(s) refuse", advice),
        *make_finding("refusal_rejected", "info", rejected, "rejected answer(s) refuse"),
    ]


def is_refusal(answer: str) -> bool:
    """Whether the answer begins by refusing."""
    start = answer[:REFUSAL_PLACE].lower().replace("\u2019", "'")
    return any(hint in start for hint in REFUSAL_HINTS) and REFUSAL.search(start) is not None


def find_strange_characters(rows: Sequence[LintRow]) -> list[Finding]:
    """Characters nobody sees: they split tokens."""
    texts = [(row.source, text) for row in rows if is_suspect(text := join_texts(row))]
    strange = [source for source, text in texts if NON_PRINTING.search(text)]
    text = "row(s) hold non-printing characters (control, zero-width, replacement)"
    return make_finding("non_printing", "warning", strange, text, "strip them from the texts")


def is_suspect(text: str) -> bool:
    """A quick look that spares most texts the two patterns."""
    return not text.replace("\n", " ").isprintable() or "\ufffc" in text or "\ufffd" in text


def join_texts(row: LintRow) -> str:
    """Everything the row shows a model."""
    prompt = [message["content"] for message in row.pair.prompt]
    return "\n".join([*prompt, row.pair.chosen, row.pair.rejected])


def find_same_answers(rows: Sequence[LintRow]) -> list[Finding]:
    """Pairs whose answers differ in case, punctuation or spacing alone."""
    places = [row.source for row in rows if row.chosen == row.rejected and row.chosen]
    text = "pair(s) hold the same answer twice but for case, punctuation or spacing"
    return make_finding("same_answers", "warning", places, text, "remove or rewrite them")


def find_answer_leaks(rows: Sequence[LintRow]) -> list[Finding]:
    """Prompts that print the answer: such rows teach copying."""
    places = [row.source for row in rows if leaks_answer(row)]
    text = "prompt(s) print the chosen answer's content"
    advice = "take the answer out of the question; fine where copying is the task (a summary)"
    return make_finding("answer_in_prompt", "warning", places, text, advice)


def leaks_answer(row: LintRow) -> bool:
    """Whether the prompt holds an accepted answer, or what sets chosen apart from rejected.

    To say that something is not known gives nothing away.
    """
    accepted = row.pair.row.get("accepted")
    if isinstance(accepted, list) and accepted:
        return any(holds_phrase(row.prompt, normalise_once(str(name))) for name in accepted)
    if abstains(row.pair.chosen):
        return False
    for abbreviation in set(ABBREVIATION.findall(row.instruction)):
        phrase = spell_out(abbreviation, row.chosen)
        if phrase and holds_phrase(row.question, phrase):
            return not holds_phrase(row.rejected, phrase)
    return repeats_first_sentence(row)


def repeats_first_sentence(row: LintRow) -> bool:
    """Whether the question holds every telling word of chosen's first sentence, none of rejected's.

    A question that offers both answers ("A or B?") gives nothing away.
    """
    first = normalise(SENTENCE_END.split(row.pair.chosen, maxsplit=1)[0]).split()
    telling = list_telling_words(first)
    if any(word not in row.question and word not in row.rejected for word in telling):
        return False  # most rows end here, before any set is made of a long text
    asked, rejected = set(row.question.split()), set(row.rejected.split())
    telling -= rejected
    other = list_telling_words(rejected - set(row.chosen.split()))
    return bool(telling) and telling <= asked and not (other and other <= asked)


def list_telling_words(words: Iterable[str]) -> set[str]:
    """The words that carry meaning of their own."""
    return {word for word in words if len(word) > 2 and word not in SMALL_WORDS}


def holds_phrase(text: str, phrase: str) -> bool:
    """contains_phrase() for texts that are normalised already."""
    padded = f" {text} "
    return bool(phrase) and (f" {phrase} " in padded or f" {phrase}s " in padded)


def spell_out(abbreviation: str, text: str) -> str | None:
    """The words of a normalised text whose initials spell the abbreviation; small ones may hide."""
    words, letters = text.split(), abbreviation.replace("&", "").lower()
    for small in (frozenset(), SMALL_WORDS):
        kept = [index for index, word in enumerate(words) if word not in small]
        at = "".join(words[index][0] for index in kept).find(letters)
        if at >= 0 and len(letters) > 1:
            return " ".join(words[kept[at] : kept[at + len(letters) - 1] + 1])
    return None


def count_classes(rows: Sequence[LintRow]) -> dict[str, int]:
    """How many rejected answers carry each `rejected_class`, most frequent first."""
    labels = (row.pair.row.get("rejected_class") for row in rows)
    return dict(Counter(str(label) for label in labels if label not in (None, "")).most_common())


def find_classes(rows: Sequence[LintRow], statistics: dict[str, Any]) -> list[Finding]:
    """The mix of wrong answers, where rows are labelled; a warning where it is no mix."""
    classes: dict[str, int] = statistics.get("rejected_classes", {})
    if not classes:
        return []
    labelled = sum(classes.values())
    text = "rejected answers: " + ", ".join(
        f"{name} {count / labelled:.0%}" for name, count in classes.items()
    )
    missing = [row.source for row in rows if row.pair.row.get("rejected_class") in (None, "")]
    one_kind = max(classes.values()) > ONE_CLASS_SHARE * labelled and labelled == len(rows)
    advice = "mix in other kinds, or the model learns to avoid this kind alone" if one_kind else ""
    severity = "warning" if one_kind else "info"
    found = [Finding("rejected_classes", severity, labelled, text, advice=advice)]
    text = "row(s) carry no rejected_class while others do"
    unlabelled = make_finding("unlabelled_rejected", "info", missing, text)
    return found + unlabelled
