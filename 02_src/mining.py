"""Ask the base model about every abbreviation and keep what it says: real wrong answers.

A rejected answer the model would itself give teaches more than one it never would.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from config import Config, write_text
from generation import generate_answers
from grounding import GROUNDED, judge_answer
from hardware import find_device
from qlora import load_policy
from utils.formatting import format_prompt

QUESTIONS = (
    "In oil and gas, what does {} stand for?",
    "Give the full form of {} as petroleum engineers use it.",
    "What is {} short for?",
    "Expand {} in one short sentence.",
)


def mine_base_answers(
    abbreviations: Sequence[tuple[str, list[str]]], output: Path, config: Config
) -> tuple[int, int]:
    """Write the base model's greedy wrong answers; return (kept, asked).

    Args:
        abbreviations: (abbreviation, its accepted expansions), in the order to write.
        output: JSON Lines file of abbreviation, instruction, answer; right answers are left out.
        config: names the base model; use a 16-bit one, so that the answers repeat anywhere.
    """
    device = find_device(config)
    model, tokenizer = load_policy(config, device)
    asked = [(name, q.format(name), right) for name, right in abbreviations for q in QUESTIONS]
    answers = generate_answers(
        model,
        tokenizer,
        [format_prompt(question) for _, question, _ in asked],
        max_new_tokens=config.max_new_tokens,
        batch_size=config.generation_batch_size,
        label="asking the base model",
    )
    rows = [
        {"abbreviation": name, "instruction": question, "answer": answer}
        for (name, question, right), answer in zip(asked, answers, strict=True)
        if answer and judge_answer(answer, right, []).outcome != GROUNDED
    ]
    write_text(output, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return len(rows), len(asked)
