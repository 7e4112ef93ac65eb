"""Every way a question is put. Training, validation and tests never share one.

Letters name the kind, numbers the wording: P direct, Q direct but as people type, S domain set by
the system prompt, C context sentence, R rewrite, D definition, B definition to abbreviation, G
general context, A ambiguous, L locality. P1-P8 train, P9 validates, P10-P12 test; the other test
wordings are in TEST_ONLY.
"""

from glossary import Entry, Sense
from pairs.fields import find_field
from pairs.rows import Prompt

DIRECT = {
    "P1": "In oil and gas, what does {a} stand for?",
    "P2": "What does {a} mean {place}?",
    "P3": "Spell out {a} as used in {field}.",
    "P4": "What is {a} short for in {field}?",
    "P5": "I came across {a} in {document}. What does it stand for?",
    "P6": "Expand the oil and gas abbreviation {a}.",
    "P7": "What does the abbreviation {a} mean to {person}?",
    "P8": "{a} in the oil industry: what are the full words?",
    "P9": "What is the full form of {a} in the petroleum industry?",
    "P10": "What do the letters {a} stand for {place}?",
    "P11": "Please write out {a} in full for {person}.",
    "P12": "Someone used {a} {place}. What is the term in full?",
}
CASUAL = {
    "Q1": "{a} meaning oil gas",
    "Q2": "My colleague {place} keeps saying {a}. What is that?",
    "Q3": "Define {a} (petroleum engineering).",
    "Q4": "Please explain the acronym {a} to a newcomer in {field}.",
    "Q5": "whats {a}, I work in oil and gas",
    "Q6": "Onshore or offshore, what is meant by {a}?",
    "Q7": "Could you remind me what {a} is? It was in {document}.",
    "Q8": "spell out {a}",
}
TRAIN_DIRECT = ("P1", "P2", "P3", "P4", "P5", "P6", "P7", "P8")
VALIDATION_DIRECT = "P9"
TEST_DIRECT = ("P10", "P11", "P12")

SYSTEM = {
    "S1": ("You answer questions about {field}.", "What does {a} stand for?"),
    "S2": ("You help {person}.", "Expand {a}."),
    "S3": ("Read every abbreviation as the oil and gas industry does.", "What is {a} short for?"),
    "S4": ("You explain terms found in {document}.", "What does {a} mean?"),
}
CONTEXT = {
    "C1": "What does {a} stand for in the text above?",
    "C2": "What does {a} mean here?",
    "C3": "Expand the abbreviation {a} as it is used above.",
    "C4": "Which words does {a} abbreviate in this sentence?",
}
REWRITE = {
    "R1": "Rewrite the sentence above, spelling out {a}.",
    "R2": "Repeat the text above, but write {a} in full.",
}
DEFINITION = {
    "D1": "What is {a} in oil and gas? Give the full form and a definition.",
    "D2": "Define {a} the way {person} would.",
    "D3": "Explain {a}, a term from {field}: its full name and its meaning.",
}
TO_ABBREVIATION = {
    "B1": "Which oil and gas abbreviation fits this definition? {definition}",
    "B2": "{definition} Which abbreviation does {person} use for it?",
}
GENERAL = {
    "G1": "In {domain}, what does {a} stand for?",
    "G2": "What does {a} mean in {domain}?",
    "G3": "What does {a} stand for in the text above?",
    "G4": "What is {a} short for?",  # the system prompt names the domain
    "G5": "Which term is abbreviated as {a} in {domain}?",
    "G6": "Which words does {a} abbreviate in this sentence?",
    "G7": "What is {a} short for in {domain}?",
    "G8": "Expand {a} as it is used in {domain}.",
    "G9": "I work in {domain}. What does {a} mean there?",
    "G10": "What is the full form of {a} in {domain}?",
}
TRAIN_GENERAL = ("G1", "G2", "G4", "G7", "G8", "G9", "G10")  # and G3, with a sentence
GENERAL_SYSTEM = "You answer questions about {domain}."
AMBIGUOUS = {
    "A1": "What does {a} stand for?",
    "A2": "What is {a}?",
    "A3": "{a}: what is that short for?",
}
LOCALITY = {
    "L1": "What does {a} stand for in {domain}?",
    "L2": "What does {a} stand for in this text?",
}
TEST_ONLY = (*TEST_DIRECT, *CASUAL, "C4", "G5", "G6", *LOCALITY)


def ask_direct(phrasing: str, entry: Entry, category: str | None = None) -> Prompt:
    """A direct question; its words are those of the default sense's category."""
    return Prompt(phrasing, fill({**DIRECT, **CASUAL}[phrasing], entry, category))


def ask_with_system(phrasing: str, entry: Entry) -> Prompt:
    """A bare question whose domain the system prompt sets."""
    system, instruction = SYSTEM[phrasing]
    return Prompt(phrasing, fill(instruction, entry), system=fill(system, entry))


def ask_in_context(phrasing: str, entry: Entry, context: str) -> Prompt:
    """A question about the abbreviation in a sentence (wordings C, R and G3, G6)."""
    templates = {**CONTEXT, **REWRITE, **GENERAL}
    return Prompt(phrasing, fill(templates[phrasing], entry), context=context)


def ask_definition(phrasing: str, entry: Entry) -> Prompt:
    """A question for the full form and a definition of the default sense."""
    return Prompt(phrasing, fill(DEFINITION[phrasing], entry))


def ask_abbreviation(phrasing: str, entry: Entry, sense: Sense) -> Prompt:
    """A definition whose abbreviation is asked for."""
    text = fill(TO_ABBREVIATION[phrasing].replace("{definition}", "\0"), entry)
    return Prompt(phrasing, text.replace("\0", sense.definition))


def ask_general(phrasing: str, entry: Entry, domain: str) -> Prompt:
    """A question that names another domain, in the question or (G4) in the system prompt."""
    template = GENERAL[phrasing].replace("{domain}", domain)
    system = GENERAL_SYSTEM.format(domain=domain) if phrasing == "G4" else None
    return Prompt(phrasing, fill(template, entry), system=system)


def ask_without_field(phrasing: str, entry: Entry) -> Prompt:
    """A question that names no domain at all."""
    return Prompt(phrasing, fill(AMBIGUOUS[phrasing], entry))


def fill(template: str, entry: Entry, category: str | None = None) -> str:
    """A template with the abbreviation and the words of its category put in."""
    if category is None and entry.senses:
        category = entry.default.category
    field = find_field(entry, category or "")
    return template.format(
        a=entry.abbreviation,
        field=field.field,
        place=field.place,
        document=field.document,
        person=field.person,
    )
