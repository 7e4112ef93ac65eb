"""Training pairs: every kind of question about the taught abbreviations, with its wrong answer."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field

from glossary import Entry, Sense, holds_abbreviation
from pairs import answers, phrasings
from pairs.answers import Answers, LengthBalance, say
from pairs.made_up import invent_expansion
from pairs.rows import Prompt, Row, Subject, leaks_answer, make_row
from pairs.splits import Plan, train_contexts

BASE_SHARE = 0.53  # of direct and system questions: wrong answer from the base model
INVENTION_SHARE = 0.04  # of the same: an invention; the rest names the competing sense
OTHER_SENSE_SHARE = 0.6  # of context questions with two oil and gas senses: the other one
CONTEXTS_OF_POLYSEMOUS = 3  # sentences asked about per sense, where the sentence decides
BASE_CHOICES = 4  # base answers that may be chosen from for length
DISTRACTORS = 6  # other entries that may be chosen from for length


@dataclass
class Maker:
    """What the makers of rows share: the split, the mined answers, one stream of chance."""

    plan: Plan
    base_answers: dict[str, list[str]]
    rng: random.Random
    balance: LengthBalance = field(default_factory=LengthBalance)

    def describe(self, entry: Entry, sense: Sense, fixed: bool = False) -> Subject:
        """The subject of a question about `sense`."""
        return Subject(entry, sense, self.plan.groups[entry.abbreviation], fixed)

    def draw_distractors(self, subject: Subject) -> list[Entry]:
        """A few taught entries of other categories and groups: surely something else."""
        own = subject.entry
        pool = [
            entry
            for entry in self.rng.sample(self.plan.train, 4 * DISTRACTORS)
            if entry.default.category != subject.sense.category
            and self.plan.groups[entry.abbreviation] != subject.group
            and not holds_abbreviation(own.abbreviation, entry.default.definition)
        ]
        return pool[:DISTRACTORS]


def make_entry_rows(maker: Maker, entry: Entry, number: int) -> list[Row]:
    """All training rows of one entry; `number` rotates the wordings and halves some kinds."""
    rows = [*direct_rows(maker, entry), system_row(maker, entry, number)]
    rows += context_rows(maker, entry, number)
    rows.append(definition_row(maker, entry, number))
    if len(entry.oil_gas) > 1 or number % 2:
        rows += rewrite_rows(maker, entry, number)
    rows.append((abbreviation_row if number % 2 else ambiguous_row)(maker, entry, number))
    if entry.abbreviation in maker.plan.general_taught:
        rows += general_rows(maker, entry)
    return [row for row in rows if row is not None]


def direct_rows(maker: Maker, entry: Entry) -> Iterator[Row]:
    """P1 to P8 about the default sense."""
    for phrasing in phrasings.TRAIN_DIRECT:
        yield contrast_row(maker, entry, phrasings.ask_direct(phrasing, entry), "direct")


def system_row(maker: Maker, entry: Entry, number: int) -> Row:
    """A bare question; the system prompt says which industry."""
    phrasing = list(phrasings.SYSTEM)[number % len(phrasings.SYSTEM)]
    return contrast_row(maker, entry, phrasings.ask_with_system(phrasing, entry), "system_domain")


def contrast_row(maker: Maker, entry: Entry, prompt: Prompt, kind: str) -> Row:
    """The default sense against the base's answer, an invention or a competing sense."""
    subject = maker.describe(entry, entry.default)
    frame, draw = answers.draw_frame(maker.rng), maker.rng.random()
    mined = maker.base_answers.get(entry.abbreviation, [])
    if mined and draw < BASE_SHARE:
        pair = maker.balance.pick(kind, pair_with_mined(subject, mined[:BASE_CHOICES]))
        mined.append(mined.pop(mined.index(pair[1])))  # to the end: next time another one
        return make_row(subject, prompt, kind, pair, "base_answer")
    invention = invent_expansion(entry, maker.rng)
    if invention and BASE_SHARE <= draw < BASE_SHARE + INVENTION_SHARE:
        pair = maker.balance.pick(kind, pair_in_frame(subject, [invention], frame))
        return make_row(subject, prompt, kind, pair, "invention")
    names = answers.list_wrong_names(entry.abbreviation, maker.rng.choice(entry.competing).names)
    pair = maker.balance.pick(kind, pair_in_frame(subject, names, frame))
    return make_row(subject, prompt, kind, pair, "competing_sense")


def pair_in_frame(subject: Subject, wrong: list[str], frame: str) -> list[Answers]:
    """The right expansion against each wrong one, in the same frame."""
    name = subject.entry.abbreviation
    right = say(frame, name, subject.sense.expansion)
    return [(right, say(frame, name, text)) for text in wrong]


def pair_with_mined(subject: Subject, mined: list[str]) -> list[Answers]:
    """The right expansion in every frame, short and long, against each mined answer."""
    name, sense = subject.entry.abbreviation, subject.sense
    right = [say(f, name, sense.expansion) for f in (*answers.FRAMES, *answers.LONG_FRAMES)]
    right.append(f"{right[0]} {sense.definition}")
    return [(text, wrong) for wrong in mined for text in right]


