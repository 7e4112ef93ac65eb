"""The glossary and the parts of the builder: rules, groups, mined answers, articles."""

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from config import REPOSITORY
from errors import UserError
from glossary import Entry, group_entries, load_glossary, read_entry
from pairs import answers
from pairs.base_answers import is_usable, load_base_answers, trim_answer
from pairs.fields import FIELDS
from pairs.inputs import load_acronyms
from utils.text import contains_phrase

SHIPPED = REPOSITORY / "01_data/glossary/oil_gas.jsonl"
DEFINITION = "Length of time or space that somebody wrote down here with twelve words"


def make_sense(abbreviation: str, expansion: str, **changes: Any) -> dict[str, Any]:
    """A valid oil and gas sense, with changes."""
    name = "".join(c if c.isalnum() else "_" for c in expansion.lower())
    sense = {
        "id": f"{abbreviation.lower()}.{name}",
        "expansion": expansion,
        "aliases": [],
        "domain": "oil_gas",
        "category": "drilling",
        "default": True,
        "definition": DEFINITION,
        "contexts": count_up(f"Number {{}} shows {abbreviation} in a sentence."),
        "provenance": ["own_knowledge"],
        "review": "reviewed",
    }
    return {**sense, **changes}


def count_up(sentence: str) -> list[str]:
    """Four sentences that differ in a number."""
    return [sentence.format(number) for number in range(4)]


def make_record(abbreviation: str = "ROP", *names: str) -> dict[str, Any]:
    """A valid entry: its oil and gas senses, the first the default, and a competing one."""
    senses = [
        make_sense(abbreviation, name, default=not number)
        for number, name in enumerate(names or ("Rate of Penetration",))
    ]
    other = {"domain": "puzzles", "category": "competing", "default": False}
    return {
        "abbreviation": abbreviation,
        "senses": [*senses, make_sense(abbreviation, f"Other {abbreviation.lower()}x", **other)],
    }


def write_glossary(folder: Path, *records: dict[str, Any]) -> Path:
    """A glossary file of these records."""
    path = folder / "oil_gas.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def read_record(record: dict[str, Any]) -> Entry:
    """A record as an entry, checked."""
    return read_entry(json.dumps(record), "glossary:1")


def test_a_valid_file_loads_sorted_with_the_default_first(tmp_path: Path) -> None:
    record = make_record("TD", "Total Depth", "Target Depth")
    record["senses"][0]["default"], record["senses"][1]["default"] = False, True
    entries = load_glossary(write_glossary(tmp_path, record, make_record("BHA", "Bottom Assembly")))
    assert [entry.abbreviation for entry in entries] == ["BHA", "TD"]
    assert entries[1].default.expansion == "Target Depth"
    assert [sense.expansion for sense in entries[1].competing] == ["Other tdx"]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"id": "rope.rate"}, "id must be rop."),
        ({"default": False}, "exactly one sense is the default"),
        ({"category": "competing"}, "does not go with domain"),
        ({"review": "seen"}, "review must be one of"),
        ({"definition": "Too short."}, "definition has 2 words"),
        ({"definition": DEFINITION.replace("time", "ROP")}, "definition holds the abbreviation"),
        ({"aliases": ["rop"]}, "is the abbreviation itself"),
        ({"expansion": "Rate of ROP"}, "expansion holds the abbreviation"),
        ({"contexts": ["The ROP fell in the hard chert."] * 4}, "1 contexts, expected at least 4"),
        ({"contexts": count_up("ROP fell {}.")}, "a context has 3 words"),
        ({"contexts": count_up("The ROPs fell {} in hard chert.")}, "lacks ROP as a whole word"),
        ({"contexts": count_up("ROP is the rate of penetration {}.")}, "gives 'Rate of"),
        ({"aliases": "penetration rate"}, "aliases must be tuple"),
        ({"colour": "red"}, "sense keys differ in ['colour']"),
    ],
)
def test_each_rule_refuses_what_breaks_it(changes: dict[str, Any], problem: str) -> None:
    record = make_record()
    record["senses"][0].update(changes)
    with pytest.raises(UserError) as error:
        read_record(record)
    assert str(error.value).startswith("glossary:1: ")
    assert problem in str(error.value)


def test_an_entry_needs_both_kinds_of_sense() -> None:
    record = make_record()
    for kept in (record["senses"][:1], record["senses"][1:]):
        with pytest.raises(UserError, match="at least one oil_gas and one competing"):
            read_record({"abbreviation": "ROP", "senses": kept})


