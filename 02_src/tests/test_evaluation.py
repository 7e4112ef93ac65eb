# ruff: noqa: F811 (fixtures are imported by name)
"""Figures from hand-made records with known values; every split and output on a real tiny run."""

import json
import math
import re
from pathlib import Path

import pytest
import torch
from small_run import PHRASINGS, SENSES, make_row, write_rows
from tiny_run import tiny_config, train_tiny  # noqa: F401

from evaluate_dpo import compare, evaluate
from evaluation.comparison import compare_models
from evaluation.figures import summarize_set
from evaluation.parts import Parts, part_key
from evaluation.question_sets import add_entry, make_choice, read_glossary
from evaluation.verdict import write_verdict
from preferences import Pair
from utils.formatting import format_prompt


def make_record(item: str, outcome: str | None = "grounded", **values) -> dict:
    """A judged item of the adapter on the split `seen`."""
    record = {
        "model": "adapter", "split": "seen", "id": item, "item": item, "abbreviation": item[0],
        "category": None, "kind": "direct", "phrasing": "P10", "instruction": "?",
        "chosen_logp": -10.0, "rejected_logp": -12.0, "choice_margin": 2.0,
        "choice_margin_per_byte": 0.1,
    }  # fmt: skip
    if outcome:
        judged = {"outcome": outcome, "strict": outcome == "grounded", "matched": None}
        record |= {"answer": "four", **judged, "accepted": ["x"], "competing": ["y"]}
    return record | values


def rename(records: list[dict], model: str, **values) -> list[dict]:
    """The same items of another model."""
    return [record | {"model": model} | values for record in records]


def test_outcomes_ranking_and_choices_are_counted():
    records = [
        make_record("A1"), make_record("B1", "confused", choice_margin=-1.0),
        make_record("C1", "abstained", chosen_logp=-13.0),
        make_record("D1", "invented", choice_margin_per_byte=-0.1),
    ]  # fmt: skip
    figures = summarize_set(records)
    for name in ("grounding", "confusion", "abstention", "invention", "strict_grounding"):
        assert (figures[name]["value"], figures[name]["n"]) == (0.25, 4)
    for name in ("ranking_accuracy", "forced_choice", "forced_choice_per_byte"):
        assert figures[name]["value"] == 0.75
    assert "reward_accuracy" not in figures and "primary" not in figures


def test_one_question_an_abbreviation_is_primary():
    records = [make_record("A1"), make_record("A2", "confused"), make_record("B1")]
    figures = summarize_set(records)
    assert figures["grounding"]["n"] == 3 and figures["primary"]["grounding"]["n"] == 2
    assert figures["primary"]["grounding"]["value"] == 1.0


def test_rewards_compare_with_the_base():
    records = [make_record("A1"), make_record("B1", chosen_logp=-30.0, rejected_logp=-40.0)]
    base = rename(records, "base", chosen_logp=-20.0, rejected_logp=-21.0)
    figures = summarize_set(records, base, beta=0.5)
    # A: chosen +10, rejected +9, margin 0.5; B: chosen -10, rejected -19, margin 4.5
    assert figures["reward_accuracy"]["value"] == 1.0
    assert figures["reward_margin"] == pytest.approx(2.5)
    assert figures["displaced"]["value"] == 0.5 and figures["chosen_logp_change"] == 0.0


def test_length_ratio_is_over_the_same_questions():
    records = [make_record("A1", answer="12345678"), make_record("B1", answer="1234")]
    base = rename(records[:1], "base", answer="1234")
    assert summarize_set(records, base)["length_ratio"]["value"] == 2.0
    assert "length_ratio" not in summarize_set(records, rename(records, "adapter"))


def test_context_pairs_need_both_contexts():
    seen = [make_record("A1"), make_record("B1", choice_margin=-1.0), make_record("C1")]
    general = [
        make_record("A9", split="general_seen"), make_record("B9", split="general_seen"),
        make_record("C9", split="general_seen", choice_margin=-1.0),
        make_record("D9", split="general_seen"),
    ]  # fmt: skip
    share = summarize_set(general, seen=seen)["context_pair"]
    assert (share["n"], share["value"]) == (3, pytest.approx(1 / 3))


