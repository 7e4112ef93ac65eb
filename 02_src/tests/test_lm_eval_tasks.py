"""The lm-evaluation-harness tasks, without the harness: files, splits, questions, scores."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import yaml

from config import REPOSITORY
from grounding import judge_answer

FOLDER = REPOSITORY / "01_data" / "lm_eval"
SAID = ("seen", "casual", "unseen", "general_seen", "general_unseen", "polysemy", "made_up")
CHOSEN = ("seen", "casual", "unseen", "general_seen", "general_unseen", "polysemy", "locality")
ANSWERS = ("DP stands for Dynamic Positioning.", "Data Processing.", "I do not know DP.", "A fish.")
DOC = {"accepted": ["Dynamic Positioning"], "competing": ["Data Processing"], "question": "DP?"}


@pytest.fixture(scope="module")
def functions():
    """The module that the YAML files name, loaded as the harness loads it: by its path."""
    spec = importlib.util.spec_from_file_location("oilfield", FOLDER / "oilfield.py")
    module = importlib.util.module_from_spec(spec)
    before = list(sys.path)
    spec.loader.exec_module(module)
    sys.path[:] = before
    return module


def read_task(file: Path, functions) -> dict:
    """A task with what it includes; !function becomes the function."""

    class Loader(yaml.SafeLoader):
        """Knows !function."""

    def find(loader, node):
        module, name = loader.construct_scalar(node).split(".")
        assert module == "oilfield"
        return getattr(functions, name)

    Loader.add_constructor("!function", find)
    task = yaml.load(file.read_text(encoding="utf-8"), Loader)
    included = task.pop("include", None)
    return {**(read_task(FOLDER / included, functions) if included else {}), **task}


def test_there_is_a_task_for_every_split_and_way_of_asking():
    expected = {f"oilfield_{name}.yaml" for name in SAID}
    expected |= {f"oilfield_{name}_chosen.yaml" for name in CHOSEN}
    assert {file.name for file in FOLDER.glob("oilfield*.yaml")} == expected


@pytest.mark.parametrize("name", [*SAID, *(f"{name}_chosen" for name in CHOSEN)])
def test_a_task_loads_all_questions_of_its_split(functions, name):
    task = read_task(FOLDER / f"oilfield_{name}.yaml", functions)
    split = name.removesuffix("_chosen")
    assert task["task"] == f"oilfield_{name}" and task["dataset_kwargs"] == {"split": split}
    assert (task["output_type"] == "multiple_choice") == name.endswith("_chosen")
    docs = task["custom_dataset"](**task["dataset_kwargs"], **task["metadata"])["test"]
    file = REPOSITORY / "01_data" / "dpo" / f"test_{split}.jsonl"
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    if name.endswith("_chosen"):
        rows = [row for row in rows if row["competing"]]
        first = docs[0]["choices"]
        assert first[0] != first[1] and all("stands for" in choice for choice in first)
    assert len(docs) == len(rows) > 0
    assert all(
        doc["question"].endswith(row["instruction"]) for doc, row in zip(docs, rows, strict=True)
    )


def test_a_score_is_the_toolkits_own_judgement(functions):
    task = read_task(FOLDER / "oilfield_seen.yaml", functions)
    names = {entry["metric"] for entry in task["metric_list"]}
    expected = ("grounding", "confusion", "abstention", "invention")
    for answer, metric in zip(ANSWERS, expected, strict=True):
        scores = task["process_results"](DOC, [answer])
        assert set(scores) == names
        assert [name for name in expected if scores[name] == 1.0] == [metric]
        strict = judge_answer(answer, DOC["accepted"], DOC["competing"], DOC["question"]).strict
        assert scores["strict_grounding"] == float(strict)
