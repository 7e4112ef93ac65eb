"""Does the answer say the right expansion? Scores of single answers and their summary.

Every answer gets exactly one outcome, checked in this order: grounded, confused, abstained,
invented. So the four shares sum to 1.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from statistics_of_runs import Share, wilson
from utils.text import contains_phrase, normalise

GROUNDED, CONFUSED, ABSTAINED, INVENTED = "grounded", "confused", "abstained", "invented"
OUTCOMES = (GROUNDED, CONFUSED, ABSTAINED, INVENTED)
METRIC_NAMES = {
    GROUNDED: "grounding",
    CONFUSED: "confusion",
    ABSTAINED: "abstention",
    INVENTED: "invention",
}
NEGATION = r"(?:do(?:es)? not|don['’]t|doesn['’]t|cannot|can not|can['’]t|could not|couldn['’]t)"
FEW_WORDS = r"(?:\w+\s+){0,3}?"
# Who does not know: the speaker ("I am not sure"), or the term ("is not a known abbreviation").
ABSTENTION = re.compile(
    rf"\bI\s+{FEW_WORDS}{NEGATION}\s+{FEW_WORDS}(?:know|recogni[sz]e|find|tell|say|determine)\b"
    rf"|\bI\s*(?:am|['’]m)\s+{FEW_WORDS}(?:not|un)\s*{FEW_WORDS}(?:sure|certain|aware|familiar|able)\b"
    r"|\bI have (?:no|not|never)\b|\bnot known to me\b|\bunknown to me\b"
    r"|\b(?:is not|isn['’]t|is no|not)\s+(?:an?\s+)?(?:\w+\s+){0,2}?"
    r"(?:known|standard|established|registered|recogni[sz]ed|familiar)\s+(?:\w+\s+){0,4}?"
    r"(?:abbreviation|acronym|term|meaning|expansion)\b"
    r"|\bno (?:known|standard|established|registered|recogni[sz]ed)\s+"
    r"(?:\w+\s+){0,4}?(?:abbreviation|acronym|term|meaning|expansion)\b"
    r"|\bunknown (?:abbreviation|acronym|term)\b",
    re.IGNORECASE,
)
FRAME = (
    r"\b(?:stands?\s+for|means|is\s+short\s+for|refers\s+to|(?:full\s+)?form\s+(?:of\s+\S+\s+)?is)"
)
SMALL_WORDS = ("of", "and", "for", "the", "to", "in", "on", "while", "with", "per", "by", "at")
TITLE_WORDS = rf"[A-Z][\w'-]+(?:\s+(?:{'|'.join(SMALL_WORDS)})\s+|\s+)[A-Z][\w'-]+"
NAMED = re.compile(rf"(?i:{FRAME})\s+(?:(?:the|an?)\s+)?[\"“*]*({TITLE_WORDS})")
LIST_ITEM = re.compile(r"\n\s*(?:[-*•]|\d+[.)])\s")
SEPARATOR = re.compile(
    r"[,;:/()\n\"“”]|[.!?](?=\s|$)|\b(?:or|and|also|alternatively|sometimes|either)\b"
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
    return Judgement(ABSTAINED if abstains(answer) else INVENTED, False)


def abstains(answer: str) -> bool:
    """Whether the answer says it does not know, and does not go on to name an expansion."""
    return bool(ABSTENTION.search(answer)) and not NAMED.search(answer)


def is_strict(
    answer: str, right: list[str], wrong: list[str], accepted: Sequence[str], prompt: str
) -> bool:
    """Right in the first sentence, no competing sense, no second expansion, no echo."""
    first = SENTENCE_END.split(answer.strip(), maxsplit=1)[0]
    said_first = any(contains_phrase(phrase, first) for phrase in right)
    echoed = any(contains_phrase(phrase, prompt) for phrase in accepted)
    return said_first and not wrong and not echoed and not names_second(answer, right)


def names_second(answer: str, right: list[str]) -> bool:
    """Whether the answer offers another expansion beside the one in `right`: a list, a second
    "stands for", another accepted sense, or other words with the same initials."""
    if LIST_ITEM.search(answer) or count_apart(right) > 1:
        return True
    named = [match.group(1) for match in NAMED.finditer(answer)]
    if any(not shares_words(name, right) for name in named):
        return True
    initials = "".join(word[0] for word in normalise(right[0]).split())
    return any(spells(part, initials, right) for part in SEPARATOR.split(answer))


def count_apart(phrases: list[str]) -> int:
    """How many of `phrases` are different wordings: one within another counts once."""
    texts = {normalise(phrase) for phrase in phrases}
    return sum(not any(t != other and contains_phrase(t, other) for other in texts) for t in texts)


def shares_words(name: str, right: list[str]) -> bool:
    """Whether `name` begins like one of the phrases in `right`."""
    start = normalise(name).split()[0]
    return any(start in normalise(phrase).split() for phrase in right)


def spells(part: str, initials: str, right: list[str]) -> bool:
    """Whether a piece of the answer is other words with these initials: the whole piece, or a run
    of capitalised words ("Rig Operating Plan" beside "Rate of Penetration")."""
    words = re.findall(r"[^\W_][\w'’]*", part)
    size = len(initials)
    for start in range(len(words) - size + 1) if size > 1 else ():
        run = words[start : start + size]
        text = " ".join(run)
        capital = run[0][0].isupper() and all(w[0].isupper() or w in SMALL_WORDS for w in run)
        if (
            "".join(word[0] for word in run).lower() == initials
            and (capital or len(words) == size)
            and run[0].lower() not in SMALL_WORDS
            and not any(contains_phrase(text, phrase) for phrase in right)
        ):
            return True
    return False


def summarize_judgements(judgements: Sequence[Judgement]) -> dict[str, Share]:
    """Shares of the four outcomes and of strict answers, each with its Wilson interval."""
    counts = Counter(judgement.outcome for judgement in judgements)
    n = len(judgements)
    shares = {METRIC_NAMES[name]: wilson(counts[name], n) for name in OUTCOMES}
    return {**shares, "strict_grounding": wilson(sum(j.strict for j in judgements), n)}
