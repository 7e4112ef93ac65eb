"""The base model's own wrong answers, from a cache that a script mined: the other realistic error.

The cache (01_data/glossary/base_answers.jsonl) holds {"abbreviation", "instruction", "answer"}, a
few per abbreviation. Answers that are right, evasive or broken are left out.
"""

import json
import re
from collections import defaultdict
from pathlib import Path

from errors import UserError
from glossary import Entry
from pairs.answers import split_sentences
from utils.text import contains_phrase, normalise

MAX_CHARACTERS = 150  # about what 48 new tokens hold
REFUSAL = re.compile(
    r"\b(sorry|as an ai|i cannot|i can't|i do not|i don't|not sure|not aware|unable to|please|"
    r"could you|depend(s|ing) on|(various|multiple|several) (meanings|things)|you're|you are)\b|\?",
    re.IGNORECASE,
)
CLAIM = re.compile(r"\b(stands? for|short for|means|refers? to|abbreviat\w+|acronym|is an? )", re.I)
CLAUSE = re.compile(r"([^.?!]+? (?:stands for|is short for) [^.,?!]+?),\s+(?:which|a|an|the)\b")
FILLER = {"and", "of", "the", "for", "in", "to", "on", "by", "a", "per", "with", "at", "from"}


def load_base_answers(path: Path, entries: list[Entry]) -> dict[str, list[str]]:
    """Usable wrong answers of each abbreviation, every trim of each, in the order of the cache.

    An absent file gives an empty cache: competing senses take its place.
    """
    answers: dict[str, list[str]] = defaultdict(list)
    if not path.is_file():
        return answers
    known = {entry.abbreviation: entry for entry in entries}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            record = json.loads(line)
            abbreviation, answer = record["abbreviation"], record["answer"]
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise UserError(f"{path}:{number}: not a base answer ({error})") from None
        if abbreviation in known:
            for text in trim_answer(answer):
                if is_usable(text, known[abbreviation]) and text not in answers[abbreviation]:
                    answers[abbreviation].append(text)
    return answers


def trim_answer(answer: str) -> list[str]:
    """Whole short statements from the start of an answer, without quotation marks.

    The expansion alone where a clause follows it ("X stands for Y, which is ..."), then the first
    sentence, the first two and so on. The marks go because no chosen answer has any.
    """
    text = " ".join(re.sub(r"[*\"“”]", "", answer).split())
    sentences = split_sentences(text)
    trims = [" ".join(sentences[:count]) for count in range(1, len(sentences) + 1)]
    clause = CLAUSE.match(text)
    if clause:
        trims.insert(0, f"{clause.group(1)}.")
    return [trim for trim in dict.fromkeys(trims) if len(trim) <= MAX_CHARACTERS]


def is_usable(text: str, entry: Entry) -> bool:
    """Whether the text makes a claim about the abbreviation that is wrong in oil and gas."""
    if REFUSAL.search(text) or not CLAIM.search(text) or repeats_itself(text):
        return False
    return not any(says_expansion(name, text) for sense in entry.oil_gas for name in sense.names)


def says_expansion(name: str, text: str) -> bool:
    """Whether the text gives this expansion, in these words or scattered and inflected."""
    if contains_phrase(name, text):
        return True
    stems = [word[:5] for word in normalise(name).split() if word not in FILLER]
    words = normalise(text).split()
    return all(any(word.startswith(stem) for word in words) for stem in stems)


def repeats_itself(text: str) -> bool:
    """Whether a run of four words comes back: a small model going round in circles."""
    words = normalise(text).split()
    runs = [tuple(words[start : start + 4]) for start in range(len(words) - 3)]
    return len(words) < 4 or len(set(runs)) < len(runs)
