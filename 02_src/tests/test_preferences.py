"""Preference data: every form that is read, every problem and where it stands, the split."""

import csv
import json
import random
from pathlib import Path

import pytest

from config import Config
from errors import UserError
from preferences import Pair, PreferenceData, load_pairs, load_preferences, split_by_prompt
from prompt_contract import apply_contract
from tokenization import tokenize_pairs
from utils.formatting import format_prompt

GOOD = {"instruction": "What is ROP?", "chosen": "Rate of penetration.", "rejected": "A rope."}
QUESTION = [{"role": "user", "content": "What is ROP?"}]
RIGHT = [{"role": "assistant", "content": "Rate of penetration."}]
WRONG = [{"role": "assistant", "content": "A rope."}]


def make_config(file: Path | str, **values) -> Config:
    """A config over one file; all of its pairs train."""
    return Config(**{"dataset_hf": str(file), "validation_fraction": 0, **values})


def read(file: Path | str, **values) -> PreferenceData:
    """The data of one file."""
    return load_preferences(make_config(file, **values))


def read_error(file: Path | str, **values) -> str:
    """The text of the UserError that reading raises; one line."""
    with pytest.raises(UserError) as caught:
        read(file, **values)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def make_rows(count: int, per_prompt: int = 1) -> list[dict]:
    """Distinct pairs, `per_prompt` of them for each prompt."""
    return [
        {"instruction": f"Q{i // per_prompt}?", "chosen": f"right {i}", "rejected": f"wrong {i}"}
        for i in range(count)
    ]


def change(**fields) -> dict:
    """GOOD with fields replaced; the value ... removes a field."""
    return {k: v for k, v in {**GOOD, **fields}.items() if v is not ...}


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ('{"instruction": "a", "chosen": ', "not valid JSON ("),
        ("{'instruction': 'a'}", "not valid JSON ("),
        ("instruction,chosen,rejected", "not valid JSON ("),
        ('{"chosen": ' + "[" * 100_000, "not valid JSON (nested too deeply"),
        ('{"chosen": ' + "1" * 5000 + "}", "not valid JSON ("),
        ('["a", "b", "c"]', "must be a JSON object {...}"),
        ('"text"', "must be a JSON object {...}"),
        ("null", "must be a JSON object {...}"),
        ("{}", "field instruction is missing (found nothing)"),
        (change(instruction=...), "field instruction is missing (found chosen, rejected)"),
        (change(chosen=...), "field chosen is missing (found instruction, rejected)"),
        (change(rejected=...), "field rejected is missing (found chosen, instruction)"),
        (change(rejected=None), "field rejected is missing"),
        (change(instruction=""), "field instruction is empty"),
        (change(chosen="  \t"), "field chosen is empty"),
        (change(rejected="\n"), "field rejected is empty"),
        (change(chosen=[]), "field chosen is empty"),
        (change(instruction=5), "field instruction must be text, found int"),
        (change(chosen=1.5), "field chosen must be text, found float"),
        (change(rejected=True), "field rejected must be text, found bool"),
        (change(chosen={"text": "a"}), "field chosen must be text, found dict"),
        (change(context=7), "field context must be text, found int"),
        (change(system=["a"]), "field system must be text, found list"),
        (change(rejected=GOOD["chosen"]), "chosen and rejected are the same"),
        (change(rejected=f"  {GOOD['chosen']}\n"), "chosen and rejected are the same"),
        ({"prompt": "", "chosen": "a", "rejected": "b"}, "field prompt is empty"),
        ({"prompt": QUESTION, "chosen": RIGHT, "rejected": RIGHT}, "chosen and rejected are the"),
        ({"prompt": QUESTION, "chosen": RIGHT, "rejected": "b"}, "rejected must be"),
        ({"prompt": [], "chosen": RIGHT, "rejected": WRONG}, "field prompt is empty"),
        (
            {"prompt": [{"role": "user", "content": " "}], "chosen": "a", "rejected": "b"},
            "prompt",
        ),
        (
            {"prompt": [{"role": "system", "content": "a"}], "chosen": "a", "rejected": "b"},
            "prompt",
        ),
        ({"prompt": [*QUESTION, *WRONG], "chosen": RIGHT, "rejected": WRONG}, "prompt"),
        ({"chosen": RIGHT, "rejected": WRONG}, "must differ in exactly one last assistant"),
        ({"chosen": [*QUESTION, *RIGHT], "rejected": QUESTION}, "exactly one last assistant"),
        ({"prompt": QUESTION, "chosen": ["a"], "rejected": WRONG}, "chosen must hold messages"),
        (
            {"prompt": QUESTION, "chosen": [{"role": "robot", "content": "a"}], "rejected": WRONG},
            "chosen has a message with role 'robot'",
        ),
        (
            {"prompt": QUESTION, "chosen": [{"role": "user", "content": "a"}], "rejected": WRONG},
            "assistant",
        ),
        (
            {
                "prompt": QUESTION,
                "chosen": [{"role": "assistant", "content": 3}],
                "rejected": WRONG,
            },
            "chosen must hold messages",
        ),
        (
            {
                "prompt": QUESTION,
                "chosen": [{"role": "assistant", "content": " "}],
                "rejected": WRONG,
            },
            "chosen",
        ),
        ({"instruction": "a\ud800", "chosen": "b", "rejected": "c"}, "instruction"),
    ],
)
def test_bad_row_is_reported_with_its_line_and_nothing_is_trained(write_pairs, row, problem):
    file = write_pairs([GOOD, "", row])
    text = read_error(file)
    assert text.startswith(f"{file}:3: ")
    assert problem in text


