"""Answers made by hand whose scores are known, and the intervals against scipy."""

import itertools
import json

import numpy as np
import pytest
from scipy import stats

from config import REPOSITORY
from grounding import OUTCOMES, judge_answer, summarize_judgements
from statistics_of_runs import (
    bootstrap_difference,
    bootstrap_ratio,
    compare_paired,
    mcnemar_exact,
    wilson,
)

ROP = (["Rate of Penetration", "penetration rate"], ["Return-Oriented Programming"])
DP = (["Dynamic Positioning", "Drill Pipe", "Differential Pressure"], ["Demographic Parity"])
UNKNOWN = ([], [])

# answer, (accepted, competing), outcome, strict
KNOWN_SCORES = [
    ("ROP stands for Rate of Penetration.", ROP, "grounded", True),
    ("rate-of-penetration", ROP, "grounded", True),
    ("It is the RATE/OF/PENETRATION!", ROP, "grounded", True),
    ("ROP stands for Rates of Penetration.", ROP, "invented", False),
    ("They logged rate of penetrations.", ROP, "grounded", True),
    ("ROP means Return-Oriented Programming.", ROP, "confused", False),
    ("ROP means return oriented programming here.", ROP, "confused", False),
    ("Rate of Penetration, not Return-Oriented Programming.", ROP, "grounded", False),
    ("ROP stands for Rate of Penetrations and so on", ROP, "grounded", True),
    ("ROP stands for Rate of Penetrationism.", ROP, "invented", False),
    ("A crate of penetration oil", ROP, "invented", False),
    ("It is measured on the rig. It is the rate of penetration.", ROP, "grounded", False),
    ("ROP stands for Rate of Penetration. It is how fast the bit drills, in metres or feet per"
     " hour, on land or in Norway.", ROP, "grounded", True),
    ("ROP stands for Rate of Penetration, which means drilling speed.", ROP, "grounded", True),
    ("ROP stands for Rate of Penetration or Rig Operating Plan.", ROP, "grounded", False),
    ("ROP stands for Rate of Penetration, Rig Operating Plan, Rate of Pay.", ROP, "grounded",
     False),
    ("Rate of Penetration, rig operating plan", ROP, "grounded", False),
    ("ROP stands for Rate of Penetration. It also stands for Random Ocean Point.", ROP, "grounded",
     False),
    ("ROP:\n- Rate of Penetration\n- Return on Pipe", ROP, "grounded", False),
    ("ROP:\n1. Rate of Penetration", ROP, "grounded", False),
    ("DP stands for Drill Pipe.", DP, "grounded", True),
    ("DP stands for drill-pipes.", DP, "grounded", True),
    ("DP stands for Drill Pipe or Dynamic Positioning.", DP, "grounded", False),
    ("DP stands for Drill Pipe. Drill pipe is screwed together on the rig floor.", DP, "grounded",
     True),
    ("DP stands for Drillpipeline.", DP, "invented", False),
    ("", ROP, "invented", False),
    ("ROP is not a tool; it stands for Rotary Oil Pump.", ROP, "invented", False),
    ("ROP does not always find use offshore.", ROP, "invented", False),
    ("It is not only known for its speed.", ROP, "invented", False),
    ("The valve does not tell the pressure.", ROP, "invented", False),
    ("I do not know ROP as an oil and gas abbreviation.", ROP, "abstained", False),
    ("I do not know the oil and gas abbreviation QZF.", UNKNOWN, "abstained", False),
    ("I do not know what QZF stands for.", UNKNOWN, "abstained", False),
    ("QZF is not known to me as an oil and gas abbreviation.", UNKNOWN, "abstained", False),
    ("I'm not sure what this means.", UNKNOWN, "abstained", False),
    ("I’m sorry, I don’t recognise this abbreviation.", UNKNOWN, "abstained", False),
    ("Sorry, but I am not familiar with QZF.", UNKNOWN, "abstained", False),
    ("I am unable to find QZF.", UNKNOWN, "abstained", False),
    ("I cannot tell what QZF means.", UNKNOWN, "abstained", False),
    ("QZF is not a recognized abbreviation.", UNKNOWN, "abstained", False),
    ("QZF is not a standard oil and gas abbreviation.", UNKNOWN, "abstained", False),
    ("There is no established meaning for QZF.", UNKNOWN, "abstained", False),
    ("I have never heard of QZF.", UNKNOWN, "abstained", False),
    ("I do not know it for certain, but QZF stands for Quick Zone Flow.", UNKNOWN, "invented",
     False),
    ("QZF stands for Quick Zone Flow.", UNKNOWN, "invented", False),
    ("EUR stands for Euro.", (["Euro"], []), "grounded", True),
    ("TBG is short for Tubing. The pipe in the well.", (["Tubing"], []), "grounded", True),
    ("In oil and gas, IO usually stands for Integrated Operations, in oil.",
     (["Integrated Operations"], []), "grounded", True),
    ("PI is short for Productivity Index.", (["Productivity Index"], []), "grounded", True),
    ("IO stands for Integrated Operations, Input Output.", (["Integrated Operations"], []),
     "grounded", False),
    ("I do not know, but ROP is the rate of penetration.", ROP, "grounded", True),
]  # fmt: skip


