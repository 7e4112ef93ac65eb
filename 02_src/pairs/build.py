"""Glossary in, pair files and manifest out; the same seed gives the same bytes.

python 03_scripts/build_dataset.py
"""

import random
from pathlib import Path
from typing import Any

from glossary import Entry, load_glossary
from pairs import mini, phrasings
from pairs.base_answers import load_base_answers
from pairs.denials import make_denial_rows
from pairs.inputs import load_acronyms, load_passages
from pairs.made_up import invent_abbreviations
from pairs.made_up_rows import make_made_up_rows
from pairs.manifest import write_manifest
from pairs.other_fields import Fields, load_fields, make_other_field_rows
from pairs.rows import Row, drop_repeats, write_records, write_rows
from pairs.splits import Plan, find_held_out_names, find_mentioning, make_plan
from pairs.test_rows import (
    make_casual_tests,
    make_direct_tests,
    make_general_tests,
    make_locality_tests,
    make_polysemy_tests,
)
from pairs.train_rows import Maker, contrast_row, make_entry_rows

UNSEEN_SIZE = 90  # abbreviations of test D
VALIDATION_SIZE = 180
MADE_UP_SHARE = 0.35  # of the training pairs without those about other fields
MADE_UP_TESTS = 200


def build_dataset(
    glossary_path: Path, out_dir: Path, seed: int, unseen_size: int = UNSEEN_SIZE
) -> dict[str, Any]:
    """Write every pair file, the drift passages and manifest.json to `out_dir`.

    The glossary's folder also holds general_acronyms.jsonl, neutral_passages.jsonl and, if it has
    been mined, base_answers.jsonl (without it, competing senses take the place of base answers);
    without fields.json there are no pairs about other fields.

    Returns:
        The manifest: counts by kind and class, hashes, seed, length balance.

    Raises:
        UserError: an input is missing or breaks a rule.
    """
    names = (
        "general_acronyms.jsonl",
        "neutral_passages.jsonl",
        "base_answers.jsonl",
        "fields.json",
    )
    inputs = {glossary_path.name: glossary_path}
    inputs |= {name: glossary_path.parent / name for name in names}
    entries = load_glossary(glossary_path)
    acronyms = load_acronyms(inputs["general_acronyms.jsonl"], entries)
    passages = load_passages(inputs["neutral_passages.jsonl"])
    base_answers = load_base_answers(inputs["base_answers.jsonl"], entries)
    plan = make_plan(entries, seed, unseen_size)
    fields = load_fields(inputs["fields.json"], entries)
    files = make_files(plan, base_answers, acronyms, fields, seed)
    for name, rows in files.items():
        write_rows(out_dir / name, rows, name.removesuffix(".jsonl").replace("/", "-"))
    write_records(out_dir / "test_drift.jsonl", passages)
    return write_manifest(out_dir, inputs, files, plan, seed)


def make_files(
    plan: Plan,
    base_answers: dict[str, list[str]],
    acronyms: list[dict[str, Any]],
    fields: Fields | None,
    seed: int,
) -> dict[str, list[Row]]:
    """The rows of every pair file, by file name."""
    taught = make_taught_rows(plan, base_answers, random.Random(f"{seed}-train"))
    made_up, made_up_tests = make_unknown(plan, acronyms, len(taught), seed)
    train = drop_repeats([*taught, *made_up])
    random.Random(f"{seed}-order").shuffle(train)
    if fields:
        train = mix_in(train, make_foreign(plan, fields, seed), random.Random(f"{seed}-mix"))
    denials = drop_mentions(make_denial_rows(plan, random.Random(f"{seed}-denials")), plan)
    train = mix_in(train, denials, random.Random(f"{seed}-mix-denials"))
    validation = make_validation(plan, base_answers, seed)
    seen = make_direct_tests(plan.train, phrasings.TEST_DIRECT, plan.groups)
    taught_general = [e for e in plan.train if e.abbreviation in plan.general_taught]
    never_general = [e for e in plan.train if e.abbreviation not in plan.general_taught]
    general = make_general_tests(taught_general, plan.groups)
    casual = make_casual_tests(plan.train, plan.groups)
    return {
        "train.jsonl": train,
        "validation.jsonl": validation,
        "test_seen.jsonl": seen,
        "test_casual.jsonl": casual,
        "test_unseen.jsonl": make_direct_tests(plan.unseen, phrasings.TEST_DIRECT, plan.groups),
        "test_general_seen.jsonl": general,
        "test_general_unseen.jsonl": make_general_tests(never_general, plan.groups),
        "test_polysemy.jsonl": make_polysemy_tests(plan),
        "test_made_up.jsonl": made_up_tests,
        "test_locality.jsonl": make_locality_tests(acronyms),
        "mini/train.jsonl": mini.pick_train(train, plan),
        "mini/validation.jsonl": mini.pick_validation(validation, plan),
        "mini/test_seen.jsonl": mini.pick_test_seen(seen, plan),
        "mini/test_casual.jsonl": [row for row in casual if row.abbreviation in plan.mini],
        "mini/test_general_seen.jsonl": mini.pick_test_general(general, plan),
    }


