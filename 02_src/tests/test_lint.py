"""The linter finds every planted defect, and leaves clean data alone."""

import json
import random
from pathlib import Path

import pytest

from config import Config
from dataset_lint import lint_file, summarize
from lint.contents import is_refusal, spell_out
from lint.report import LintReport
from lint.shingles import collect_pairs, compare_sets, sign_rows

SCRIPT = "03_scripts/lint_dataset.py"
CONSONANTS, VOWELS = "bdfgklmnprst", "aeiou"


def make_word(draw: random.Random) -> str:
    """A made-up word of three syllables."""
    return "".join(draw.choice(CONSONANTS) + draw.choice(VOWELS) for _ in range(3))


def make_words(draw: random.Random, count: int) -> str:
    """Made-up words, so that no two rows are alike by accident."""
    return " ".join(make_word(draw) for _ in range(count))


def make_clean_rows(count: int = 60, seed: int = 1) -> list[dict]:
    """Pairs without a defect: answers of like length, no repeats, three kinds of wrong answer."""
    draw = random.Random(seed)
    kinds = ("competing_sense", "base_answer", "wrong_definition")
    return [
        {
            "instruction": f"What does {make_words(draw, 3)} mean on a rig?",
            "context": make_words(draw, 10),
            "chosen": f"It is {make_words(draw, draw.randint(4, 8))}.",
            "rejected": f"It is {make_words(draw, draw.randint(4, 8))}.",
            "split_group": f"group-{seed}-{index}",
            "rejected_class": kinds[index % 3],
        }
        for index in range(count)
    ]


def write_rows(file: Path, rows: list) -> Path:
    """Write JSON Lines; a row given as text is written as it stands."""
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def lint_with(folder: Path, *planted: dict | str, **changes) -> LintReport:
    """Lint the clean rows followed by planted ones; they begin at line 61."""
    return lint_file(write_rows(folder / "data.jsonl", [*make_clean_rows(), *planted]), **changes)


def lines_of(report: LintReport, code: str) -> list[int]:
    """The line numbers at which a finding stands."""
    finding = report.find(code)
    assert finding is not None, f"{code} not found among {[f.code for f in report.findings]}"
    return [int(place.split(".jsonl:")[1].split()[0].rstrip(":")) for place in finding.places]


def test_clean_set_has_no_errors_and_no_warnings(tmp_path):
    report = lint_with(tmp_path)
    assert (report.count("error"), report.count("warning"), report.exit_code) == (0, 0, 0)
    assert [finding.code for finding in report.findings] == ["rejected_classes"]
    assert summarize(report)[-1] == "no errors, no warnings"


def test_finds_length_bias_of_a_set_like_the_original(tmp_path):
    draw = random.Random(2)
    rows = [
        {
            "instruction": f"Question {make_words(draw, 4)}?",
            "chosen": make_words(draw, draw.randint(26, 34)),
            "rejected": make_words(draw, draw.randint(8, 14)),
        }
        for _ in range(120)
    ]
    report = lint_file(write_rows(tmp_path / "original.jsonl", rows))
    finding = report.find("length_bias")
    assert report.statistics["share_chosen_longer"] == 1
    assert report.statistics["cohens_d"] > 4
    assert finding.severity == "error" and finding.count == 120 and report.exit_code == 1
    assert "sigmoid_norm" in finding.advice and "ld_alpha" in finding.advice


def test_finds_bias_towards_short_answers_and_equal_spread(tmp_path):
    rows = [
        {"instruction": f"Q{n}?", "chosen": f"{n:03}", "rejected": f"{n:03} longer"}
        for n in range(30)
    ]
    report = lint_file(write_rows(tmp_path / "short.jsonl", rows))
    assert report.statistics["cohens_d"] < -4 and report.find("length_bias").severity == "error"


def test_few_pairs_are_no_proof_of_bias(tmp_path):
    rows = [{"instruction": f"Q{n}?", "chosen": "a long answer", "rejected": "no"} for n in "abc"]
    report = lint_file(write_rows(tmp_path / "few.jsonl", rows))
    assert report.find("length_bias").severity == "warning"


