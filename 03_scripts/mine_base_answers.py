"""Cache the base model's own wrong answers for the data builder (once; the file is committed).

python 03_scripts/mine_base_answers.py
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "02_src"))

from config import load_config, resolve_path, show_path
from errors import run_main
from glossary import load_glossary
from mining import mine_base_answers


def main() -> int:
    """Ask about every abbreviation of the glossary; write what was wrong."""
    parser = argparse.ArgumentParser(description="Cache the base model's own wrong answers.")
    parser.add_argument("--glossary", default="01_data/glossary/oil_gas.jsonl")
    parser.add_argument("--output", default="01_data/glossary/base_answers.jsonl")
    parser.add_argument("--config", default="00_configs/quickstart.json", help="names the base")
    arguments = parser.parse_args()
    config = load_config(arguments.config, {"load_in_4bit": False, "max_new_tokens": 32})
    entries = load_glossary(resolve_path(arguments.glossary))
    abbreviations = [
        (entry.abbreviation, [n for s in entry.oil_gas for n in s.names]) for entry in entries
    ]
    output = resolve_path(arguments.output)
    kept, asked = mine_base_answers(abbreviations, output, config)
    print(f"{kept} of {asked} answers were wrong and kept: {show_path(output)}")
    return 0


if __name__ == "__main__":
    run_main(main)