def test_contradicting_pairs_are_reported_with_both_lines(write_pairs):
    swapped = change(chosen=GOOD["rejected"], rejected=GOOD["chosen"])
    file = write_pairs([GOOD, change(instruction="Other?"), swapped])
    text = read_error(file)
    assert text.startswith(f"{file}:3: contradicts {file}:1: ")


def test_same_answers_to_another_prompt_do_not_contradict(write_pairs):
    other = {"instruction": "Rope?", "chosen": GOOD["rejected"], "rejected": GOOD["chosen"]}
    assert len(read(write_pairs([GOOD, other])).train) == 2


def test_duplicates_are_left_out_and_counted_with_the_first_place(write_pairs):
    file = write_pairs([GOOD, change(chosen="Other."), GOOD, change(chosen=" Other. ")])
    data = read(file, dataset_shuffle=False)
    assert [pair.source for pair in data.train] == [f"{file}:1", f"{file}:2"]
    assert data.notices == [f"2 duplicate rows were left out: {file}:3 repeats {file}:1"]


def test_several_problems_are_listed_and_counted(write_pairs, capsys):
    file = write_pairs([change(chosen=""), GOOD, "{", change(rejected=...)])
    assert read_error(file) == f"{file}: 3 rows to repair, see above"
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[0] for line in lines] == [f"{file}:1", f"{file}:3", f"{file}:4"]


def test_many_problems_are_cut_at_twenty_lines(write_pairs, capsys):
    file = write_pairs(["{"] * 25)
    assert read_error(file) == f"{file}: 25 rows to repair, see above (5 more not shown)"
    assert len(capsys.readouterr().err.splitlines()) == 20


def test_blank_lines_byte_order_mark_and_windows_line_ends_are_fine(tmp_path):
    file = tmp_path / "pairs.jsonl"
    row = json.dumps(GOOD)
    file.write_bytes(f"\ufeff{row}\r\n\r\n   \n{json.dumps(make_rows(1)[0])}".encode())
    assert [pair.source for pair in read(file, dataset_shuffle=False).train] == [
        f"{file}:1",
        f"{file}:4",
    ]


def test_line_separators_inside_a_text_do_not_end_a_row(tmp_path):
    file = tmp_path / "pairs.jsonl"
    text = "one\u2028two\u0085three\x0cfour"
    file.write_text(json.dumps(change(chosen=text), ensure_ascii=False), encoding="utf-8")
    assert read(file).train[0].chosen == text


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        (GOOD, QUESTION),
        (change(instruction=..., prompt="What is ROP?"), QUESTION),
        (change(context=None, system=None), QUESTION),
        (change(context="", system=""), QUESTION),
        (
            change(context=" In chert. "),
            [{"role": "user", "content": "In chert.\n\nWhat is ROP?"}],
        ),
        (change(system="Be brief."), [{"role": "system", "content": "Be brief."}, *QUESTION]),
        (
            change(context="In chert.", system="Be brief."),
            [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "In chert.\n\nWhat is ROP?"},
            ],
        ),
        ({"prompt": QUESTION, "chosen": RIGHT, "rejected": WRONG}, QUESTION),
        ({"prompt": "What is ROP?", "chosen": RIGHT, "rejected": WRONG}, QUESTION),
        (
            {"prompt": QUESTION, "chosen": "Rate of penetration.", "rejected": "A rope."},
            QUESTION,
        ),
        ({"chosen": [*QUESTION, *RIGHT], "rejected": [*QUESTION, *WRONG]}, QUESTION),
        (
            {"prompt": [*QUESTION, *WRONG, *QUESTION], "chosen": RIGHT, "rejected": WRONG},
            [*QUESTION, *WRONG, *QUESTION],
        ),
        ({**GOOD, "id": 7, "score": None, "tags": ["a"]}, QUESTION),
    ],
)
def test_every_form_of_a_row_becomes_the_same_pair(write_pairs, row, prompt):
    file = write_pairs([row])
    pair = read(file).train[0]
    assert pair == Pair(prompt, "Rate of penetration.", "A rope.", f"{file}:1")