def test_polysemy_pairs_are_all_senses_of_an_abbreviation():
    records = [
        make_record("A1", split="polysemy"), make_record("A2", split="polysemy", accepted=["z"]),
        make_record("B1", split="polysemy"),
        make_record("B2", split="polysemy", accepted=["z"], choice_margin=-1.0),
        make_record("C1", split="polysemy"),
    ]  # fmt: skip
    figures = summarize_set(records)
    assert (figures["context_pair"]["n"], figures["context_pair"]["value"]) == (2, 0.5)
    assert "primary" not in figures


def test_locality_counts_agreement_with_the_base():
    records = [make_record(f"{a}1", None, split="locality") for a in "ABCD"]
    base = [
        r | {"model": "base", "choice_margin": m}
        for r, m in zip(records, (1, 1, -1, -1), strict=True)
    ]
    figures = summarize_set(records, base)
    assert figures["choice_agreement"]["value"] == 0.5 and figures["grounding"]["n"] == 0


def test_made_up_abbreviations_have_no_grounding():
    records = [
        make_record("A1", "abstained", accepted=[], competing=[]),
        make_record("B1", "invented", accepted=[], competing=[]),
    ]
    figures = summarize_set(records)
    assert figures["invention"]["value"] == figures["abstention"]["value"] == 0.5
    assert figures["grounding"] == {"value": None, "low": 0.0, "high": 1.0, "n": 0}


def test_drift_is_a_ratio_per_token():
    rows = [{"split": "drift", "id": i, "item": i, "tokens": n} for i, n in (("a", 10), ("b", 30))]
    base = [r | {"model": "base", "nll": 2.0 * r["tokens"], "kl": None} for r in rows]
    tuned = [
        r | {"model": "adapter", "nll": 2.1 * r["tokens"], "kl": 0.5 * r["tokens"]} for r in rows
    ]
    figures = summarize_set(tuned, base)
    assert figures["perplexity"] == pytest.approx(math.exp(2.1))
    assert figures["perplexity_ratio"]["value"] == pytest.approx(math.exp(0.1))
    assert figures["kl_per_token"]["value"] == pytest.approx(0.5)
    assert "perplexity_ratio" not in summarize_set(base, base)


def test_groups_are_shown_where_there_are_several():
    records = [
        make_record("A1", category="drilling"),
        make_record("B1", "invented", category="lng"),
    ]
    groups = summarize_set(records)["groups"]
    assert groups["category"]["drilling"]["grounding"]["value"] == 1.0
    assert groups["category"]["lng"]["grounding"]["value"] == 0.0
    assert "phrasing" not in groups


def test_comparison_is_on_common_items():
    first = rename([make_record("A1", "confused"), make_record("B1")], "base")
    second = [make_record("A1"), make_record("B1"), make_record("C1")]
    found = {c["metric"]: c for c in compare_models(first, second, ("base", "adapter"))}
    grounding = found["grounding"]
    assert (grounding["n"], grounding["only_first"], grounding["only_second"]) == (2, 0, 1)
    assert grounding["difference"]["value"] == 0.5
    assert found["confusion"]["difference"]["value"] == -0.5


def test_forced_choice_takes_the_senses_the_answers_name():
    row = {
        "abbreviation": "DP", "accepted": ["Dynamic Positioning", "Drill Pipe"],
        "competing": ["Data Processing", "Demographic Parity"],
    }  # fmt: skip
    pair = Pair(format_prompt("DP?"), "It is drill pipe.", "Demographic Parity.", "f:1", row)
    choice = make_choice(pair)
    assert choice.chosen == "DP stands for Drill Pipe."
    assert choice.rejected == "DP stands for Demographic Parity."
    assert (
        make_choice(Pair(format_prompt("DP?"), "a", "b", "f:1", {**row, "competing": []})) is None
    )


def test_verdict_says_it_in_words():
    splits = {
        "seen": summarize_set([make_record(f"{a}1") for a in "ABCD"]),
        "made_up": summarize_set([make_record("E1", "invented", accepted=[], split="made_up")]),
    }
    lines = write_verdict({"models": {"adapter": {"splits": splits}}})
    headline = "grounds 100 % of trained abbreviations; invents for 100 % of made-up ones."
    assert lines[0] == f"The adapter model {headline}"
    assert any("base model is not in this report" in line for line in lines)


