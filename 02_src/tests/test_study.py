# ruff: noqa: F811 (fixtures are imported by name)
"""The study: plans, kept results, claims and STUDY.md; and one real, tiny study."""

import json
from pathlib import Path

import pytest
from small_run import PHRASINGS, SENSES, make_row, write_rows
from tiny_run import tiny_config  # noqa: F401

from config import REPOSITORY, resolve_path
from errors import UserError
from recipes.claims import HOLDS, OPEN, REVERSED, UNMEASURED, make_claims
from recipes.goals import GOALS, count_reached, read_values
from recipes.kept import Kept, check_kept, code_outcomes, describe_settings, is_kept, read_kept
from recipes.plan import Study, list_runs, load_study
from recipes.table import render_study

STUDIES = [REPOSITORY / "01_data" / "study" / name for name in ("full", "quickstart")]
SHARE = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 100}


def make_share(value: float) -> dict:
    """A figure as evaluation.json has it."""
    return {**SHARE, "value": value}


def make_kept(recipe: str, seed: int | None, right: str, **values: float) -> Kept:
    """A kept run: outcomes of `right` (+ or - for an item of `seen`), figures by goal's key."""
    splits: dict = {}
    for goal in GOALS:
        if goal.key in values:
            splits.setdefault(goal.split, {"n": 100})[goal.metric] = make_share(values[goal.key])
    items = {f"A{i}.0": "g!+" if sign == "+" else "i.-" for i, sign in enumerate(right)}
    about = {
        "device": "a device", "train_seconds": 70.0, "steps": 9, "jobs": 1, "date": "2026-01-02",
        "versions": ["torch 1"], "data": {}, "model": "m", "settings": {},
    }  # fmt: skip
    return Kept(recipe, seed, about, splits, {"seen": items})


@pytest.fixture
def study() -> Study:
    """Two recipes, two seeds."""
    recipes = {
        "mine": {"about": "both terms", "overrides": {"learning_rate": 1e-3}},
        "dpo_only": {
            "about": "no sft",
            "overrides": {"loss_type": "sigmoid", "loss_weights": None},
        },
    }
    return Study(about="Which one?", seeds=[1, 2], shipped="mine", recipes=recipes)


def test_every_recipe_runs_with_every_seed_the_shipped_one_first(study):
    runs = list_runs(study, {"device": "cpu"}, None)
    names = [(run.recipe, run.seed) for run in runs]
    assert names == [("mine", 1), ("dpo_only", 1), ("mine", 2), ("dpo_only", 2)]
    assert runs[1].config.losses == ["sigmoid"] and runs[1].config.device == "cpu"
    assert len({run.config.output_dir for run in runs}) == 4
    assert [run.recipe for run in list_runs(study, {}, ["dpo_only"])] == ["dpo_only"] * 2


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"seeds": []}, "seeds"),
        ({"shipped": "other"}, "shipped: other: not one of a"),
        ({"recipes": {"base": {}}}, "untrained control"),
        ({"recipes": {"a/b": {}}}, "recipes"),
        ({"recipe": {}}, "recipe"),
    ],
)
def test_a_wrong_recipes_file_is_refused_with_the_key(tmp_path, values, problem):
    file = tmp_path / "recipes.json"
    file.write_text(json.dumps({"seeds": [1], "recipes": {"a": {}}, **values}))
    with pytest.raises(UserError, match=problem):
        load_study(file)


def test_an_unknown_key_of_a_recipe_is_refused_before_anything_runs(study):
    wrong = study.model_copy(update={"shared": {"learn_rate": 1}})
    with pytest.raises(UserError, match=r"recipe mine: .*learn_rate.*learning_rate"):
        list_runs(wrong, {}, None)


