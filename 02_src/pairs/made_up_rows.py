"""Pairs about made-up abbreviations: admit not knowing, against an invention in the usual frame."""

import random
from collections.abc import Sequence

from pairs import answers, phrasings
from pairs.answers import LengthBalance, say
from pairs.fields import FIELDS
from pairs.made_up import Invention
from pairs.rows import Row


def make_made_up_rows(
    inventions: list[Invention], wordings: Sequence[str], rng: random.Random
) -> list[Row]:
    """One row per invention; the direct `wordings` take turns, parts of the industry are drawn."""
    balance = LengthBalance()
    categories = sorted(FIELDS)
    rows = []
    for number, invention in enumerate(inventions):
        phrasing = wordings[number % len(wordings)]
        prompt = phrasings.ask_direct(phrasing, invention.entry, rng.choice(categories))
        wrong = say(answers.draw_frame(rng), invention.abbreviation, invention.expansion)
        right = [say(text, invention.abbreviation) for text in rng.sample(answers.UNKNOWN, 3)]
        chosen, rejected = balance.pick("made_up", [(text, wrong) for text in right])
        rows.append(
            Row(
                instruction=prompt.instruction,
                context=None,
                system=None,
                chosen=chosen,
                rejected=rejected,
                abbreviation=invention.abbreviation,
                kind="made_up",
                phrasing=phrasing,
                sense_id=None,
                split_group=invention.abbreviation,
                rejected_class="invention",
                accepted=[],
                competing=[],
            )
        )
    return rows
