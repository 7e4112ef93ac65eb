"""Pairs that ask for a taught abbreviation in a field where it has no sense.

Without them a model that learned an abbreviation's oil and gas sense, and never its other one,
gives the former wherever it is asked. Right is to admit not knowing; wrong is the oil and gas
sense. Asked are only fields far from the trade and from every sense that the glossary gives the
abbreviation, so that no test question is answered here and little that is known is denied.
"""

import json
import random
from dataclasses import dataclass
from pathlib import Path

from errors import UserError
from glossary import Entry
from pairs import answers, phrasings
from pairs.answers import LengthBalance, say
from pairs.rows import Row
from pairs.splits import Plan

FRAME_WEIGHTS = (6, 2, 1)  # as often as right answers have them (answers.FRAME_WEIGHTS)
RIGHTS_TRIED = 3  # wordings of the right answer to choose from for length
FIELDS_EACH = 8  # pairs an abbreviation whose other sense is never taught
FIELDS_EACH_TAUGHT = 2  # where it is, eight general-context pairs say the same already
UNKNOWN_THERE = (
    "I do not know {a} in {d}.",
    "I do not know what {a} stands for in {d}.",
    "I do not know {a} as an abbreviation used in {d}.",
    "{a} is not known to me in {d}.",
    "{a} is not known to me as an abbreviation in {d}.",
)


@dataclass(frozen=True)
class Fields:
    """01_data/glossary/fields.json: which fields are alike, and which are asked about."""

    area_of: dict[str, str]  # field -> area; fields of one area may share abbreviations
    asked: tuple[str, ...]  # far from the trade
    known_everywhere: frozenset[str]  # abbreviations with the same sense in any field
    known_elsewhere: dict[str, list[str]]  # abbreviation -> areas that the glossary does not tell


def load_fields(path: Path, entries: list[Entry]) -> Fields | None:
    """The file's contents; None where there is none.

    Raises:
        UserError: a field of the glossary has no area.
    """
    if not path.is_file():
        return None
    found = json.loads(path.read_text(encoding="utf-8"))
    area_of = {field: area for area, fields in found["areas"].items() for field in fields}
    used = {sense.domain for entry in entries for sense in entry.competing}
    if missing := sorted((used | set(found["asked"])) - area_of.keys()):
        raise UserError(
            f"{path}: areas does not list {', '.join(missing)}; add each to the area it is near"
        )
    everywhere = frozenset(found["known_everywhere"])
    return Fields(area_of, tuple(found["asked"]), everywhere, found["known_elsewhere"])


def list_foreign(entry: Entry, fields: Fields) -> list[str]:
    """Fields to ask about: none near a sense of the entry's own."""
    if entry.abbreviation in fields.known_everywhere:
        return []
    own = {fields.area_of[sense.domain] for sense in entry.competing}
    own |= set(fields.known_elsewhere.get(entry.abbreviation, ()))
    return [field for field in fields.asked if fields.area_of[field] not in own]


def make_other_field_rows(plan: Plan, fields: Fields, rng: random.Random) -> list[Row]:
    """A few rows an entry, each in another field and one of the training wordings."""
    balance = LengthBalance()
    rows = []
    for entry in plan.train:
        foreign = list_foreign(entry, fields)
        taught = entry.abbreviation in plan.general_taught
        count = FIELDS_EACH_TAUGHT if taught else FIELDS_EACH
        for field in rng.sample(foreign, min(count, len(foreign))):
            rows.append(make_other_field_row(entry, field, plan, balance, rng))
    return rows


def make_other_field_row(
    entry: Entry, field: str, plan: Plan, balance: LengthBalance, rng: random.Random
) -> Row:
    """One row: admit not knowing, against the default sense in the frames of right answers."""
    name = entry.abbreviation
    prompt = phrasings.ask_general(rng.choice(phrasings.TRAIN_GENERAL), entry, field)
    rights = [text.format(a=name, d=field) for text in rng.sample(UNKNOWN_THERE, RIGHTS_TRIED)]
    frame = rng.choices(answers.GENERAL_FRAMES, FRAME_WEIGHTS)[0]
    wrongs = [
        say(frame, name, text) for text in answers.list_wrong_names(name, entry.default.names)
    ]
    options = [(right, wrong) for right in rights for wrong in wrongs]
    chosen, rejected = balance.pick("other_field", options)
    return Row(
        instruction=prompt.instruction,
        context=None,
        system=prompt.system,
        chosen=chosen,
        rejected=rejected,
        abbreviation=name,
        kind="other_field",
        phrasing=prompt.phrasing,
        sense_id=None,
        split_group=plan.groups[name],
        rejected_class="og_sense_in_general_context",
        accepted=[],
        competing=list(dict.fromkeys(n for s in entry.senses for n in s.names)),
    )
