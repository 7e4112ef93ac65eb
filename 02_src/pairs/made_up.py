"""Abbreviations nobody knows, built the way real ones are, and inventions for real ones.

A random string is easy to tell from a real abbreviation, so a model learns nothing from it. These
are the initials of oil and gas words that nobody puts together, as long as real ones are.
"""

import random
from dataclasses import dataclass

from glossary import Entry
from pairs.known import KNOWN_ELSEWHERE
from pairs.word_lists import HEADS, MODIFIERS
from utils.text import contains_phrase

# Share of lengths 2 to 5; real ones have 12, 81, 6 and 0.2 %. Few pairs of letters are still free.
LENGTHS = {2: 0.05, 3: 0.78, 4: 0.15, 5: 0.02}


@dataclass(frozen=True)
class Invention:
    """A made-up abbreviation and what it could stand for."""

    abbreviation: str
    expansion: str

    @property
    def entry(self) -> Entry:
        """The abbreviation as an entry without senses, for the phrasings."""
        return Entry(self.abbreviation, ())


def invent_abbreviations(count: int, taken: set[str], rng: random.Random) -> list[Invention]:
    """`count` different inventions, none in `taken` or among the well-known ones."""
    forbidden = taken | KNOWN_ELSEWHERE
    made: dict[str, Invention] = {}
    lengths, shares = list(LENGTHS), list(LENGTHS.values())
    while len(made) < count:
        words = draw_words(rng.choices(lengths, shares)[0], rng)
        abbreviation = "".join(word[0] for word in words)
        if abbreviation not in forbidden and len(set(words)) == len(words):
            made.setdefault(abbreviation, Invention(abbreviation, " ".join(words)))
    return list(made.values())


def draw_words(length: int, rng: random.Random) -> list[str]:
    """Modifiers and a head noun, each letter as likely as the number of its words."""
    modifiers = [word for words in MODIFIERS.values() for word in words]
    heads = [word for words in HEADS.values() for word in words]
    return [*(rng.choice(modifiers) for _ in range(length - 1)), rng.choice(heads)]


def invent_expansion(entry: Entry, rng: random.Random) -> str | None:
    """Plausible wrong words for a real abbreviation of three letters or more, or None.

    Shorter ones are left alone: two random words are too often a real term.
    """
    letters = entry.abbreviation
    if len(letters) < 3 or not set(letters[:-1]) <= set(MODIFIERS) or letters[-1] not in HEADS:
        return None
    real = {w.lower() for s in entry.senses for name in s.names for w in name.split()}
    words = [rng.choice(MODIFIERS[letter]) for letter in letters[:-1]]
    words.append(rng.choice(HEADS[letters[-1]]))
    shared = sum(word.lower() in real for word in words)
    text = " ".join(words)
    right = any(contains_phrase(name, text) for s in entry.oil_gas for name in s.names)
    return text if len(set(words)) == len(words) and shared <= 1 and not right else None