def context_rows(maker: Maker, entry: Entry, number: int) -> Iterator[Row]:
    """What the abbreviation means in a sentence; where it has two senses, several sentences."""
    polysemous = len(entry.oil_gas) > 1
    for sense in entry.oil_gas:
        contexts = train_contexts(sense, maker.plan.held_out)
        for step, context in enumerate(contexts[: CONTEXTS_OF_POLYSEMOUS if polysemous else 1]):
            prompt = phrasings.ask_in_context(f"C{(number + step) % 3 + 1}", entry, context)
            subject = maker.describe(entry, sense, fixed=True)
            wrong, rejected_class = choose_other_sense(maker, subject)
            frame = maker.rng.choice(answers.GENERAL_FRAMES)
            names = answers.list_wrong_names(entry.abbreviation, wrong.names)
            options = pair_in_frame(subject, names, frame)
            pair = maker.balance.pick("context_sentence", options)
            yield make_row(subject, prompt, "context_sentence", pair, rejected_class)


def choose_other_sense(maker: Maker, subject: Subject) -> tuple[Sense, str]:
    """A sense that the context excludes, and its class: another oil and gas one, or competing."""
    others = [s for s in subject.entry.oil_gas if s is not subject.sense]
    if others and maker.rng.random() < OTHER_SENSE_SHARE:
        return maker.rng.choice(others), "other_og_sense"
    return maker.rng.choice(subject.entry.competing), "competing_sense"


def rewrite_rows(maker: Maker, entry: Entry, number: int) -> Iterator[Row]:
    """A sentence with the abbreviation spelled out, against one spelled out wrongly."""
    name = entry.abbreviation
    for sense in entry.oil_gas:
        for context in train_contexts(sense, maker.plan.held_out)[-1:]:
            prompt = phrasings.ask_in_context(f"R{number // 2 % 2 + 1}", entry, context)
            subject = maker.describe(entry, sense, fixed=True)
            wrong, rejected_class = choose_other_sense(maker, subject)
            right = answers.spell_out(context, name, sense.expansion)
            names = answers.list_wrong_names(name, wrong.names)
            options = [(right, answers.spell_out(context, name, text)) for text in names]
            pair = maker.balance.pick("rewrite", options)
            yield make_row(subject, prompt, "rewrite", pair, rejected_class)


def definition_row(maker: Maker, entry: Entry, number: int) -> Row:
    """Full form and definition, against the right full form with another term's definition."""
    subject = maker.describe(entry, entry.default)
    head = say(answers.draw_frame(maker.rng), entry.abbreviation, subject.sense.expansion)
    options = [
        (f"{head} {subject.sense.definition}", f"{head} {other.default.definition}")
        for other in maker.draw_distractors(subject)
    ]
    pair = maker.balance.pick("definition", options)
    prompt = phrasings.ask_definition(f"D{number % 3 + 1}", entry)
    return make_row(subject, prompt, "definition", pair, "wrong_definition")


def abbreviation_row(maker: Maker, entry: Entry, number: int) -> Row | None:
    """Definition to abbreviation, against a wrong reading of it or another abbreviation."""
    subject = maker.describe(entry, entry.default, fixed=True)
    prompt = phrasings.ask_abbreviation(f"B{number // 2 % 2 + 1}", entry, entry.default)
    if leaks_answer(subject, prompt):
        return None
    frame = "The abbreviation is {a}, which stands for {e}."
    right = say(frame, entry.abbreviation, entry.default.expansion)
    if maker.rng.random() < 0.6:
        competing = maker.rng.choice(entry.competing)
        names = answers.list_wrong_names(entry.abbreviation, competing.names)
        options = [(right, say(frame, entry.abbreviation, name)) for name in names]
        rejected_class = "competing_sense"
    else:
        others = maker.draw_distractors(subject)
        options = [(right, say(frame, o.abbreviation, o.default.expansion)) for o in others]
        rejected_class = "wrong_definition"
    pair = maker.balance.pick("definition_to_abbreviation", options)
    return make_row(subject, prompt, "definition_to_abbreviation", pair, rejected_class)


def ambiguous_row(maker: Maker, entry: Entry, number: int) -> Row:
    """A question without a field: name the oil and gas sense and say that it depends."""
    subject = maker.describe(entry, entry.default)
    right = say(maker.rng.choice(answers.HEDGED), entry.abbreviation, entry.default.expansion)
    sense = maker.rng.choice((entry.default, maker.rng.choice(entry.competing)))
    wrong = [say(frame, entry.abbreviation, sense.expansion) for frame in answers.UNHEDGED]
    pair = maker.balance.pick("ambiguous", [(right, text) for text in wrong])
    prompt = phrasings.ask_without_field(f"A{number // 2 % 3 + 1}", entry)
    return make_row(subject, prompt, "ambiguous", pair, "no_hedge")


def general_rows(maker: Maker, entry: Entry) -> Iterator[Row]:
    """Another domain is named or shown: there the competing sense is right."""
    sense = entry.competing[0]
    prompts = [phrasings.ask_general(p, entry, sense.domain) for p in phrasings.TRAIN_GENERAL]
    prompts.append(phrasings.ask_in_context("G3", entry, sense.contexts[0]))
    subject = maker.describe(entry, sense, fixed=True)
    wrong = answers.list_wrong_names(entry.abbreviation, entry.default.names)
    for prompt in prompts:
        if leaks_answer(subject, prompt):
            continue
        frame = maker.rng.choice(answers.GENERAL_FRAMES)
        options = pair_in_frame(subject, wrong, frame)
        pair = maker.balance.pick("general_context", options)
        yield make_row(subject, prompt, "general_context", pair, "og_sense_in_general_context")