def write_csv(file: Path, rows: list[dict]) -> None:
    """`rows` as CSV with a header."""
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def write_json(file: Path, rows: list[dict]) -> None:
    """`rows` as one JSON array."""
    file.write_text(json.dumps(rows, indent=1), encoding="utf-8")


def write_parquet(file: Path, rows: list[dict]) -> None:
    """`rows` as Parquet."""
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)


WRITERS = {"csv": write_csv, "json": write_json, "parquet": write_parquet}


@pytest.mark.parametrize("kind", WRITERS)
def test_file_format_gives_the_same_pairs_as_json_lines(tmp_path, write_pairs, kind):
    rows = [change(context='Says "two\nlines", and: a, b'), *make_rows(3)]
    file = tmp_path / f"pairs.{kind}"
    WRITERS[kind](file, [{"context": None, **row} for row in rows])
    found = read(file, dataset_shuffle=False).train
    expected = read(write_pairs(rows), dataset_shuffle=False).train
    assert [(p.prompt, p.chosen, p.rejected) for p in found] == [
        (p.prompt, p.chosen, p.rejected) for p in expected
    ]


@pytest.mark.parametrize("kind", ["json", "parquet"])
def test_conversations_are_read_from_nested_formats(tmp_path, kind):
    file = tmp_path / f"pairs.{kind}"
    WRITERS[kind](file, [{"prompt": QUESTION, "chosen": RIGHT, "rejected": WRONG}])
    assert read(file).train[0].prompt == QUESTION


@pytest.mark.parametrize(("kind", "place"), [("csv", 3), ("json", 2), ("parquet", 2)])
def test_bad_row_of_another_format_is_reported_with_its_place(tmp_path, kind, place):
    """The line of a CSV (its header is line 1); the number of the row elsewhere."""
    file = tmp_path / f"pairs.{kind}"
    WRITERS[kind](file, [GOOD, change(chosen=None)])
    assert read_error(file).startswith(f"{file}:{place}: field chosen is ")


@pytest.mark.parametrize("answers", [("42", "43"), ("NA", "null"), ("true", "false")])
def test_csv_cell_is_text_whatever_it_looks_like(tmp_path, answers):
    file = tmp_path / "pairs.csv"
    write_csv(
        file, [dict(zip(("instruction", "chosen", "rejected"), ("Q?", *answers), strict=True))]
    )
    pair = read(file).train[0]
    assert (pair.chosen, pair.rejected) == answers


@pytest.mark.parametrize("kind", WRITERS)
def test_damaged_file_of_another_format_is_one_line(tmp_path, kind):
    file = tmp_path / f"pairs.{kind}"
    file.write_bytes(b'\x00\xff{"broken\n"')
    assert read_error(file).startswith(f"{file}: ")


def test_malformed_json_file_names_its_line(tmp_path):
    file = tmp_path / "pairs.json"
    file.write_text('[\n{"instruction": "a",\n"chosen" "b"}\n]', encoding="utf-8")
    assert read_error(file).startswith(f"{file}:3: ")


def test_csv_lists_have_semicolons(tmp_path):
    file = tmp_path / "pairs.csv"
    file.write_text(
        "instruction,chosen,rejected,accepted,competing\n"
        "What is DP?,Yes.,No.,Dynamic Positioning; dynamic positioning system ,\n"
    )
    (pair,) = load_pairs(str(file), Config())[0]
    assert pair.row["accepted"] == ["Dynamic Positioning", "dynamic positioning system"]
    assert pair.row["competing"] is None


