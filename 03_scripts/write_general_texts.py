"""Let a base model write the general texts that training rehearses (once; the file is committed).

    python 03_scripts/write_general_texts.py
    python 03_scripts/write_general_texts.py --config 00_configs/dpo.json --output my_texts.jsonl

Asks about everyday things and keeps the answers: every other one with its question, the others as
bare text. None of it is in the test files. Text of the base itself is what it has least to learn
from (Huang et al. 2024, arXiv 2403.01244); any text will do, see `rehearsal_file`.
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "02_src"))

from config import load_config, resolve_path, show_path
from errors import UserError, run_main
from safe_files import replacing
from utils.formatting import format_prompt

FORMS = (
    "Write a few sentences about {}.",
    "Why do people care about {}?",
    "Tell me something that is worth knowing about {}.",
)
TOPICS = """apples, bread, bicycles, winter, libraries, gardens, coffee, mountains, music, trains,
the moon, cooking rice, chess, the desert, horses, painting, sleep, rain, bridges, honey, football,
the ocean, school, letters, candles, forests, salt, clocks, birds, walking, photography, tea,
islands, glass, friendship, markets, snow, poetry, maps, farming, swimming, paper, dogs, cheese,
gravity, castles, dancing, wool, museums, volcanoes, holidays, mirrors, bees, theatre, lakes, shoes,
soup, stars, kindness, wheels, airports, languages, weather reports, budgets, medicine, democracy,
programming, statistics, electricity, vaccines, the stock market, law courts, hospitals, robots,
satellites, newspapers, taxes, chemistry, fractions, spreadsheets, email, insurance, architecture,
nutrition, the Roman Empire, evolution, jazz, recycling, traffic, project plans, job interviews,
teamwork, passwords, video games, water filters, solar panels""".replace("\n", " ").split(", ")


def write_texts(config, output: Path, most: int | None) -> int:
    """Ask, and write a row for each answer; how many.

    Raises:
        UserError: the model answers nothing.
    """
    from generation import generate_answers
    from hardware import find_device
    from qlora import load_policy

    questions = [form.format(topic) for form in FORMS for topic in TOPICS][:most]
    model, tokenizer = load_policy(config, find_device(config))
    answers = generate_answers(
        model.eval(),
        tokenizer,
        [format_prompt(question) for question in questions],
        config.max_new_tokens,
    )
    said = [(q, a) for q, a in zip(questions, answers, strict=True) if a]
    if not said:
        raise UserError(f"model_name: {config.model_name} answers nothing; take another base")
    with replacing(output) as scratch, open(scratch, "w", encoding="utf-8", newline="\n") as file:
        for number, (question, answer) in enumerate(said):
            row = {"instruction": question, "answer": answer} if number % 2 else {"text": answer}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return len(said)


def main() -> int:
    """Ask the config's base, in 16 bit, about every topic."""
    parser = argparse.ArgumentParser(description="Let a base model write general texts.")
    parser.add_argument("--output", default="01_data/general/texts.jsonl")
    parser.add_argument("--config", default="00_configs/quickstart.json", help="names the base")
    parser.add_argument("--tokens", type=int, default=64, help="longest answer")
    parser.add_argument("--questions", type=int, help="ask so many of the 288")
    arguments = parser.parse_args()
    if arguments.questions is not None and arguments.questions < 1:
        raise UserError(f"--questions {arguments.questions}: must be 1 or more")
    keys = {"load_in_4bit": False, "max_new_tokens": arguments.tokens}
    config = load_config(arguments.config, keys)
    output = resolve_path(arguments.output)
    count = write_texts(config, output, arguments.questions)
    print(f"{count} texts: {show_path(output)}")
    return 0


if __name__ == "__main__":
    run_main(main)
