"""Pairs that ask for a taught abbreviation in a field where the glossary gives it no sense.

Without them a model that learned an abbreviation's oil and gas sense, and never its other one,
gives the former wherever it is asked. Right is to admit not knowing; wrong is the oil and gas
sense. An abbreviation's own other fields are left out, so no test question is answered here.
"""

import random

from glossary import Entry
from pairs import answers, phrasings
from pairs.answers import LengthBalance, say
from pairs.rows import Row
from pairs.splits import Plan

FIELDS_EACH = 4  # pairs an abbreviation whose other sense is never taught
FIELDS_EACH_TAUGHT = 2  # where it is, eight general-context pairs say the same already
UNKNOWN_THERE = (
    "I do not know what {a} stands for in {d}.",
    "I do not know {a} as an abbreviation used in {d}.",
    "{a} is not known to me as an abbreviation in {d}.",
    "I do not know {a} in {d}.",
)
# Near the trade: there the oil and gas sense may well be meant.
NEAR = frozenset(
    (
        "Alaskan public finance", "IMF publications", "Indian mining", "US defense research",
        "US environmental regulation", "US national laboratories", "US water management",
        "accounting", "air quality", "analytical chemistry", "banking", "business management",
        "chemistry", "climate policy", "climate science", "composite materials", "control theory",
        "corporate finance", "corporate law", "development finance", "economics", "ecotoxicology",
        "electric power grids", "electric utilities", "electrical engineering", "electrical power",
        "electrical safety", "electrochemistry", "electronics", "energy harvesting",
        "enterprise software", "geodesy", "government procurement",
        "hazardous materials transport", "heating and cooling", "hydrology", "insurance",
        "international business", "international organizations", "law", "manufacturing",
        "manufacturing business", "materials science", "metrology", "mining", "motor control",
        "navigation", "nuclear power", "nuclear research", "numerical analysis", "oceanography",
        "physical chemistry", "physics", "plumbing", "polymer chemistry", "power generation",
        "power systems", "product development", "professional qualifications",
        "project management", "public safety", "radio communications", "refrigeration",
        "research funding", "satellite remote sensing", "signal processing", "soil science",
        "statistics", "taxation", "telecommunications", "the automotive industry", "the military",
        "the physics community", "the technology industry", "timekeeping", "trade statistics",
        "vehicle emissions control", "wave energy", "wind energy",
    )
)  # fmt: skip


def make_other_field_rows(plan: Plan, rng: random.Random) -> list[Row]:
    """A few rows an entry, each in another field and one of the training wordings."""
    fields = {s.domain for e in plan.train for s in e.competing} - NEAR
    balance = LengthBalance()
    rows = []
    for entry in plan.train:
        foreign = sorted(fields - {sense.domain for sense in entry.senses})
        taught = entry.abbreviation in plan.general_taught
        for field in rng.sample(foreign, FIELDS_EACH_TAUGHT if taught else FIELDS_EACH):
            rows.append(make_other_field_row(entry, field, plan, balance, rng))
    return rows


def make_other_field_row(
    entry: Entry, field: str, plan: Plan, balance: LengthBalance, rng: random.Random
) -> Row:
    """One row: admit not knowing, against the default sense in the usual frame."""
    name = entry.abbreviation
    prompt = phrasings.ask_general(rng.choice(phrasings.TRAIN_GENERAL), entry, field)
    frame = rng.choice(answers.GENERAL_FRAMES)
    wrongs = [say(frame, name, e) for e in answers.list_wrong_names(name, entry.default.names)]
    rights = [text.format(a=name, d=field) for text in UNKNOWN_THERE]
    chosen, rejected = balance.pick("other_field", [(r, w) for r in rights for w in wrongs])
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