def test_verdict_of_pairs_without_senses_is_about_ranking():
    record = {k: v for k, v in make_record("A1", None).items() if "choice" not in k}
    report = {"models": {"adapter": {"splits": {"mine": summarize_set([record])}}}}
    assert write_verdict(report)[0].endswith("prefers the better answer in 100 % of pairs.")
    assert any('"accepted": ["Dynamic Positioning"]' in line for line in write_verdict(report))


def test_glossary_entry_names_every_sense(tmp_path):
    glossary = read_glossary()
    row = {"abbreviation": "ROP"}
    told = add_entry(Pair(format_prompt("What is ROP?"), "a", "b", "f:1", row), glossary)
    text = told.prompt[-1]["content"]
    assert "In oil and gas: Rate of Penetration" in text and text.endswith("What is ROP?")
    assert all(sense.expansion in text for sense in glossary["ROP"].senses)
    assert read_glossary(tmp_path / "none.jsonl") == {}


@pytest.fixture(scope="session")
def tiny_trainer(train_tiny, tmp_path_factory):
    """The trainer of a tiny run whose config names a file for every kind of split."""
    folder = tmp_path_factory.mktemp("tests")
    right, swapped = [make_row(name, "Which words are {}?") for name in SENSES], []
    for row in right:
        general = {
            "instruction": f"In other fields, {row['instruction']}",
            "chosen": row["rejected"], "rejected": row["chosen"],
            "accepted": row["competing"], "competing": row["accepted"],
        }  # fmt: skip
        swapped.append(row | general)
    plain = [{k: r[k] for k in ("instruction", "chosen", "rejected")} for r in right]
    made_up = [r | {"accepted": [], "competing": []} for r in right[:2]]
    passages = [
        {"id": f"h{i}", "text": f"The river rose {i} metres in the night."} for i in range(3)
    ]
    validation = [make_row(name, PHRASINGS[4]) for name in SENSES]
    rows = {
        "seen": right, "validation": validation, "general_seen": swapped, "made_up": made_up,
        "locality": swapped[:3], "mine": plain, "drift": passages,
    }  # fmt: skip
    files = {name: str(write_rows(folder / f"{name}.jsonl", r)) for name, r in rows.items()}
    return train_tiny("measured", test_files=files, max_new_tokens=4)[0]


@pytest.fixture(scope="session")
def tiny_run(tiny_trainer) -> Path:
    """The run's folder."""
    return Path(tiny_trainer.args.output_dir)


@pytest.fixture(scope="session")
def tiny_report(tiny_run) -> dict:
    """The evaluation of the tiny run, all splits."""
    return evaluate(tiny_run)


def test_every_split_gets_the_figures_that_fit_it(tiny_report):
    splits = tiny_report["models"]["adapter"]["splits"]
    assert list(splits) == [
        "seen", "validation", "general_seen", "made_up", "locality", "mine", "drift"
    ]  # fmt: skip
    assert [splits[name]["n"] for name in splits] == [4, 4, 4, 2, 3, 4, 3]
    assert splits["seen"]["grounding"]["n"] == 4 and splits["seen"]["forced_choice"]["n"] == 4
    assert splits["general_seen"]["context_pair"]["n"] == 4
    assert splits["made_up"]["invention"]["n"] == 2 and splits["made_up"]["grounding"]["n"] == 0
    assert (
        splits["locality"]["grounding"]["n"] == 0
        and splits["locality"]["choice_agreement"]["n"] == 3
    )
    assert splits["mine"]["reward_accuracy"]["n"] == 4 and "forced_choice" not in splits["mine"]
    assert splits["drift"]["kl_per_token"]["value"] > 0
    assert "reward_accuracy" not in tiny_report["models"]["base"]["splits"]["seen"]
    metrics = {(c["split"], c["metric"]) for c in tiny_report["comparisons"]}
    assert {
        ("seen", "grounding"),
        ("made_up", "invention"),
        ("locality", "forced_choice"),
    } <= metrics