def test_outcomes_keep_one_item_an_abbreviation_and_sense():
    asked = {"split": "seen", "accepted": ["x"], "outcome": "grounded", "strict": True}
    records = [
        {**asked, "abbreviation": "DP", "item": "1234567", "choice_margin": 1.0},
        {**asked, "abbreviation": "DP", "item": "7654321", "choice_margin": 1.0},
        {**asked, "abbreviation": "ROP", "item": "7777777", "outcome": "invented", "strict": False},
        {"split": "drift", "item": "9"},
    ]
    assert code_outcomes(records) == {"seen": {"DP.123456": "g!+", "ROP.777777": "i.."}}


def test_a_goal_is_reached_at_its_bound_and_counts_only_where_measured():
    splits = {
        "seen": {"grounding": make_share(0.5), "primary": {"grounding": make_share(0.99)}},
        "unseen": {"invention": make_share(0.2001)},
        "drift": {"perplexity_ratio": {"value": 1.05, "low": 1.0, "high": 1.1}},
    }
    values = read_values(splits)
    assert values["grounding"] == 0.99 and values["polysemy"] is None
    assert count_reached(splits) == 2


def test_claims_are_judged_seed_by_seed():
    kept = [
        make_kept("mine", 1, "+" * 20), make_kept("mine", 2, "+" * 20),
        make_kept("weak", 1, "-" * 20), make_kept("weak", 2, "-" * 20),
        make_kept("half", 1, "-" * 20), make_kept("half", 2, "+" * 20),
        make_kept("base", None, "-" * 20),
    ]  # fmt: skip
    found = {
        (c.control, c.goal.key): c for c in make_claims(kept, "mine", ["weak", "half", "base"])
    }
    weak = found["weak", "grounding"]
    assert weak.judge(0.01) == HOLDS and weak.weakest.p == pytest.approx(2 * 0.5**20)
    assert (weak.weakest.only_control, weak.weakest.only_shipped) == (0, 20)
    assert found["half", "grounding"].judge(0.01) == OPEN
    assert found["base", "grounding"].judge(0.01) == HOLDS
    assert found["base", "confusion"].judge(0.01) == OPEN  # neither confuses anything
    assert found["base", "polysemy"].judge(0.01) == UNMEASURED
    reversed_ = {c.goal.key: c for c in make_claims(kept, "weak", ["mine"])}
    assert reversed_["strict"].judge(0.01) == REVERSED


def test_the_document_says_what_is_reached_missed_and_shown(study):
    kept = [
        make_kept("mine", 1, "+" * 20, grounding=1.0, perplexity_ratio=1.02),
        make_kept("mine", 2, "+" * 20, grounding=0.98, perplexity_ratio=1.04),
        make_kept("dpo_only", 1, "-" * 20, grounding=0.25),
        make_kept("base", None, "+" * 20, grounding=0.01),
    ]
    text = render_study(study, kept, "01_data/study/x", ["01_data/x.jsonl"])
    assert "| taught: right expansion | 1 % | >= 99 % | 99 % (98 % to 100 %) | 98 %" in text
    assert "seed 2 | **missed**: reached in 1 of 2 seeds |" in text
    assert "| 1.030 (1.020 to 1.040) | 1.040" in text and "| reached |" in text
    assert "- `base`, no difference shown: taught: right expansion" in text
    assert (
        "| taught: right expansion | `dpo_only` | 1 | 20 | 0 / 20 |" in text and "| holds |" in text
    )
    assert "Planned and not run yet: `dpo_only` seed 2." in text
    assert "Goals not measured here: taught: right at once and alone;" in text
    assert "python 03_scripts/study.py 01_data/study/x --only table" in text
    assert "The data has changed since: 01_data/x.jsonl." in text
    assert "`learning_rate=0.001`" in text and "Which one?" in text


