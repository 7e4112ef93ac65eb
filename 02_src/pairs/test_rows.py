"""Validation and test pairs: wordings, sentences and abbreviations that training never shows."""

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

from glossary import Entry, Sense
from pairs import phrasings
from pairs.answers import FRAMES, say
from pairs.rows import Prompt, Row, Subject, leaks_answer, make_row
from pairs.splits import Plan, choose_test_context

PLAIN = FRAMES[0]


def make_plain_row(
    subject: Subject, prompt: Prompt, kind: str, wrong: Sense, rejected_class: str
) -> Row:
    """A row whose answers are "X stands for ..." on both sides: nothing but the sense differs."""
    name = subject.entry.abbreviation
    pair = (say(PLAIN, name, subject.sense.expansion), say(PLAIN, name, wrong.expansion))
    return make_row(subject, prompt, kind, pair, rejected_class)


def make_direct_tests(
    entries: Iterable[Entry], wordings: Iterable[str], groups: dict[str, str]
) -> list[Row]:
    """Direct questions, all abbreviations in the first wording, then all in the next."""
    entries = list(entries)
    return [make_direct_test(entry, p, groups) for p in wordings for entry in entries]


def make_casual_tests(entries: Iterable[Entry], groups: dict[str, str]) -> list[Row]:
    """Each abbreviation once as people type, the casual wordings in turns."""
    wordings = itertools.cycle(phrasings.CASUAL)
    return [make_direct_test(entry, next(wordings), groups) for entry in entries]


def make_direct_test(entry: Entry, phrasing: str, groups: dict[str, str]) -> Row:
    """One direct question about the default sense."""
    subject = Subject(entry, entry.default, groups[entry.abbreviation], False)
    prompt = phrasings.ask_direct(phrasing, entry)
    return make_plain_row(subject, prompt, "direct", entry.competing[0], "competing_sense")


def make_general_tests(entries: list[Entry], groups: dict[str, str]) -> list[Row]:
    """Questions in another domain: first the domain is named (G5), then shown (G6)."""
    rows = []
    for phrasing in ("G5", "G6"):
        for entry in entries:
            sense = entry.competing[0]
            subject = Subject(entry, sense, groups[entry.abbreviation], True)
            prompt = ask_general_test(phrasing, entry, sense)
            if not leaks_answer(subject, prompt):
                kind = "general_context"
                reason = "og_sense_in_general_context"
                rows.append(make_plain_row(subject, prompt, kind, entry.default, reason))
    return rows


def ask_general_test(phrasing: str, entry: Entry, sense: Sense) -> Prompt:
    """The domain in the question (G5), or a sentence of that domain before it (G6)."""
    if phrasing == "G5":
        return phrasings.ask_general(phrasing, entry, sense.domain)
    return phrasings.ask_in_context(phrasing, entry, choose_test_context(sense))


def make_polysemy_tests(plan: Plan) -> list[Row]:
    """Taught abbreviations with several oil and gas senses: an unseen sentence decides."""
    rows = []
    for entry in plan.train:
        for sense in entry.oil_gas if len(entry.oil_gas) > 1 else ():
            subject = Subject(entry, sense, plan.groups[entry.abbreviation], True)
            prompt = phrasings.ask_in_context("C4", entry, choose_test_context(sense))
            wrong = next(s for s in entry.oil_gas if s is not sense)
            kind = "context_sentence"
            rows.append(make_plain_row(subject, prompt, kind, wrong, "other_og_sense"))
    return rows


def make_locality_tests(acronyms: list[dict[str, Any]]) -> list[Row]:
    """Acronyms without an oil and gas sense: domain named (L1), then a sentence shown (L2)."""
    return [row for phrasing in phrasings.LOCALITY for row in ask_locality(phrasing, acronyms)]


def ask_locality(phrasing: str, acronyms: list[dict[str, Any]]) -> Iterator[Row]:
    """One row per acronym in one wording."""
    for record in acronyms:
        name = record["abbreviation"]
        words = {"a": name, "domain": record["domain"]}
        yield Row(
            instruction=phrasings.LOCALITY[phrasing].format(**words),
            context=record["contexts"][0] if phrasing == "L2" else None,
            system=None,
            chosen=say(PLAIN, name, record["expansion"]),
            rejected=say(PLAIN, name, record["wrong"]),
            abbreviation=name,
            kind="locality",
            phrasing=phrasing,
            sense_id=None,
            split_group=name,
            rejected_class="invention",
            accepted=[record["expansion"]],
            competing=[record["wrong"]],
        )