@pytest.mark.parametrize(("answer", "senses", "outcome", "strict"), KNOWN_SCORES)
def test_answers_with_known_scores(answer, senses, outcome, strict):
    judgement = judge_answer(answer, *senses, prompt="What does it stand for?")
    assert (judgement.outcome, judgement.strict) == (outcome, strict)


DATA = REPOSITORY / "01_data" / "dpo"
TEST_FILES = [file for file in sorted(DATA.glob("test_*.jsonl")) if "drift" not in file.name]


@pytest.mark.parametrize("file", TEST_FILES, ids=lambda file: file.stem)
def test_the_answers_of_the_shipped_tests_score_as_they_should(file):
    """A right answer is right at once, a wrong one another sense, of all items but a stray few."""
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    expected = ("abstained", False), ("invented", False)
    if rows[0]["accepted"]:
        expected = ("grounded", True), ("confused", False)
    wrong = []
    for row in rows:
        prompt = f"{row['context'] or ''} {row['instruction']}"
        for answer, score in zip((row["chosen"], row["rejected"]), expected, strict=True):
            found = judge_answer(answer, row["accepted"], row["competing"], prompt)
            wrong += [answer] * ((found.outcome, found.strict) != score)
    assert len(wrong) <= 0.002 * len(rows), wrong


def test_an_echo_of_the_prompt_is_never_strict():
    prompt = "Is ROP the rate of penetration?"
    judgement = judge_answer("ROP is the rate of penetration.", *ROP, prompt=prompt)
    assert judgement.outcome == "grounded" and not judgement.strict


def test_a_context_that_fixes_one_sense_accepts_no_other():
    judgement = judge_answer("Drill Pipe", ["Dynamic Positioning"], ["Drill Pipe"])
    assert judgement.outcome == "confused"


def test_the_four_outcomes_sum_to_one():
    judgements = [judge_answer(answer, *senses) for answer, senses, _, _ in KNOWN_SCORES]
    shares = summarize_judgements(judgements)
    names = ("grounding", "confusion", "abstention", "invention")
    assert sum(shares[name].value for name in names) == pytest.approx(1)
    assert {j.outcome for j in judgements} == set(OUTCOMES)


@pytest.mark.parametrize(("k", "n"), [(0, 1), (1, 1), (0, 40), (40, 40), (7, 40), (299, 300)])
def test_wilson_agrees_with_scipy(k, n):
    share = wilson(k, n)
    interval = stats.binomtest(k, n).proportion_ci(method="wilson")
    assert (share.low, share.high) == pytest.approx((interval.low, interval.high), abs=1e-12)
    assert share.value == k / n


def test_a_share_of_nothing_has_no_value():
    share = wilson(0, 0)
    assert share.to_dict() == {"value": None, "low": 0.0, "high": 1.0, "n": 0}
    assert str(share) == "-"


@pytest.mark.parametrize(("b", "c"), itertools.product((0, 1, 5, 30), repeat=2))
def test_mcnemar_agrees_with_scipys_binomial_test(b, c):
    expected = stats.binomtest(b, b + c, 0.5).pvalue if b + c else 1.0
    assert mcnemar_exact(b, c) == pytest.approx(expected)


def test_paired_bootstrap_agrees_with_scipys_when_each_cluster_is_one_item():
    generator = np.random.default_rng(1)
    first, second = generator.random(120) < 0.4, generator.random(120) < 0.7
    difference = second.astype(float) - first.astype(float)
    found = bootstrap_difference(first, second, [str(i) for i in range(120)])
    expected = stats.bootstrap(
        (difference,), np.mean, method="percentile", n_resamples=10_000, rng=2
    ).confidence_interval
    assert found.value == pytest.approx(difference.mean())
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.02)


def test_bootstrap_resamples_whole_abbreviations():
    """Three identical items of an abbreviation say no more than one: the interval stays as wide."""
    generator = np.random.default_rng(3)
    first, second = generator.random(50) < 0.4, generator.random(50) < 0.7
    names = [f"A{i}" for i in range(50)]
    once = bootstrap_difference(first, second, names)
    thrice = bootstrap_difference(np.repeat(first, 3), np.repeat(second, 3), np.repeat(names, 3))
    assert (thrice.value, thrice.low, thrice.high) == pytest.approx(
        (once.value, once.low, once.high), abs=0.005
    )


def test_bootstrap_gives_the_same_interval_every_time():
    values = ([0, 1, 1, 0], [1, 1, 1, 0], ["a", "a", "b", "c"])
    assert bootstrap_difference(*values) == bootstrap_difference(*values)


def test_comparison_counts_the_discordant_items():
    found = compare_paired([True, True, False, False], [True, False, True, True], list("abcd"))
    assert (found["only_first"], found["only_second"], found["n"]) == (1, 2, 4)
    assert found["p"] == pytest.approx(stats.binomtest(1, 3, 0.5).pvalue)
    assert found["difference"]["value"] == pytest.approx(0.25)


def test_bootstrapped_ratio_holds_the_true_one():
    generator = np.random.default_rng(4)
    below = generator.gamma(3, size=400)
    above = 1.5 * below + generator.normal(0, 0.1, size=400)
    found = bootstrap_ratio(above, below)
    assert found.low < 1.5 < found.high and found.high - found.low < 0.1