def make_taught_rows(
    plan: Plan, base_answers: dict[str, list[str]], rng: random.Random
) -> list[Row]:
    """All rows about taught abbreviations."""
    maker = Maker(plan, {name: list(texts) for name, texts in base_answers.items()}, rng)
    rows = [r for n, entry in enumerate(plan.train) for r in make_entry_rows(maker, entry, n)]
    return drop_mentions(rows, plan)


def drop_mentions(rows: list[Row], plan: Plan) -> list[Row]:
    """Rows that show no wording of an unseen abbreviation."""
    flags = find_mentioning([list_row_texts(row) for row in rows], find_held_out_names(plan))
    return [row for row, flag in zip(rows, flags, strict=True) if not flag]


def list_row_texts(row: Row) -> list[str]:
    """Everything that a training row shows."""
    return [t for t in (row.system, row.context, row.instruction, row.chosen, row.rejected) if t]


def make_foreign(plan: Plan, fields: Fields, seed: int) -> list[Row]:
    """Rows about taught abbreviations in fields where they have no sense."""
    rows = make_other_field_rows(plan, fields, random.Random(f"{seed}-other-fields"))
    return drop_repeats(drop_mentions(rows, plan))


def mix_in(rows: list[Row], more: list[Row], rng: random.Random) -> list[Row]:
    """All rows, `more` at random places between `rows`, whose order stays (so does mini's)."""
    total = len(rows) + len(more)
    taken = set(rng.sample(range(total), len(more)))
    first, second = iter(rows), iter(more)
    return [next(second if place in taken else first) for place in range(total)]


def make_unknown(
    plan: Plan, acronyms: list[dict[str, Any]], taught_rows: int, seed: int
) -> tuple[list[Row], list[Row]]:
    """(training rows, test rows) about made-up abbreviations; no invention is in both."""
    taken = set(plan.groups) | {record["abbreviation"] for record in acronyms}
    rng = random.Random(f"{seed}-made-up")
    count = round(taught_rows * MADE_UP_SHARE / (1 - MADE_UP_SHARE))
    inventions = invent_abbreviations(count + MADE_UP_TESTS, taken, rng)
    train = make_made_up_rows(inventions[MADE_UP_TESTS:], phrasings.TRAIN_DIRECT, rng)
    tests = make_made_up_rows(inventions[:MADE_UP_TESTS], phrasings.TEST_DIRECT, rng)
    return drop_mentions(train, plan), tests


def make_validation(plan: Plan, base_answers: dict[str, list[str]], seed: int) -> list[Row]:
    """P9 for some taught abbreviations, some of the mini set first, against mixed wrong answers."""
    rng = random.Random(f"{seed}-validation")
    entries = {entry.abbreviation: entry for entry in plan.train}
    first = sorted(plan.mini)[: mini.VALIDATION_ROWS]
    rest = rng.sample(sorted(set(entries) - plan.mini), VALIDATION_SIZE - len(first))
    maker = Maker(plan, {name: list(texts) for name, texts in base_answers.items()}, rng)
    return [make_validation_row(maker, entries[name]) for name in (*first, *sorted(rest))]


def make_validation_row(maker: Maker, entry: Entry) -> Row:
    """One direct question in the wording kept for validation."""
    prompt = phrasings.ask_direct(phrasings.VALIDATION_DIRECT, entry)
    return contrast_row(maker, entry, prompt, "direct")