@pytest.mark.parametrize(
    "broken",
    ['{"instruction": "Q?", ', "[1]", '{"instruction": "Q?", "chosen": "a"}',
     '{"instruction": "Q?", "chosen": "a", "rejected": 5}',
     '{"instruction": "Q?", "chosen": "same", "rejected": "same"}'],
)  # fmt: skip
def test_finds_rows_that_cannot_be_trained_on(tmp_path, broken):
    report = lint_with(tmp_path, broken)
    assert lines_of(report, "unreadable_row") == [61]
    assert report.find("unreadable_row").severity == "error" and report.pairs == 60


def test_empty_file_is_an_error(tmp_path):
    report = lint_file(write_rows(tmp_path / "empty.jsonl", [""]))
    assert report.exit_code == 1 and report.find("no_pairs")
    assert summarize(report)


def test_finds_duplicates_and_near_duplicates(tmp_path):
    first, second, third = make_clean_rows()[:3]
    cased = {**second, "instruction": second["instruction"].upper() + "?"}
    words = third["context"].split()
    one_word = {**third, "context": " ".join([*words[:-1], "other"])}
    report = lint_with(tmp_path, dict(first), cased, one_word)
    assert lines_of(report, "duplicate") == [61]
    assert lines_of(report, "near_duplicate") == [62, 63]
    assert report.find("near_duplicate").places[1].endswith("data.jsonl:3")


def test_same_template_is_no_near_duplicate(tmp_path):
    rows = [
        {
            "instruction": f"In oil and gas, what does {name} stand for?",
            "chosen": f"{name} stands for {right}.",
            "rejected": f"{name} stands for {wrong}.",
        }
        for name, right, wrong in (
            ("ROP", "Rate of Penetration", "Return-Oriented Programming"),
            ("BHA", "Bottom Hole Assembly", "Butylated Hydroxyanisole"),
            ("WOB", "Weight on Bit", "Work of Breathing"),
        )
    ]
    assert lint_file(write_rows(tmp_path / "t.jsonl", rows)).find("near_duplicate") is None


def test_signatures_estimate_similarity():
    draw = random.Random(3)
    words = make_words(draw, 200).split()
    changed = [make_word(draw) if index % 20 == 0 else word for index, word in enumerate(words)]
    texts = [(" ".join(words), "", ""), (" ".join(changed), "", ""), ("", "", "")]
    exact = compare_sets(collect_pairs(texts[0]), collect_pairs(texts[1]))
    signatures = sign_rows(texts)
    assert abs((signatures[0] == signatures[1]).mean() - exact) < 0.2
    assert (signatures == sign_rows(texts)).all()


def test_finds_contradictions(tmp_path):
    row = make_clean_rows()[4]
    swapped = {**row, "chosen": row["rejected"].upper(), "rejected": row["chosen"]}
    report = lint_with(tmp_path, swapped)
    assert lines_of(report, "contradiction") == [61]
    assert report.find("contradiction").severity == "error"
    assert report.find("near_duplicate") is None


def test_operators_make_no_contradiction(tmp_path):
    times = {"instruction": "What is 3*4?", "chosen": "12", "rejected": "7"}
    plus = {"instruction": "What is 3+4?", "chosen": "7", "rejected": "12"}
    assert lint_with(tmp_path, times, plus).find("contradiction") is None


def test_ranked_answers_are_only_mentioned(tmp_path):
    row = make_clean_rows()[4]
    report = lint_with(tmp_path, {**row, "chosen": row["rejected"], "rejected": "It is worse yet."})
    assert report.find("mixed_preference").severity == "info"
    assert report.exit_code == 0