@pytest.mark.parametrize("name", ["pairs.jsonl", "pairs.csv", "pairs.json", "pairs.parquet"])
def test_missing_file_is_named_with_what_to_do(tmp_path, name):
    text = read_error(tmp_path / name)
    assert text.startswith(f"{tmp_path / name}: no such file; ")
    assert "dataset_hf" in text


@pytest.mark.parametrize(
    ("name", "content"), [("pairs.txt", "a"), ("pairs", "a"), ("folder", None), ("f.jsonl", None)]
)
def test_what_is_no_data_file_is_refused(tmp_path, name, content):
    path = tmp_path / name
    path.mkdir() if content is None else path.write_text(content, encoding="utf-8")
    text = read_error(path)
    assert text.startswith(f"{path}: ")
    assert ".jsonl" in text


@pytest.mark.parametrize("content", ["", "\n\n  \n", "\ufeff"])
def test_empty_file_is_refused_with_the_fields_it_needs(tmp_path, content):
    file = tmp_path / "pairs.jsonl"
    file.write_text(content, encoding="utf-8")
    assert "holds no pairs; give rows with instruction, chosen, rejected" in read_error(file)


def test_file_that_is_not_utf8_is_refused_with_the_byte(tmp_path):
    file = tmp_path / "pairs.jsonl"
    file.write_bytes(json.dumps(GOOD).encode() + b"\n\xff\xfe")
    assert f"{file}: not UTF-8 text at byte {len(json.dumps(GOOD)) + 1}" in read_error(file)


@pytest.mark.parametrize("name", ["nobody/no-such-pairs", "no_such_pairs"])
def test_hub_data_set_that_cannot_be_reached_is_one_line(name):
    assert read_error(name).startswith(f"{name}: cannot be read as a hub data set: ")


def test_validation_file_is_read_and_checked_too(write_pairs):
    train, validation = write_pairs(make_rows(4)), write_pairs([GOOD, GOOD], "validation.jsonl")
    data = read(train, validation_file=str(validation))
    assert (len(data.train), len(data.validation)) == (4, 1)
    assert "duplicate" in data.notices[0]
    broken = write_pairs([change(chosen="")], "broken.jsonl")
    assert read_error(train, validation_file=str(broken)).startswith(f"{broken}:1: ")


def test_split_never_shares_a_prompt_and_holds_out_about_the_fraction(write_pairs):
    file = write_pairs(make_rows(600, per_prompt=3))
    data = read(file, validation_fraction=0.2)
    sides = [{pair.prompt_key for pair in part} for part in (data.train, data.validation)]
    assert not sides[0] & sides[1]
    assert len(data.train) + len(data.validation) == 600
    assert 0.1 < len(data.validation) / 600 < 0.3


def test_split_is_the_same_whatever_the_order_of_rows(write_pairs):
    rows = make_rows(200, per_prompt=2)
    shuffled = random.Random(1).sample(rows, len(rows))
    first = read(write_pairs(rows), validation_fraction=0.2)
    second = read(write_pairs(shuffled, "shuffled.jsonl"), validation_fraction=0.2)
    for name in ("train", "validation"):
        found = [{(p.prompt_key, p.chosen) for p in getattr(d, name)} for d in (first, second)]
        assert found[0] == found[1]


def test_split_differs_with_the_seed_and_leaves_something_to_train_on():
    pairs = [Pair(format_prompt(f"Q{i}"), "a", "b", "") for i in range(100)]
    assert split_by_prompt(pairs, 0.3, 1) != split_by_prompt(pairs, 0.3, 2)
    assert split_by_prompt(pairs[:1], 0.999, 1) == (pairs[:1], [])
    assert split_by_prompt(pairs, 0, 1) == (pairs, [])


def test_max_train_samples_takes_the_first_rows_in_file_order_without_shuffle(write_pairs):
    file = write_pairs(make_rows(10))
    data = read(file, max_train_samples=3, dataset_shuffle=False)
    assert [pair.source for pair in data.train] == [f"{file}:{i}" for i in (1, 2, 3)]
    assert len(read(file, max_train_samples=99).train) == 10


