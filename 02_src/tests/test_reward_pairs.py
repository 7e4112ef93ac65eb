"""Scored answers become the right pairs, in a fixed order, with every skipped row counted."""

import json
from pathlib import Path

import pytest

from dataset_lint import lint_file
from errors import UserError
from reward_pairs import RewardFields, convert_rewards

SCRIPT = "03_scripts/convert_reward_to_dpo.py"
SCORED = [
    ("What is ROP?", None, "middle", 0.5),
    ("What is BHA?", "Drilling report.", "good", 2),
    ("What is ROP?", None, "best", 0.9),
    ("What is BHA?", None, "alone", 1),
    ("What is ROP?", None, "worst", 0.1),
    ("What is BHA?", "Drilling report.", "bad", 1.5),
]


def make_rows(scored: list[tuple] = SCORED) -> list[dict]:
    """Rows with the default field names."""
    names = ("instruction", "context", "response", "reward")
    return [dict(zip(names, values, strict=True)) for values in scored]


def write_rows(file: Path, rows: list) -> Path:
    """Write JSON Lines; a row given as text is written as it stands."""
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def convert(folder: Path, rows: list, **options) -> tuple[list[tuple], dict[str, int]]:
    """((instruction, context, chosen, rejected), ...) written, and the skip counts."""
    output = folder / "pairs.jsonl"
    result = convert_rewards(write_rows(folder / "scored.jsonl", rows), output, **options)
    pairs = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    assert pairs == result.pairs
    keys = ("instruction", "context", "chosen", "rejected")
    return [tuple(pair[key] for key in keys) for pair in pairs], dict(result.skipped)


def test_best_against_worst_keeps_context_and_file_order(tmp_path):
    pairs, skipped = convert(tmp_path, make_rows())
    assert pairs == [
        ("What is ROP?", None, "best", "worst"),
        ("What is BHA?", "Drilling report.", "good", "bad"),
    ]
    assert skipped == {"group has one answer only": 1}


def test_best_against_each_worse(tmp_path):
    pairs, _ = convert(tmp_path, make_rows(), mode="best-each")
    assert pairs[:2] == [
        ("What is ROP?", None, "best", "middle"),
        ("What is ROP?", None, "best", "worst"),
    ]


def test_minimum_gap_is_inclusive_and_counted(tmp_path):
    pairs, skipped = convert(tmp_path, make_rows(), mode="best-each", min_gap=0.5)
    assert [pair[2:] for pair in pairs] == [("best", "worst"), ("good", "bad")]
    assert skipped["reward gap below 0.5"] == 1
    rows = make_rows([("Q", None, "a", 0.3), ("Q", None, "b", 0.1)])
    assert len(convert(tmp_path, rows, min_gap=0.2)[0]) == 1  # 0.3 - 0.1 is 0.19999999999999998


def test_equal_rewards_make_no_pair(tmp_path):
    rows = make_rows([("Q", None, "a", 1), ("Q", None, "b", 1), *SCORED])
    pairs, skipped = convert(tmp_path, rows)
    assert len(pairs) == 2 and skipped["equal rewards"] == 1


def test_repeated_response_counts_once_with_its_mean(tmp_path):
    rows = make_rows([("Q", None, "a", 1), ("Q", None, "a ", 0), ("Q", None, "b", 0.6)])
    assert convert(tmp_path, rows)[0] == [("Q", None, "b", "a")]


def test_bad_rows_are_skipped_with_the_reason_and_the_place(tmp_path):
    bad = [
        "{broken", {"instruction": "Q", "response": "", "reward": 1},
        {"instruction": "Q", "response": "x", "reward": "high"},
        {"instruction": "Q", "response": "x", "reward": float("nan")},
        {"instruction": "Q", "response": "x", "reward": 1, "context": 5},
        {"instruction": "Q", "response": "half \ud83d", "reward": 1},
    ]  # fmt: skip
    source = write_rows(tmp_path / "scored.jsonl", [*make_rows(), *bad])
    result = convert_rewards(source, tmp_path / "pairs.jsonl")
    assert result.rows == 12 and result.groups == 3 and len(result.pairs) == 2
    assert sum(result.skipped.values()) == 7
    assert result.skipped["reward is not a finite number"] == 2
    assert result.first_places["reward is not a finite number"].endswith("scored.jsonl:9")


def test_other_field_names_csv_and_text_rewards(tmp_path):
    table = tmp_path / "scored.csv"
    table.write_text("question,answer,score\nQ,good,0.9\nQ,bad,0.1\n", encoding="utf-8")
    fields = RewardFields("question", "answer", "score", "background")
    assert convert_rewards(table, tmp_path / "pairs.jsonl", fields).pairs[0]["chosen"] == "good"
    rows = make_rows([("Q", None, "a", "0.1"), ("Q", None, "b", "0.9")])
    assert convert(tmp_path, rows)[0] == [("Q", None, "b", "a")]


def test_result_is_deterministic_and_lints_clean(tmp_path):
    for name in ("a.jsonl", "b.jsonl"):
        source = write_rows(tmp_path / "scored.jsonl", make_rows())
        convert_rewards(source, tmp_path / name, mode="best-each")
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()
    report = lint_file(tmp_path / "a.jsonl")
    assert report.pairs == 3 and report.count("error") == 0


@pytest.mark.parametrize(
    ("output", "options", "text"),
    [
        ("pairs.csv", {}, ".jsonl"),
        ("scored.jsonl", {}, "is the input too"),
        ("pairs.jsonl", {"min_gap": -1}, "--min-gap"),
        ("pairs.jsonl", {"min_gap": 99}, "makes no pairs"),
        ("pairs.jsonl", {"mode": "all"}, "--mode"),
        ("pairs.jsonl", {"fields": RewardFields(reward="score")}, "--reward-field"),
    ],
)
def test_wrong_use_is_refused_and_writes_nothing(tmp_path, output, options, text):
    source = write_rows(tmp_path / "scored.jsonl", make_rows())
    before = source.read_bytes()
    with pytest.raises(UserError, match=text):
        convert_rewards(source, tmp_path / output, **options)
    assert source.read_bytes() == before and list(tmp_path.iterdir()) == [source]


def test_script_converts_and_prints_counts(tmp_path, run_stage):
    source = write_rows(tmp_path / "scored.jsonl", make_rows())
    done = run_stage(SCRIPT, source, tmp_path / "out" / "pairs.jsonl", "--mode", "best-each")
    assert done.rc == 0, done.err
    assert "6 rows, 3 groups, 3 pairs" in done.out
    assert "skipped 1: group has one answer only" in done.out
    assert (tmp_path / "out" / "pairs.jsonl").is_file()


def test_script_exits_two_on_wrong_usage(tmp_path, run_stage):
    source = write_rows(tmp_path / "scored.jsonl", make_rows())
    output = tmp_path / "pairs.jsonl"
    for arguments in (
        [tmp_path / "nothing.jsonl", output],
        [source],
        [source, output, "--mode", "all"],
        [source, output, "--reward-field", "score"],
        [source, source / "pairs.jsonl"],
    ):
        done = run_stage(SCRIPT, *arguments)
        assert done.rc == 2 and "Traceback" not in done.err, done.err
    assert not output.exists()