def test_results_of_other_settings_are_refused(study):
    config = list_runs(study, {}, None)[0].config
    good = make_kept("mine", 1, "+")
    good.about["settings"] = describe_settings(config)
    assert check_kept([good], study) == []
    other = make_kept("base", None, "+")
    other.about["model"] = "another"
    with pytest.raises(UserError, match="results/base: made with another base model"):
        check_kept([good, other], study)
    good.about["settings"]["lora_r"] = 3
    with pytest.raises(UserError, match=r"results/mine/seed_1: lora_r is 3, not 32"):
        check_kept([good], study)
    with pytest.raises(UserError, match="no such recipe"):
        check_kept([make_kept("mine", 9, "+")], study)
    with pytest.raises(UserError, match="holds no result"):
        read_kept(Path("/nowhere"))


@pytest.mark.parametrize("folder", STUDIES, ids=lambda folder: folder.name)
def test_the_committed_studies_are_what_their_kept_results_give(folder):
    study, kept = load_study(folder / "recipes.json"), read_kept(folder / "results")
    place = folder.relative_to(REPOSITORY).as_posix()
    text = render_study(study, kept, place, check_kept(kept, study))
    hint = f"run: python 03_scripts/study.py {place} --only table"
    assert (folder / "STUDY.md").read_text(encoding="utf-8") == text, hint
    assert (folder / "study.png").is_file(), hint
    for run in (file.parent for file in folder.glob("results/*/*/run.json")):
        assert sum(file.stat().st_size for file in run.iterdir()) < 110_000, run


@pytest.fixture(scope="module")
def recipes_file(tiny_config, tmp_path_factory) -> Path:
    """A study of the tiny model: one recipe that runs, one that fails."""
    folder = tmp_path_factory.mktemp("study")
    config = tiny_config("study_base", max_steps=2, validation_answers=0, max_new_tokens=4)
    rows = [make_row(name, PHRASINGS[5]) for name in SENSES]
    shared = {"test_files": {"seen": str(write_rows(folder / "seen.jsonl", rows))}}
    broken = {"overrides": {"dataset_hf": "no_such_file.jsonl"}}
    study = {
        "base_config": str(Path(config.logging_dir).parent / "study_base.json"),
        "shared": shared, "seeds": [5], "shipped": "works", "recipes": {"works": {}, "bad": broken},
    }  # fmt: skip
    file = folder / "recipes.json"
    file.write_text(json.dumps(study))
    return file


def test_a_study_runs_keeps_goes_on_and_survives_a_crash(recipes_file, run_stage):
    arguments = [str(recipes_file.parent), "--no_controls"]
    out = recipes_file.parent / "results"
    done = run_stage("03_scripts/study.py", *arguments, "--jobs", "2")
    lines = {line["recipe"]: line for line in map(json.loads, done.out.splitlines())}
    assert done.rc == 1 and "no_such_file" in lines["bad"]["failed"]
    assert lines["works"]["steps"] == 2 and lines["works"]["grounding"] == 0.0
    place = out / "works" / "seed_5"
    about = json.loads((place / "run.json").read_text())
    assert len(about["model"]) == 64 and "model_name" not in about["settings"]
    kept = {"run.json", "evaluation.json", "outcomes.json", "metrics.jsonl"}
    assert {file.name for file in place.iterdir()} == kept
    assert "| `works` | 5 | 2 |" in (out.parent / "STUDY.md").read_text()
    assert (out.parent / "study.png").read_bytes().startswith(b"\x89PNG")
    only = run_stage("03_scripts/study.py", *arguments, "--only_recipes", "works")
    assert only.rc == 0 and only.out == ""  # nothing is run twice
    run = list_runs(load_study(recipes_file), {}, ["works"])[0]
    assert is_kept(out, run)
    train = Path(run.config.dataset_hf)
    adapter = resolve_path(run.config.output_dir) / "adapter_model.safetensors"
    rows, made = train.read_text(), adapter.stat().st_mtime_ns
    try:
        train.write_text(rows + "\n")
        assert not is_kept(out, run)
        again = run_stage("03_scripts/study.py", *arguments, "--only_recipes", "works")
    finally:
        train.write_text(rows)
    assert json.loads(again.out)["steps"] == 2
    assert adapter.stat().st_mtime_ns > made  # trained on the other data, not only measured again