@pytest.mark.parametrize(
    "row",
    [
        {"instruction": "What is the rate of penetration, ROP?", "chosen": "ROP is a speed.",
         "rejected": "ROP is a place.", "accepted": ["Rate of Penetration"]},
        {"instruction": "What does ROP (Rate of Penetration) mean in drilling?",
         "chosen": "ROP is the Rate of Penetration, so how fast the bit deepens the hole.",
         "rejected": "ROP is return-oriented programming, which reuses code on the stack."},
        {"instruction": "Which engineer, Ada Brown, built the derrick?",
         "chosen": "Ada Brown.", "rejected": "Carl Stone."},
    ],
)  # fmt: skip
def test_finds_answers_in_the_prompt(tmp_path, row):
    report = lint_with(tmp_path, row)
    assert lines_of(report, "answer_in_prompt") == [61]


@pytest.mark.parametrize(
    "row",
    [
        {"instruction": "Who is older, Ada Brown or Carl Stone?", "chosen": "Ada Brown.",
         "rejected": "Carl Stone."},
        {"instruction": "What does ROP stand for?", "chosen": "ROP stands for Rate of Penetration.",
         "rejected": "ROP stands for Return-Oriented Programming.",
         "accepted": ["Rate of Penetration"]},
        {"instruction": "What does ROP stand for?", "chosen": "ROP stands for Rate of Penetration.",
         "rejected": "ROP stands for Return-Oriented Programming."},
    ],
)  # fmt: skip
def test_choices_and_plain_questions_leak_nothing(tmp_path, row):
    assert lint_with(tmp_path, row).find("answer_in_prompt") is None


def test_spells_out_abbreviations():
    assert spell_out("ROP", "rop is the rate of penetration here") == "rate of penetration"
    assert spell_out("MWD", "it means measurement while drilling") == "measurement while drilling"
    assert spell_out("BHA", "the rate of penetration") is None


def test_finds_refusals(tmp_path):
    row = make_clean_rows()[0] | {"instruction": "Something else altogether, is it not?"}
    refused = {**row, "chosen": "I\u2019m sorry, but I cannot help with that."}
    report = lint_with(tmp_path, refused, {**row, "rejected": "As an AI language model, I have no"})
    assert lines_of(report, "refusal_chosen") == [61]
    assert lines_of(report, "refusal_rejected") == [62]


@pytest.mark.parametrize(
    ("text", "refuses"),
    [
        ("I can't assist with this request.", True),
        ("I'm unable to provide medical advice.", True),
        ("As a large language model I hold no views.", True),
        ("I do not know XQZ as an oil and gas abbreviation.", False),
        ("The pump cannot help if the valve is shut.", False),
        ("The driller was sorry to stop.", False),
    ],
)
def test_tells_refusals_from_not_knowing(text, refuses):
    assert is_refusal(text) is refuses


@pytest.mark.parametrize("mark", ["\u200b", "\x07", "\u202e", "\ufeff", "\xad", "\ufffd"])
def test_finds_invisible_characters(tmp_path, mark):
    row = make_clean_rows(1, seed=9)[0]
    row["chosen"] = row["chosen"][:5] + mark + row["chosen"][5:]
    assert lines_of(lint_with(tmp_path, row), "non_printing") == [61]


def test_leaves_other_scripts_and_line_ends_alone(tmp_path):
    row = make_clean_rows(1, seed=9)[0]
    row |= {"context": "می\u200cخواهم\tok\r\n次の行\u00a0😀👨\u200d👩", "chosen": "Größe 5 µm."}
    report = lint_with(tmp_path, row)
    assert report.find("non_printing") is None and report.find("lone_surrogate") is None


def test_finds_half_characters(tmp_path):
    row = make_clean_rows(1, seed=9)[0]
    for field in ("context", "chosen"):
        report = lint_with(tmp_path, {**row, field: "bad \ud83d end"})
        assert lines_of(report, "unreadable_row") == [61] and report.exit_code == 1


def test_finds_answers_that_differ_in_case_alone(tmp_path):
    row = {
        "instruction": "Say it again, please?",
        "chosen": "Drill pipe.",
        "rejected": "drill-pipe",
    }
    assert lines_of(lint_with(tmp_path, row), "same_answers") == [61]