def test_outputs_are_whole_strict_json_and_open_offline(tiny_report, tiny_run):
    def refuse(text: str) -> None:
        raise AssertionError(text)

    saved = json.loads((tiny_run / "evaluation.json").read_text(), parse_constant=refuse)
    assert saved["models"] == tiny_report["models"] and not (tiny_run / ".evaluation").exists()
    items = [json.loads(t) for t in (tiny_run / "evaluation_items.jsonl").read_text().splitlines()]
    assert len(items) == 2 * (4 + 4 + 4 + 2) and all(isinstance(i["answer"], str) for i in items)
    page = (tiny_run / "evaluation.html").read_text(encoding="utf-8")
    assert "prefers-color-scheme: dark" in page and "<svg" in page and "<script" not in page
    assert not re.search(r"(?:src|href)=|url\(|@import|https?://", page)
    assert tiny_report["verdict"][0].startswith("The adapter model grounds")
    assert (tiny_run / "evaluation.md").read_text(encoding="utf-8").startswith("# Evaluation of")


def test_answers_cannot_break_the_page(tiny_report):
    from evaluation.report_html import render_html

    evil = "<script>alert(1)</script>"
    records = [make_record("A1", "invented", answer=evil, instruction=evil, abbreviation=evil)]
    page = render_html(tiny_report, records + rename(records, "base"))
    assert "<script" not in page and "&lt;script&gt;" in page


def test_base_log_probs_equal_the_trainers_reference(tiny_trainer, tiny_report, tiny_run):
    lines = (tiny_run / "evaluation_items.jsonl").read_text(encoding="utf-8").splitlines()
    items = [
        i for i in map(json.loads, lines) if (i["model"], i["split"]) == ("base", "validation")
    ]
    for column in ("chosen", "rejected"):
        reference = tiny_trainer.eval_dataset[f"ref_{column}_logps"]
        found = [item[f"{column}_logp"] for item in items]
        assert found == pytest.approx(list(reference), rel=0.01)


def test_kl_and_ratio_agree_with_a_plain_forward(tiny_run, tiny_report):
    from config import load_run_config
    from hardware import find_device
    from trained_models import load_adapter

    model, tokenizer, _ = load_adapter(tiny_run, find_device(load_run_config(tiny_run)))
    tokens, nll, base_nll, kl = 0, 0.0, 0.0, 0.0
    for i in range(3):
        ids = tokenizer(f"The river rose {i} metres in the night.", return_tensors="pt").input_ids
        with torch.no_grad():
            policy = model(ids).logits[0, :-1].float().log_softmax(-1)
            with model.disable_adapter():
                reference = model(ids).logits[0, :-1].float().log_softmax(-1)
        target = ids[0, 1:, None]
        tokens += len(target)
        nll -= policy.gather(1, target).sum().item()
        base_nll -= reference.gather(1, target).sum().item()
        kl += torch.nn.functional.kl_div(reference, policy, log_target=True, reduction="sum").item()
    figures = tiny_report["models"]["adapter"]["splits"]["drift"]
    assert figures["tokens"] == tokens
    assert figures["perplexity"] == pytest.approx(math.exp(nll / tokens), rel=0.01)
    ratio = math.exp((nll - base_nll) / tokens)
    assert figures["perplexity_ratio"]["value"] == pytest.approx(ratio, rel=0.01)
    assert figures["kl_per_token"]["value"] == pytest.approx(kl / tokens, rel=0.1)


def test_an_interrupted_evaluation_goes_on_where_it_stopped(tiny_run, tiny_report, monkeypatch):
    import evaluation.measure as measure

    before, done = (tiny_run / "evaluation.json").read_bytes(), []
    real = measure.measure_set

    def stop_at_third(subject, questions, *rest):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append((subject.name, questions.name))
        return real(subject, questions, *rest)

    monkeypatch.setattr(measure, "measure_set", stop_at_third)
    with pytest.raises(KeyboardInterrupt):
        evaluate(tiny_run)
    assert (tiny_run / "evaluation.json").read_bytes() == before
    again = []

    def count(subject, questions, *rest):
        again.append((subject.name, questions.name))
        return real(subject, questions, *rest)

    monkeypatch.setattr(measure, "measure_set", count)
    report = evaluate(tiny_run)
    assert len(again) == 14 - 2 and not set(again) & set(done)
    assert report["models"] == tiny_report["models"]


