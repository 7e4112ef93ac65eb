"""The test items that a merge or an export is measured on, the same for every candidate."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from config import Config, resolve_path
from evaluation.question_sets import QuestionSet, load_question_set
from preferences import Pair, load_pairs

PASSAGES = 16  # of neutral text; each has hundreds of tokens


@dataclass(frozen=True)
class Sample:
    """What is measured on, and where it came from."""

    pairs: list[Pair]  # their answers are scored token by token
    asked: list[Pair]  # those whose rows list accepted expansions: answered freely and judged
    passages: list[str] = field(default_factory=list)  # neutral text, for drift
    source: str = ""


def load_sample(config: Config) -> Sample:
    """`merge_samples` pairs of the first test file with answers to judge, and neutral passages.

    Without such a file: pairs of the first test file, or of the training data, which are scored
    and not asked.
    """
    sets = [
        load_question_set(name, file, config, None)
        for name, file in config.test_files.items()
        if resolve_path(file).is_file()
    ]
    judged = [s for s in sets if any(pair.row.get("accepted") for pair in s.pairs)]
    with_pairs = judged or [s for s in sets if s.pairs]
    passages = next((s.passages for s in sets if s.passages), [])
    questions = with_pairs[0] if with_pairs else load_training_pairs(config)
    pairs = spread(questions.pairs, config.merge_samples)
    asked = [pair for pair in pairs if pair.row.get("accepted")]
    texts = [passage["text"] for passage in passages[:PASSAGES]]
    return Sample(pairs, asked, texts, questions.file)


def load_training_pairs(config: Config) -> QuestionSet:
    """The training data as a question set, for a run whose test files are gone."""
    pairs = load_pairs(config.dataset_hf, config)[0]
    return QuestionSet("train", config.dataset_hf, "", pairs=pairs)


def spread(items: Sequence, count: int) -> list:
    """`count` of `items`, evenly spaced, in their order; all where there are fewer."""
    if len(items) <= count:
        return list(items)
    return [items[i * len(items) // count] for i in range(count)]
