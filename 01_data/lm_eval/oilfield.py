"""The test splits as lm-evaluation-harness tasks: the same questions, choices and scoring as
02_src/evaluate_dpo.py. The YAML files beside this one name these functions.

    lm_eval --include_path 01_data/lm_eval --tasks oilfield --model hf \\
        --model_args pretrained=MODEL_FOLDER --apply_chat_template
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "02_src"))

from config import Config
from evaluation.question_sets import QuestionSet, load_question_set, make_choice
from grounding import METRIC_NAMES, judge_answer


def read_split(split: str) -> QuestionSet:
    """A test split of 01_data/dpo."""
    return load_question_set(split, f"01_data/dpo/test_{split}.jsonl", Config(), None)


def load_questions(split: str, **_: object) -> dict:
    """{"test": data set} of questions with the expansions that count as right and as wrong.

    lm_eval passes its metadata along with `split`; it is not needed.
    """
    from datasets import Dataset

    rows = [
        {
            "question": pair.prompt[-1]["content"],
            "accepted": list(pair.row["accepted"]),
            "competing": list(pair.row.get("competing") or []),
        }
        for pair in read_split(split).pairs
    ]
    return {"test": Dataset.from_list(rows)}


def load_choices(split: str, **_: object) -> dict:
    """{"test": data set} of forced choices; the first of the two is right."""
    from datasets import Dataset

    pairs = [(pair, make_choice(pair)) for pair in read_split(split).pairs]
    rows = [
        {"question": pair.prompt[-1]["content"], "choices": [choice.chosen, choice.rejected]}
        for pair, choice in pairs
        if choice
    ]
    return {"test": Dataset.from_list(rows)}


def score_answer(doc: dict, results: list[str]) -> dict[str, float]:
    """Each figure as 0 or 1: the answer's outcome, and whether it is strictly right."""
    judged = judge_answer(results[0].strip(), doc["accepted"], doc["competing"], doc["question"])
    shares = {name: float(judged.outcome == key) for key, name in METRIC_NAMES.items()}
    return {**shares, "strict_grounding": float(judged.strict)}