def test_finds_truncation_and_names_the_needed_length(tmp_path):
    row = {**make_clean_rows(1, seed=9)[0], "chosen": "word " * 600}
    report = lint_with(tmp_path, row)
    finding = report.find("truncation")
    assert lines_of(report, "truncation") == [61]
    assert "estimated" in finding.text and "max_seq_length" in finding.options
    roomy = lint_with(tmp_path, row, config=Config(max_seq_length=2048))
    assert roomy.find("truncation") is None
    short = lint_with(tmp_path, config=Config(max_target_length=5))
    assert short.find("truncation").count == 60


def test_counts_tokens_with_a_tokenizer(tmp_path, tokenizer):
    row = {**make_clean_rows(1, seed=9)[0], "chosen": "word " * 40}
    file = write_rows(tmp_path / "t.jsonl", [row])
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": f"{row['context']}\n\n{row['instruction']}"}],
        tokenize=False, add_generation_prompt=True,
    )  # fmt: skip
    answer = tokenizer(row["chosen"].strip(), add_special_tokens=False)["input_ids"]
    needed = len(tokenizer(text, add_special_tokens=False)["input_ids"]) + len(answer) + 1
    fits = lint_file(file, Config(max_seq_length=needed), tokenizer=tokenizer)
    assert fits.find("truncation") is None
    cut = lint_file(file, Config(max_seq_length=needed - 1), tokenizer=tokenizer)
    found = cut.find("truncation").text
    assert f"needs {needed} tokens" in found and "estimated" not in found


def test_counts_classes_of_rejected_answers(tmp_path):
    report = lint_with(tmp_path, {**make_clean_rows(1, seed=9)[0], "rejected_class": None})
    assert report.statistics["rejected_classes"] == {
        "competing_sense": 20, "base_answer": 20, "wrong_definition": 20,
    }  # fmt: skip
    assert lines_of(report, "unlabelled_rejected") == [61]
    rows = [{**row, "rejected_class": "only"} for row in make_clean_rows()]
    alone = lint_file(write_rows(tmp_path / "one.jsonl", rows))
    assert alone.find("rejected_classes").severity == "warning"


def test_finds_leaks_between_train_and_test(tmp_path):
    train = make_clean_rows()
    fresh = make_clean_rows(4, seed=7)
    same = {**fresh[0], "instruction": train[0]["instruction"].upper(), "context": None}
    train[0]["context"] = None
    copied = {**fresh[1], "context": "New words, then " + train[1]["context"]}
    grouped = {**fresh[2], "split_group": train[2]["split_group"]}
    test = write_rows(tmp_path / "test.jsonl", [same, copied, grouped, fresh[3]])
    report = lint_file(write_rows(tmp_path / "train.jsonl", train), test_files=[test])
    assert lines_of(report, "test_prompt_in_train") == [1]
    assert lines_of(report, "context_overlap") == [2]
    assert lines_of(report, "split_group_shared") == [3]
    assert report.exit_code == 1


def test_phrasings_are_no_overlap(tmp_path):
    ask = "Rewrite this line from a drilling report and spell out each short form:"
    train, test = make_clean_rows(), make_clean_rows(8, seed=7)
    for row in [*train, *test]:
        row["instruction"] = f"{ask} {row['instruction']}"
        row["context"] = None
    report = lint_file(
        write_rows(tmp_path / "train.jsonl", train),
        test_files=[write_rows(tmp_path / "test.jsonl", test)],
    )
    assert report.find("context_overlap") is None


def test_seen_splits_and_plain_passages_are_fine(tmp_path):
    train = make_clean_rows()
    seen = [
        {"instruction": f"New {n}?", "split_group": row["split_group"]}
        for n, row in enumerate(train)
    ]
    passages = [{"id": 1, "text": "A neutral passage."}]
    tests = [
        write_rows(tmp_path / "seen.jsonl", seen), write_rows(tmp_path / "drift.jsonl", passages)
    ]  # fmt: skip
    report = lint_file(write_rows(tmp_path / "train.jsonl", train), test_files=tests)
    assert report.find("split_group_seen").severity == "info"
    assert report.count("error") == report.count("warning") == 0


