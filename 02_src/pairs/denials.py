"""Pairs whose wrong answer is to deny knowing an abbreviation that is taught.

Elsewhere only right answers admit not knowing: about made-up abbreviations and in foreign fields.
Without these pairs the words "I do not know" would be right wherever they stand.
"""

import random

from glossary import Entry
from pairs import answers, phrasings
from pairs.answers import LengthBalance, say
from pairs.other_fields import UNKNOWN_THERE
from pairs.rows import Prompt, Row, Subject, leaks_answer, make_row
from pairs.splits import Plan

FRAMES_TRIED = 4  # wordings of the right answer to choose from for length


def make_denial_rows(plan: Plan, rng: random.Random) -> list[Row]:
    """One row an entry, and one about its general sense where that is taught."""
    balance = LengthBalance()
    rows = []
    for entry in plan.train:
        rows.append(deny_default(entry, plan, balance, rng))
        if entry.abbreviation in plan.general_taught:
            rows.append(deny_general(entry, plan, balance, rng))
    return [row for row in rows if row is not None]


def deny_default(entry: Entry, plan: Plan, balance: LengthBalance, rng: random.Random) -> Row:
    """A direct question in one of the training wordings."""
    subject = Subject(entry, entry.default, plan.groups[entry.abbreviation], fixed=False)
    prompt = phrasings.ask_direct(rng.choice(phrasings.TRAIN_DIRECT), entry)
    denial = say(rng.choice(answers.UNKNOWN), entry.abbreviation)
    frames = rng.sample(answers.FRAMES, FRAMES_TRIED)
    return contrast(subject, prompt, "direct", frames, denial, balance)


def deny_general(
    entry: Entry, plan: Plan, balance: LengthBalance, rng: random.Random
) -> Row | None:
    """The general sense in its own field; None where the question holds the answer."""
    sense = entry.competing[0]
    subject = Subject(entry, sense, plan.groups[entry.abbreviation], fixed=True)
    prompt = phrasings.ask_general(rng.choice(phrasings.TRAIN_GENERAL), entry, sense.domain)
    if leaks_answer(subject, prompt):
        return None
    denial = rng.choice(UNKNOWN_THERE).format(a=entry.abbreviation, d=sense.domain)
    return contrast(subject, prompt, "general_context", answers.GENERAL_FRAMES, denial, balance)


def contrast(
    subject: Subject,
    prompt: Prompt,
    kind: str,
    frames: tuple[str, ...] | list[str],
    denial: str,
    balance: LengthBalance,
) -> Row:
    """The right expansion in the frame that balances lengths best, against the denial."""
    rights = [say(frame, subject.entry.abbreviation, subject.sense.expansion) for frame in frames]
    pair = balance.pick(kind, [(right, denial) for right in rights])
    return make_row(subject, prompt, kind, pair, "denial")