def test_shuffle_follows_the_seed(write_pairs):
    file = write_pairs(make_rows(50))
    orders = [[p.source for p in read(file, seed=seed).train] for seed in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == sorted(orders[2])
    taken = [{p.source for p in read(file, seed=s, max_train_samples=9).train} for s in (1, 1, 2)]
    assert taken[0] == taken[1] != taken[2]


def test_data_is_read_alike_from_any_working_directory(write_pairs, tmp_path, monkeypatch):
    file = write_pairs([GOOD])
    monkeypatch.chdir(tmp_path)
    assert "no such file" in read_error("pairs.jsonl")  # relative means: to the repository
    assert len(read(file).train) == 1


# Lengths: cut in tokens, before TRL, and counted.


@pytest.fixture
def contract_tokenizer(tokenizer):
    """The embedded tokenizer under the default contract."""
    apply_contract(tokenizer, Config())
    return tokenizer


def make_pair(words: int, chosen: int = 3, rejected: int = 3, source: str = "f:1") -> Pair:
    """A pair whose texts have that many words."""
    prompt = format_prompt(" ".join(f"word{i}" for i in range(words)))
    return Pair(prompt, "good " * chosen, "bad " * rejected, source)


def test_pairs_that_fit_are_not_cut(contract_tokenizer):
    pairs = [make_pair(5), make_pair(9, 2, 7)]
    done = tokenize_pairs(pairs, contract_tokenizer, Config())
    assert (done.pairs, done.notices) == (pairs, [])
    assert contract_tokenizer.decode(done.rows[0]["chosen_ids"]).endswith("<|im_end|>")
    assert tokenize_pairs([], contract_tokenizer, Config()).rows == []


def test_long_answers_lose_their_end_and_are_counted(contract_tokenizer):
    pairs = [make_pair(5), make_pair(5, chosen=40, source="f:2"), make_pair(5, rejected=40)]
    done = tokenize_pairs(pairs, contract_tokenizer, Config(max_target_length=20))
    whole = tokenize_pairs(pairs, contract_tokenizer, Config())
    assert [len(row["chosen_ids"]) for row in done.rows][1] == 20
    assert done.rows[1]["chosen_ids"] == whole.rows[1]["chosen_ids"][:20]
    assert done.rows[2]["rejected_ids"] == whole.rows[2]["rejected_ids"][:20]
    assert done.rows[0] == whole.rows[0]
    assert len(done.notices) == 1
    assert done.notices[0].startswith("2 pairs had an answer cut")
    assert done.notices[0].endswith("first at f:2")


def test_max_seq_length_bounds_prompt_and_answer_together(contract_tokenizer):
    config = Config(max_seq_length=64)
    done = tokenize_pairs([make_pair(5, chosen=80)], contract_tokenizer, config)
    row = done.rows[0]
    assert len(row["prompt_ids"]) + len(row["chosen_ids"]) == 64
    assert "max_seq_length=64" in done.notices[0]


def test_pair_whose_prompt_fills_the_length_is_left_out_and_counted(contract_tokenizer):
    pairs = [make_pair(5), make_pair(200, source="f:2")]
    done = tokenize_pairs(pairs, contract_tokenizer, Config(max_seq_length=64))
    assert done.pairs == pairs[:1]
    assert len(done.rows) == 1
    assert done.notices == [
        "1 pairs were left out: the prompt alone fills max_seq_length=64; first at f:2"
    ]


def test_long_prompt_loses_the_start_of_the_users_text_but_never_the_template(contract_tokenizer):
    pairs = [make_pair(5), make_pair(100, source="f:2")]
    done = tokenize_pairs(pairs, contract_tokenizer, Config(max_prompt_length=60))
    whole = tokenize_pairs(pairs, contract_tokenizer, Config())
    text = contract_tokenizer.decode(done.rows[1]["prompt_ids"])
    full = contract_tokenizer.decode(whole.rows[1]["prompt_ids"])
    head, tail = full.split("word0")[0], "word99<|im_end|>\n<|im_start|>assistant\n"
    assert 50 < len(done.rows[1]["prompt_ids"]) <= 60
    assert text.startswith(head.rstrip())
    assert text.endswith(tail)
    assert "word0 " not in text
    assert done.rows[0] == whole.rows[0]
    assert done.notices == ["1 prompts were shortened to max_prompt_length=60; first at f:2"]


def test_shortened_prompt_still_fits_where_the_text_re_tokenises_longer(contract_tokenizer):
    prompt = format_prompt("Überdruckventil ≥ 3½″ — «κόσμος» 深海石油 🛢 " * 12)
    for limit in range(50, 62):
        done = tokenize_pairs(
            [Pair(prompt, "good", "bad", "f:1")],
            contract_tokenizer,
            Config(max_prompt_length=limit),
        )
        assert len(done.rows[0]["prompt_ids"]) <= limit
        assert "\ufffd" not in contract_tokenizer.decode(done.rows[0]["prompt_ids"])
