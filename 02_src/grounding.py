"""Does the answer say the right expansion? Scores of single answers and their summary.

Every answer gets exactly one outcome, checked in this order: grounded, confused, abstained,
invented. So the four shares sum to 1.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from statistics_of_runs import Share, wilson
from utils.text import contains_phrase

GROUNDED, CONFUSED, ABSTAINED, INVENTED = "grounded", "confused", "abstained", "invented"
OUTCOMES = (GROUNDED, CONFUSED, ABSTAINED, INVENTED)
METRIC_NAMES = {
    GROUNDED: "grounding",
    CONFUSED: "confusion",
    ABSTAINED: "abstention",
    INVENTED: "invention",
}
ABSTENTION = re.compile(
    r"\b(?:do(?:es)? not|don't|doesn't|cannot|can't|could not|couldn't|am not|is not|isn't|not)\s+"
    r"(?:\w+\s+){0,3}?(?:know|known|sure|certain|aware|familiar|recogni[sz]ed?|find|found|tell)\b"
    r"|\b(?:unknown|unfamiliar|no (?:known|standard|established|registered))\b",
    re.IGNORECASE,
)
# "A or Also Known B", a bulleted list, or the frame "stands for" used twice.
SECOND_EXPANSION = re.compile(
    r"\b(?:or|also|alternatively)\s+(?:\w+\s+){0,3}?(?-i:[A-Z][a-z]+)"
    r"|\n\s*(?:[-*]|\d+[.)])\s"
    r"|\b(?:stands for|means|is short for)\b.*\b(?:stands for|means|is short for)\b",
    re.IGNORECASE | re.DOTALL,
)
SENTENCE_END = re.compile(r"(?<=[.!?])\s|\n")


@dataclass(frozen=True)
class Judgement:
    """One scored answer."""

    outcome: str
    strict: bool  # grounded in the first sentence, nothing else named, no echo of the prompt
    matched: str | None = None

    def to_dict(self) -> dict:
        """For the per-item file."""
        return asdict(self)


def judge_answer(
    answer: str, accepted: Sequence[str], competing: Sequence[str], prompt: str = ""
) -> Judgement:
    """Score one answer.

    Args:
        answer: what the model said.
        accepted: expansions (with aliases) that are right here.
        competing: expansions that are wrong here.
        prompt: the question; a prompt that prints the expansion makes an echo, never strict.
    """
    right = [phrase for phrase in accepted if contains_phrase(phrase, answer)]
    wrong = [phrase for phrase in competing if contains_phrase(phrase, answer)]
    if right:
        return Judgement(GROUNDED, is_strict(answer, right, wrong, accepted, prompt), right[0])
    if wrong:
        return Judgement(CONFUSED, False, wrong[0])
    return Judgement(ABSTAINED if ABSTENTION.search(answer) else INVENTED, False)


def is_strict(
    answer: str, right: list[str], wrong: list[str], accepted: Sequence[str], prompt: str
) -> bool:
    """Right in the first sentence, no competing sense, no second expansion, no echo."""
    first = SENTENCE_END.split(answer.strip(), maxsplit=1)[0]
    said_first = any(contains_phrase(phrase, first) for phrase in right)
    echoed = any(contains_phrase(phrase, prompt) for phrase in accepted)
    return said_first and not wrong and not echoed and not SECOND_EXPANSION.search(answer)


def summarize_judgements(judgements: Sequence[Judgement]) -> dict[str, Share]:
    """Shares of the four outcomes and of strict answers, each with its Wilson interval."""
    counts = Counter(judgement.outcome for judgement in judgements)
    n = len(judgements)
    shares = {METRIC_NAMES[name]: wilson(counts[name], n) for name in OUTCOMES}
    return {**shares, "strict_grounding": wilson(sum(j.strict for j in judgements), n)}
