"""The shipped pairs: no leak between splits, no shortcut in length or wording, rebuilt alike."""

import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest

from config import REPOSITORY
from errors import UserError
from glossary import Entry, group_entries, load_glossary
from grounding import ABSTAINED, judge_answer
from pairs.answers import GENERAL_FRAMES, say
from pairs.build import build_dataset
from pairs.other_fields import FIELDS_EACH, FIELDS_EACH_TAUGHT, load_fields
from pairs.phrasings import CASUAL, TEST_DIRECT, TEST_ONLY, TRAIN_DIRECT, VALIDATION_DIRECT
from utils.text import contains_phrase, normalise

GLOSSARY = REPOSITORY / "01_data/glossary/oil_gas.jsonl"
SHIPPED = REPOSITORY / "01_data/dpo"
KEY_TEXT = """
id instruction context system chosen rejected abbreviation kind phrasing sense_id split_group
rejected_class accepted competing
"""
KEYS = KEY_TEXT.split()
SEED = 42
NOBODY_KNOWS = ("made_up", "other_field")  # to admit not knowing is right
Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def entries() -> dict[str, Entry]:
    """The shipped glossary by abbreviation."""
    return {entry.abbreviation: entry for entry in load_glossary(GLOSSARY)}


@pytest.fixture(scope="module")
def files() -> dict[str, Rows]:
    """Every shipped pair file, by name without suffix."""
    paths = [path for path in SHIPPED.rglob("*.jsonl") if path.name != "test_drift.jsonl"]
    return {path.relative_to(SHIPPED).with_suffix("").as_posix(): read(path) for path in paths}


