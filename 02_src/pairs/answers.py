"""Answers: shared sentence frames, rewrites, and the steering of answer lengths.

A chosen and a rejected answer use the same frames, so that the frame gives nothing away; where a
row can be worded in several ways, LengthBalance takes the wording that keeps the running sum of
length differences near zero, so that length gives nothing away either.
"""

import random
import re
from collections import defaultdict

from glossary import compile_abbreviation

FRAMES = (
    "{a} stands for {e}.",
    "{a} is short for {e}.",
    "In oil and gas, {a} stands for {e}.",
    "{a} means {e}.",
    "It stands for {e}.",
    "The full form of {a} is {e}.",
)
FRAME_WEIGHTS = (6, 2, 2, 1, 1, 1)
LONG_FRAMES = (
    "In the oil and gas industry, {a} stands for {e}.",
    "In the oil and gas industry, the abbreviation {a} stands for {e}.",
)
GENERAL_FRAMES = ("{a} stands for {e}.", "{a} is short for {e}.", "It stands for {e}.")
HEDGED = (
    "In oil and gas, {a} stands for {e}; in other fields it can mean something else.",
    "It depends on the field; in oil and gas, {a} stands for {e}.",
    "In oil and gas, {a} usually stands for {e}, but the meaning depends on the field.",
)
UNHEDGED = (
    "{a} always stands for {e}, in oil and gas as in every other field there is.",
    "Whatever the field, {a} always stands for {e}.",
    "{a} stands for {e} and nothing else, so the field it is used in never matters.",
)
UNKNOWN = (
    "I do not know {a} as an oil and gas abbreviation.",
    "I do not know the oil and gas abbreviation {a}.",
    "I do not know what {a} stands for.",
    "{a} is not known to me as an oil and gas abbreviation.",
)
# Words whose first letter misleads about a or an.
SOUNDS_LIKE_VOWEL = ("hour", "honest", "heir")
SOUNDS_LIKE_CONSONANT = ("uni", "use", "usa", "uti", "eur", "one", "ubi")
SMALL_WORDS = {"a", "and", "as", "at", "by", "for", "from", "in", "of", "on", "per", "the", "to"}

Answers = tuple[str, str]  # (chosen, rejected)


class LengthBalance:
    """Takes, row by row, the wording that keeps chosen and rejected equally long in sum."""

    def __init__(self) -> None:
        self.total: dict[str, int] = defaultdict(int)  # characters chosen is ahead, per kind

    def pick(self, kind: str, candidates: list[Answers]) -> Answers:
        """The candidate that brings the kind's sum nearest to zero; the first of equals."""
        ahead = self.total[kind]
        best = min(candidates, key=lambda pair: self.cost(ahead, pair))
        self.total[kind] += len(best[0]) - len(best[1])
        return best

    @staticmethod
    def cost(ahead: int, pair: Answers) -> float:
        """Distance from balance after this pair; a large difference of its own costs as well."""
        difference = len(pair[0]) - len(pair[1])
        return abs(ahead + difference) + 0.7 * abs(difference)


def draw_frame(rng: random.Random) -> str:
    """One of the shared frames; the plainest most often."""
    return rng.choices(FRAMES, FRAME_WEIGHTS)[0]


def say(frame: str, abbreviation: str, expansion: str = "") -> str:
    """A frame with its words put in."""
    return frame.format(a=abbreviation, e=expansion)


def capitalise(name: str) -> str:
    """An alias written like an expansion: otherwise small letters would mark the wrong answer."""
    words = name.split()
    return " ".join(
        word if number and word in SMALL_WORDS else word[0].upper() + word[1:]
        for number, word in enumerate(words)
    )


def list_wrong_names(abbreviation: str, names: tuple[str, ...]) -> list[str]:
    """The expansion, and the aliases whose letters the abbreviation could stand for.

    "Math Coprocessor" for FPU would be seen to be wrong by its first letter alone.
    """
    fitting = [name for name in names[1:] if fits_letters(abbreviation, name)]
    return [capitalise(name) for name in (names[0], *fitting)]


def fits_letters(abbreviation: str, name: str) -> bool:
    """Whether the name begins like the abbreviation and holds its letters in order."""
    letters = iter(name.lower())
    wanted = [letter for letter in abbreviation.lower() if letter.isalnum()]
    return name[0].lower() == wanted[0] and all(letter in letters for letter in wanted)


def spell_out(sentence: str, abbreviation: str, expansion: str) -> str:
    """The sentence with the abbreviation replaced, "a" or "an" before it corrected."""
    pattern = compile_abbreviation(abbreviation).pattern
    article = "an" if starts_with_vowel_sound(expansion) else "a"

    def replace(match: re.Match[str]) -> str:
        before = match.group(1)
        if not before:
            return expansion
        return (article.capitalize() if before[0] == "A" else article) + " " + expansion

    return re.sub(rf"(?:\b([Aa]n?)\s+)?{pattern}", replace, sentence)


def starts_with_vowel_sound(phrase: str) -> bool:
    """Whether "an" goes before the phrase."""
    word = phrase.lower()
    if word.startswith(SOUNDS_LIKE_VOWEL):
        return True
    return word[0] in "aeiou" and not word.startswith(SOUNDS_LIKE_CONSONANT)


def split_sentences(text: str) -> list[str]:
    """Sentences of an answer, without an unfinished last one."""
    parts = re.split(r"(?<=[.!?])\s+(?=[(A-Z0-9])", " ".join(text.split()))
    return [part for part in parts if part and part[-1] in ".!?"]
