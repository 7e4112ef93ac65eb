"""Who goes where: unseen groups, the halves for general context, sentences, the mini set."""

import random
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from glossary import Entry, Sense, group_entries, holds_abbreviation
from utils.text import normalise

TEST_CONTEXTS = 1  # the last context of every sense is kept for the tests
# Taught in the mini set, in this order of preference; all are everyday words of the trade.
WELL_KNOWN = """
ROP BHA BOP MWD ESP FPSO DP LWD WOB TVD LNG GOR LCM OBM TOC P&A DST BHP EOR PVT ROV LPG FCC PSV
ESD SIL API BOE NPT ECD KOP WBM CBL LOT WHP CDU HSE PTW POB AFE PSC JOA TLP NGL OIM MEG SSV GLV
PCP RIH DLS RSS CT PLT VSP OWC GOC FWL HPU BPV TAN RVP CCS FOB JV
"""
MINI_SIZE = 48


@dataclass(frozen=True)
class Plan:
    """The split of the glossary that every file is written from."""

    train: list[Entry]  # taught
    unseen: list[Entry]  # test D: no wording of theirs anywhere in train
    general_taught: frozenset[str]  # abbreviations whose general sense is taught too (E1)
    mini: frozenset[str]  # abbreviations of the mini set
    groups: dict[str, str]  # abbreviation -> split group

    @property
    def held_out(self) -> set[str]:
        """Abbreviations that no training text may hold."""
        return {entry.abbreviation for entry in self.unseen}


def make_plan(entries: list[Entry], seed: int, unseen_size: int) -> Plan:
    """Split the glossary: at least `unseen_size` abbreviations are held out, by whole groups."""
    groups = group_entries(entries)
    known = {entry.abbreviation for entry in entries}
    reserved = [name for name in WELL_KNOWN.split() if name in known]
    unseen = choose_unseen(entries, groups, set(reserved), random.Random(f"{seed}-unseen"))
    held_out: set[str] = set()
    for group in unseen:
        if len(held_out) >= unseen_size:
            break
        held_out |= {name for name, owner in groups.items() if owner == group}
    train = [entry for entry in entries if entry.abbreviation not in held_out]
    mini = reserved[:MINI_SIZE]
    rest = [e.abbreviation for e in train if e.abbreviation not in mini]
    random.Random(f"{seed}-general").shuffle(rest)
    return Plan(
        train,
        [entry for entry in entries if entry.abbreviation in held_out],
        frozenset((*sorted(mini)[::2], *rest[::2])),
        frozenset(mini),
        groups,
    )


def choose_unseen(
    entries: list[Entry], groups: dict[str, str], reserved: set[str], rng: random.Random
) -> list[str]:
    """Groups that may be held out, shuffled: nobody else's texts mention their expansions."""
    mentioned = find_mentions(entries, groups)
    well_known = {groups[name] for name in reserved}
    eligible = sorted(set(groups.values()) - mentioned - well_known)
    rng.shuffle(eligible)
    return eligible


def find_mentions(entries: list[Entry], groups: dict[str, str]) -> set[str]:
    """Groups one of whose expansions or aliases stands in the text of another group."""
    owners: dict[str, set[str]] = defaultdict(set)
    for entry in entries:
        for sense in entry.senses:
            for name in sense.names:
                owners[normalise(name)].add(groups[entry.abbreviation])
    heads = {name.split()[0] for name in owners}
    longest = max(len(name.split()) for name in owners)
    mentioned: set[str] = set()
    for entry in entries:
        for phrase in list_phrases(list_texts(entry), heads, longest):
            mentioned |= owners.get(phrase, set()) - {groups[entry.abbreviation]}
    return mentioned


def list_texts(entry: Entry) -> list[str]:
    """Everything of an entry that training rows may show."""
    return [t for s in entry.senses for t in (*s.names, s.definition, *s.contexts)]


def list_phrases(texts: list[str], heads: set[str], longest: int) -> Iterable[str]:
    """Runs of words that begin with one of `heads`, the last word with and without plural s."""
    for text in texts:
        words = normalise(text).split()
        for start, word in enumerate(words):
            if word not in heads and word.removesuffix("s") not in heads:
                continue
            for end in range(start + 1, min(start + longest, len(words)) + 1):
                phrase = " ".join(words[start:end])
                yield phrase
                yield phrase.removesuffix("s")


def train_contexts(sense: Sense, held_out: Iterable[str]) -> list[str]:
    """Sentences for training: all but those kept for the tests or naming a held-out term."""
    contexts = sense.contexts[:-TEST_CONTEXTS]
    return [c for c in contexts if not any(holds_abbreviation(name, c) for name in held_out)]


def choose_test_context(sense: Sense) -> str:
    """The sentence that only the tests show."""
    return sense.contexts[-1]


def find_held_out_names(plan: Plan) -> set[str]:
    """Normalised wordings of every sense of the unseen abbreviations."""
    return {normalise(n) for entry in plan.unseen for sense in entry.senses for n in sense.names}


def find_mentioning(texts: list[list[str]], names: set[str]) -> list[bool]:
    """For each list of texts, whether one of the normalised `names` stands in it as whole words."""
    heads = {name.split()[0] for name in names}
    longest = max((len(name.split()) for name in names), default=0)
    return [any(p in names for p in list_phrases(group, heads, longest)) for group in texts]