def test_options_are_config_keys(tmp_path):
    row = make_clean_rows()[4]
    swapped = {**row, "chosen": row["rejected"], "rejected": row["chosen"]}
    near = {**row, "context": row["context"].upper() + "!"}
    long = {"instruction": "Q?", "chosen": "word " * 900, "rejected": "no"}
    report = lint_with(tmp_path, swapped, near, *[{**long, "instruction": c} for c in "abcdefghij"])
    options = {option for finding in report.findings for option in finding.options}
    assert {"loss_type", "ld_alpha", "label_smoothing", "max_seq_length"} <= options
    assert options <= set(Config.model_fields)
    json.dumps(report.as_json())


def test_reads_conversations_and_csv(tmp_path):
    ask = {"role": "user", "content": "What does BOP stand for?"}
    talk = [[ask, {"role": "assistant", "content": text}] for text in ("Preventer.", "Bishops.")]
    rows = [{"chosen": talk[0], "rejected": talk[1]}]
    assert lint_file(write_rows(tmp_path / "talk.jsonl", rows)).pairs == 1
    table = tmp_path / "table.csv"
    table.write_text("instruction,chosen,rejected\nQ1?,yes,no\nQ2?,,no\n", encoding="utf-8")
    report = lint_file(table)
    assert report.pairs == 1 and report.find("unreadable_row").places[0].startswith(f"{table}:3:")


def test_script_writes_json_and_plot_and_exits_zero(tmp_path, run_stage):
    data = write_rows(tmp_path / "data.jsonl", make_clean_rows())
    out, plot = tmp_path / "new" / "lint.json", tmp_path / "plot.png"
    done = run_stage(SCRIPT, data, "--json", out, "--plot", plot, "--max-seq-length", "30")
    assert done.rc == 0, done.err
    report = json.loads(out.read_text(encoding="utf-8"))
    assert report["pairs"] == 60 and report["warnings"] == 1
    assert [finding["code"] for finding in report["findings"]][0] == "truncation"
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert "truncation" in done.out and "errors: 0, warnings: 1" in done.out


def test_script_exits_one_on_errors_in_data(tmp_path, run_stage):
    data = write_rows(tmp_path / "data.jsonl", [*make_clean_rows(), "{broken"])
    test = write_rows(tmp_path / "test.jsonl", make_clean_rows(2, seed=7))
    done = run_stage(SCRIPT, data, "--test", test)
    assert done.rc == 1 and "unreadable_row" in done.out


def test_script_reports_an_empty_file_and_draws_nothing(tmp_path, run_stage):
    plot = tmp_path / "plot.png"
    done = run_stage(SCRIPT, write_rows(tmp_path / "empty.jsonl", [""]), "--plot", plot)
    assert done.rc == 1 and "no_pairs" in done.out and not plot.exists()


@pytest.mark.parametrize(
    "arguments",
    [[], ["nothing.jsonl"], ["data.jsonl", "--max-seq-length", "3"], ["data.jsonl", "--bad"],
     ["data.jsonl", "--json", "."], ["data.jsonl", "--test", "nothing.jsonl"],
     ["no-such-name"]],
)  # fmt: skip
def test_script_exits_two_on_wrong_usage(tmp_path, run_stage, arguments):
    write_rows(tmp_path / "data.jsonl", make_clean_rows())
    paths = [str(tmp_path / text) if text.endswith((".jsonl", ".")) else text for text in arguments]
    done = run_stage(SCRIPT, *paths)
    assert done.rc == 2 and "Traceback" not in done.err
    assert done.err.strip()


def test_to_admit_not_knowing_gives_no_answer_away(tmp_path):
    unknown = {
        "instruction": "What is the full form of BP in plant pathology?",
        "chosen": "I do not know BP in plant pathology.", "rejected": "BP stands for Bridge Plug.",
    }  # fmt: skip
    said = {**unknown, "chosen": "BP in plant pathology is the full form."}
    assert lint_with(tmp_path, unknown).find("answer_in_prompt") is None
    assert len(lines_of(lint_with(tmp_path, said), "answer_in_prompt")) == 1