def read(path: Path) -> Rows:
    """Rows of a JSON Lines file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def join_prompt(row: dict[str, Any]) -> str:
    """Everything the model reads, normalised."""
    parts = (row["system"], row["context"], row["instruction"])
    return normalise(" ".join(part for part in parts if part))


def list_tests(files: dict[str, Rows]) -> dict[str, Rows]:
    """Test and validation files, those of the mini set included."""
    return {name: rows for name, rows in files.items() if not name.endswith("train")}


def test_rebuild_is_byte_identical(tmp_path: Path) -> None:
    build_dataset(GLOSSARY, tmp_path, SEED)
    fresh = {p.relative_to(tmp_path): p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    shipped = {p.relative_to(SHIPPED): p.read_bytes() for p in SHIPPED.rglob("*.json*")}
    assert fresh.keys() == shipped.keys()
    assert [name for name in fresh if fresh[name] != shipped[name]] == []


def test_every_row_has_the_same_keys_and_filled_fields(files: dict[str, Rows]) -> None:
    for name, rows in files.items():
        assert len({row["id"] for row in rows}) == len(rows)
        for row in rows:
            assert list(row) == KEYS, f"{name}: {row['id']}"
            assert row["instruction"] and row["chosen"] and row["rejected"]
            assert row["chosen"] != row["rejected"]
            assert "{" not in row["instruction"] + row["chosen"] + row["rejected"]


def test_sizes(files: dict[str, Rows]) -> None:
    least = {"train": 4000, "validation": 150, "test_seen": 300, "test_unseen": 240}
    least |= {"test_general_seen": 150, "test_general_unseen": 150, "test_polysemy": 40}
    least |= {"test_made_up": 150, "test_locality": 150}
    assert {name: len(files[name]) for name in least if len(files[name]) < least[name]} == {}
    assert len(files["validation"]) <= 200
    assert len(read(SHIPPED / "test_drift.jsonl")) >= 200
    assert len({row["abbreviation"] for row in files["test_unseen"]}) >= 80


def test_no_group_and_no_wording_of_the_unseen_is_in_train(
    files: dict[str, Rows], entries: dict[str, Entry]
) -> None:
    unseen = {row["abbreviation"] for row in files["test_unseen"]}
    groups = group_entries(list(entries.values()))
    held_out = {groups[name] for name in unseen}
    assert not held_out & {row["split_group"] for row in files["train"]}
    for row in files["train"] + files["test_unseen"]:
        name = row["abbreviation"]
        assert row["split_group"] == groups.get(name, name)
    text = " | ".join(f"{join_prompt(r)} | {normalise(r['chosen'])}" for r in files["train"])
    names = [n for name in unseen for sense in entries[name].senses for n in sense.names]
    assert [name for name in names if f" {normalise(name)} " in text.replace("|", " ")] == []


def test_no_test_prompt_is_in_train(files: dict[str, Rows]) -> None:
    seen = {join_prompt(row) for row in files["train"]}
    contexts = {normalise(row["context"]) for row in files["train"] if row["context"]}
    for name, rows in list_tests(files).items():
        assert [row["id"] for row in rows if join_prompt(row) in seen] == [], name
        shown = {normalise(row["context"]) for row in rows if row["context"]}
        assert not shown & contexts, name
    assert len({(join_prompt(row), row["rejected"]) for row in files["train"]}) == len(
        files["train"]
    )


def test_no_prompt_holds_its_answer(files: dict[str, Rows]) -> None:
    for name, rows in files.items():
        for row in rows:
            prompt = join_prompt(row)
            assert not any(contains_phrase(n, prompt) for n in row["accepted"]), (name, row["id"])
            if row["kind"] == "definition_to_abbreviation":
                assert normalise(row["abbreviation"]) not in prompt.split(), row["id"]


def test_chosen_is_accepted_and_rejected_is_wrong(files: dict[str, Rows]) -> None:
    right_words = {"wrong_definition", "no_hedge"}  # wrong for another reason than the expansion
    for name, rows in files.items():
        for row in rows:
            where = (name, row["id"])
            if row["kind"] in NOBODY_KNOWS:
                assert judge_answer(row["chosen"], [], []).outcome == ABSTAINED, where
                continue
            assert any(contains_phrase(n, row["chosen"]) for n in row["accepted"]), where
            if row["rejected_class"] not in right_words:
                assert not any(contains_phrase(n, row["rejected"]) for n in row["accepted"]), where


def test_accepted_follows_the_context(files: dict[str, Rows], entries: dict[str, Entry]) -> None:
    for row in files["train"] + files["test_polysemy"] + files["test_general_seen"]:
        if row["kind"] in NOBODY_KNOWS:
            assert row["accepted"] == [] and row["sense_id"] is None
            assert (row["abbreviation"] in entries) == (row["kind"] == "other_field")
            continue
        entry = entries[row["abbreviation"]]
        sense = next(s for s in entry.senses if s.id == row["sense_id"])
        one = row["kind"] not in ("direct", "system_domain", "definition", "ambiguous")
        wanted = [sense] if one else list(entry.oil_gas)
        assert set(row["accepted"]) == {name for s in wanted for name in s.names}
        assert sense.is_oil_gas == (row["kind"] != "general_context")
        assert not {normalise(n) for n in row["accepted"]} & {
            normalise(n) for n in row["competing"]
        }


@pytest.mark.parametrize("name", ["train", "mini/train"])
def test_length_gives_nothing_away(files: dict[str, Rows], name: str) -> None:
    manifest = json.loads((SHIPPED / "manifest.json").read_text(encoding="utf-8"))
    pairs = [(len(row["chosen"]), len(row["rejected"])) for row in files[name]]
    assert 0.95 <= sum(c / r for c, r in pairs) / len(pairs) <= 1.05
    slack = 0 if name == "train" else 0.05  # the mini set has few pairs to choose from
    assert 0.40 - slack <= sum(c > r for c, r in pairs) / len(pairs) <= 0.60 + slack
    assert abs(manifest["length_balance_train"]["cohens_d"]) < 0.2
    assert manifest["files"][f"{name}.jsonl"]["rows"] == len(pairs)


def test_wordings_are_split(files: dict[str, Rows]) -> None:
    used = {name: {row["phrasing"] for row in rows} for name, rows in files.items()}
    assert set(TRAIN_DIRECT) <= used["train"] and VALIDATION_DIRECT not in used["train"]
    assert used["validation"] == used["mini/validation"] == {VALIDATION_DIRECT}
    assert used["test_seen"] == used["test_unseen"] == set(TEST_DIRECT)
    assert used["test_casual"] == used["mini/test_casual"] == set(CASUAL)
    for name in ("train", "mini/train", "validation"):
        assert not used[name] & set(TEST_ONLY), name
    first = files["test_seen"][: len({row["abbreviation"] for row in files["test_seen"]})]
    assert {row["phrasing"] for row in first} == {TEST_DIRECT[0]}


def test_rejected_classes_are_mixed(files: dict[str, Rows]) -> None:
    taught = [row["rejected_class"] for row in files["train"] if row["kind"] not in NOBODY_KNOWS]
    share = {name: count / len(taught) for name, count in Counter(taught).items()}
    assert share["competing_sense"] > 0.25
    assert 0.3 < 1 - len(taught) / len(files["train"]) < 0.45
    assert {"other_og_sense", "wrong_definition", "invention", "no_hedge"} <= set(share)
    made_up = {row["abbreviation"] for row in files["train"] if row["kind"] == "made_up"}
    assert not made_up & {row["abbreviation"] for row in files["test_made_up"]}


def test_every_field_has_one_area_and_only_known_names_are_excepted(
    entries: dict[str, Entry],
) -> None:
    found = json.loads((GLOSSARY.parent / "fields.json").read_text(encoding="utf-8"))
    listed = [field for fields in found["areas"].values() for field in fields]
    domains = {sense.domain for entry in entries.values() for sense in entry.competing}
    assert sorted(listed) == sorted(domains)
    assert set(found["asked"]) < domains and len(set(found["asked"])) == len(found["asked"])
    assert {*found["known_everywhere"], *found["known_elsewhere"]} < entries.keys()
    assert {a for areas in found["known_elsewhere"].values() for a in areas} < set(found["areas"])


def test_in_a_field_far_from_its_senses_an_abbreviation_is_unknown(
    files: dict[str, Rows], entries: dict[str, Entry]
) -> None:
    fields = load_fields(GLOSSARY.parent / "fields.json", list(entries.values()))
    rows = [row for row in files["train"] if row["kind"] == "other_field"]
    taught = {r["abbreviation"] for r in files["train"] if r["kind"] == "general_context"}
    each = Counter(row["abbreviation"] for row in rows)
    assert {each[name] for name in each if name not in taught} == {FIELDS_EACH}
    assert {each[name] for name in each if name in taught} == {FIELDS_EACH_TAUGHT}
    named = {r["abbreviation"] for r in files["train"]} & entries.keys()
    assert each.keys() == named - fields.known_everywhere
    for row in rows:
        entry = entries[row["abbreviation"]]
        text = f"{row['system'] or ''} {row['instruction']}"
        asked = max((field for field in fields.asked if field in text), key=len)
        near = {fields.area_of[sense.domain] for sense in entry.competing}
        assert fields.area_of[asked] not in near, row["id"]
        assert any(contains_phrase(name, row["rejected"]) for name in entry.default.names)
        heads = [say(frame, row["abbreviation"]).rstrip(".") for frame in GENERAL_FRAMES]
        assert row["rejected"].startswith(tuple(heads)), row["id"]  # as right answers begin


def test_to_deny_what_is_taught_is_wrong(files: dict[str, Rows]) -> None:
    rows = [row for row in files["train"] if row["rejected_class"] == "denial"]
    taught = {r["abbreviation"] for r in files["train"] if r["kind"] == "direct"}
    general = {r["abbreviation"] for r in files["train"] if r["kind"] == "general_context"}
    asked = Counter((row["kind"], row["abbreviation"]) for row in rows)
    assert asked == Counter(
        [("direct", name) for name in taught] + [("general_context", name) for name in general]
    )
    for row in rows:
        assert judge_answer(row["rejected"], row["accepted"], []).outcome == ABSTAINED, row["id"]


def test_without_areas_no_other_fields_are_asked(tmp_path: Path, entries: dict[str, Entry]) -> None:
    assert load_fields(tmp_path / "none.json", []) is None
    file = tmp_path / "fields.json"
    file.write_text('{"areas": {}, "asked": ["cricket"]}')
    with pytest.raises(UserError, match="areas does not list AI fairness, .*cricket"):
        load_fields(file, list(entries.values()))


def test_general_halves_are_disjoint(files: dict[str, Rows]) -> None:
    taught = {r["abbreviation"] for r in files["train"] if r["kind"] == "general_context"}
    assert taught >= {row["abbreviation"] for row in files["test_general_seen"]}
    assert not taught & {row["abbreviation"] for row in files["test_general_unseen"]}


def test_mini_is_small_and_well_known(files: dict[str, Rows]) -> None:
    train = files["mini/train"]
    per_name = defaultdict(list)
    for row in train:
        per_name[row["abbreviation"]].append(row["phrasing"])
    assert {"ROP", "BHA", "BOP", "MWD", "ESP", "FPSO", "DP"} <= set(per_name)
    assert len(per_name) == 48 and {len(wordings) for wordings in per_name.values()} == {8}
    tests = files["mini/test_seen"]
    assert [row["phrasing"] for row in tests] == ["P10", "P11"] * 24 + ["P11", "P10"] * 24
    for half in (tests[:48], tests[48:]):
        assert {row["abbreviation"] for row in half} == set(per_name)
    assert not {row["phrasing"] for row in train} & {row["phrasing"] for row in tests}
    general = {r["abbreviation"] for r in train if r["kind"] == "general_context"}
    assert {row["abbreviation"] for row in files["mini/test_general_seen"]} == general
    assert len(files["mini/validation"]) == 24
    assert {row["abbreviation"] for row in files["mini/test_casual"]} == set(per_name)


def test_datasets_reads_the_files_together(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    names = [p.stem for p in sorted(SHIPPED.glob("*.jsonl")) if p.stem != "test_drift"]
    names.sort(key=lambda name: name != "train")  # the first split settles the column types
    paths = {name: str(SHIPPED / f"{name}.jsonl") for name in names}
    loaded = datasets.load_dataset("json", data_files=paths, cache_dir=str(tmp_path))
    assert loaded["train"].column_names == KEYS