def test_a_repeated_abbreviation_and_a_missing_file_are_named(tmp_path: Path) -> None:
    path = write_glossary(tmp_path, make_record(), copy.deepcopy(make_record()))
    with pytest.raises(UserError, match=r"oil_gas\.jsonl:2: ROP has a line already"):
        load_glossary(path)
    with pytest.raises(UserError, match="no such file"):
        load_glossary(tmp_path / "none.jsonl")


def test_groups_join_what_shares_a_wording_across_others() -> None:
    third = make_record("PIT", "Shoe Test")
    third["senses"][0]["aliases"] = ["leak-off tests"]
    records = [
        make_record("XLOT", "Extended Test", "Leak Off Test"),
        make_record("LOT", "Leak-Off Test"),
        third,
        make_record("MD", "Measured Depth"),
    ]
    groups = group_entries([read_record(record) for record in records])
    assert groups == {"XLOT": "LOT", "LOT": "LOT", "PIT": "LOT", "MD": "MD"}


def test_the_shipped_glossary_keeps_its_promises() -> None:
    entries = load_glossary(SHIPPED)
    assert len(entries) >= 450
    assert sum(len(entry.oil_gas) > 1 for entry in entries) >= 40
    lines = SHIPPED.read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["abbreviation"] for line in lines] == [e.abbreviation for e in entries]
    assert {sense.category for entry in entries for sense in entry.oil_gas} <= set(FIELDS)
    for entry in entries:
        assert sum(sense.default for sense in entry.senses) == 1
        names = [name for sense in entry.senses for name in sense.names]
        for sense in entry.senses:
            assert not any(contains_phrase(n, c) for c in sense.contexts for n in names)


def test_missing_and_clashing_inputs_are_named(tmp_path: Path) -> None:
    entries = load_glossary(SHIPPED)
    path = tmp_path / "general_acronyms.jsonl"
    with pytest.raises(UserError, match=r"general_acronyms\.jsonl: no such file: acronyms"):
        load_acronyms(path, entries)
    record = dict(abbreviation="ROP", expansion="a", wrong="b", domain="c", contexts=["ROP d"])
    path.write_text(json.dumps(record) + "\n", encoding="utf-8")
    with pytest.raises(UserError, match=r":1: ROP has an oil and gas sense"):
        load_acronyms(path, entries)


def test_mined_answers_are_trimmed_and_screened(tmp_path: Path) -> None:
    rop = read_record(make_record())
    assert trim_answer("ROP stands for X. It is wet. And then it") == [
        "ROP stands for X.",
        "ROP stands for X. It is wet.",
    ]
    assert trim_answer('In drilling, ROP stands for "Oil Plan," which is a way of') == [
        "In drilling, ROP stands for Oil Plan."
    ]
    assert trim_answer('ROP stands for "Oil Plan." It is a') == ["ROP stands for Oil Plan."]
    assert is_usable('ROP stands for "Remote Oil Plan".', rop)
    for text in (
        "ROP stands for rates of penetration.",
        "ROP stands for the penetrating rate of bits.",
        "I'm sorry, ROP is an unclear term.",
        "ROP is a rig of a rig of a rig of a rig of a rig.",
        "Good question indeed, friend.",
    ):
        assert not is_usable(text, rop), text
    assert load_base_answers(tmp_path / "none.jsonl", [rop]) == {}


def test_spelling_out_corrects_the_article() -> None:
    spell_out = answers.spell_out
    assert spell_out("An ROP of 9 m.", "ROP", "Rate of Penetration") == (
        "A Rate of Penetration of 9 m."
    )
    assert spell_out("Run a P&A job.", "P&A", "Plug and Abandon") == "Run a Plug and Abandon job."
    assert spell_out("Call a DD on a UT.", "DD", "Ultrasonic Driller") == (
        "Call an Ultrasonic Driller on a UT."
    )
    assert spell_out("Send a TQ out.", "TQ", "Universal Time") == "Send a Universal Time out."


def test_wrong_names_fit_the_letters() -> None:
    names = ("Floating-Point Unit", "math coprocessor", "floating point arithmetic unit")
    assert answers.list_wrong_names("FPU", names) == [
        "Floating-Point Unit",
        "Floating Point Arithmetic Unit",
    ]


def test_no_torch_is_needed() -> None:
    code = "import sys, pairs.build; sys.exit('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY / "02_src")
    assert result.returncode == 0