def test_parts_are_known_by_model_questions_and_settings(tmp_path, tiny_config):
    from evaluation.question_sets import QuestionSet

    config, questions = tiny_config("keys"), QuestionSet("seen", "f", "abc")
    key = part_key("base", "m", config, questions, True)
    others = [
        part_key("adapter", "m", config, questions, True),
        part_key("base", "n", config, questions, True),
        part_key("base", "m", config, QuestionSet("seen", "f", "abd"), True),
        part_key("base", "m", config, questions, False),
        part_key("base", "m", config.model_copy(update={"max_new_tokens": 9}), questions, True),
    ]
    assert len({key, *others}) == 6
    parts = Parts(tmp_path)
    assert parts.read(key) is None
    parts.write(key, [{"a": 1}])
    assert parts.read(key) == [{"a": 1}]
    parts.clear()
    assert parts.read(key) is None


def test_splits_limit_and_the_adapter_alone(tiny_run, tiny_report):
    report = evaluate(tiny_run, ["adapter"], limit=2, splits=["mine", "drift"])
    splits = report["models"]["adapter"]["splits"]
    assert list(report["models"]) == ["adapter"] and list(splits) == ["mine", "drift"]
    assert splits["mine"]["n"] == 2 and splits["mine"]["reward_accuracy"]["n"] == 2
    assert "perplexity_ratio" in splits["drift"]
    full = evaluate(tiny_run)
    assert full["models"] == tiny_report["models"]


def test_two_runs_are_compared_on_their_common_items(tiny_run, tiny_report, tmp_path):
    import shutil

    other = tmp_path / "other"
    shutil.copytree(tiny_run, other)
    report = compare(tiny_run, other)
    found = [c for c in report["comparisons"] if c["first"] != "base"]
    assert {c["split"] for c in found} == {
        "seen",
        "validation",
        "general_seen",
        "made_up",
        "locality",
    }
    assert all(c["p"] == 1.0 and c["difference"]["value"] == 0.0 for c in found)
    assert len(compare(tiny_run, other)["comparisons"]) == len(report["comparisons"])
    assert "Paired comparisons" in (tiny_run / "evaluation.html").read_text(encoding="utf-8")


def test_comparing_with_what_was_not_evaluated_names_the_command(tiny_run, tiny_report, tmp_path):
    from errors import UserError

    with pytest.raises(UserError, match="evaluate_dpo.py --run"):
        compare(tiny_run, tmp_path)


def test_the_glossary_control_is_told_the_senses_and_compared(tiny_run):
    report = evaluate(tiny_run, ["adapter", "base_with_glossary"], splits=["seen"])
    assert list(report["models"]) == ["base_with_glossary", "adapter"]
    told = report["models"]["base_with_glossary"]["splits"]["seen"]
    assert told["grounding"]["n"] == 4 and "reward_accuracy" not in told
    names = {(c["first"], c["second"]) for c in report["comparisons"]}
    assert names == {("base_with_glossary", "adapter")}


def test_any_model_folder_can_be_measured(tiny_run, tiny_model):
    report = evaluate(tiny_run, ["base", str(tiny_model)], limit=1, splits=["seen"])
    assert list(report["models"]) == ["base", str(tiny_model)]
    assert report["models"][str(tiny_model)]["splits"]["seen"]["n"] == 1


def test_notebook_table_shows_the_same_figures(tiny_report):
    from notebook_results import view_shares

    frame = view_shares([tiny_report])
    assert frame.loc[("adapter", "drift"), "perplexity, times the base's"] != "-"
    assert "n=4" in frame.loc[("adapter", "seen"), "says the right expansion"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--splits", "nope"], "not in the config's test_files (seen"),
        (["--models", "nope"], "choose from base, base_with_glossary"),
        (["--limit", "0"], "must be 1 or more"),
    ],
)
def test_wrong_options_are_one_line(run_stage, tiny_run, options, words):
    done = run_stage("02_src/evaluate_dpo.py", "--run", tiny_run, *options)
    assert done.rc == 2 and words in done.err and "Traceback" not in done.err
