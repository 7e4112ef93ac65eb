"""Write 00_configs/dpo.schema.json from the Config class, so that editors explain every key.

python 03_scripts/write_schema.py
python 03_scripts/write_schema.py --table > keys.md
python 03_scripts/write_schema.py --check
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "02_src"))

from config import show_path
from config_schema import check_schema, config_table, write_schema
from errors import run_main


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Write the JSON Schema of config files.")
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--table", action="store_true", help="print the keys as Markdown tables")
    choice.add_argument("--check", action="store_true", help="exit 2 if the file is out of step")
    return parser.parse_args()


def main() -> int:
    """Write, check or print."""
    arguments = parse_arguments()
    if arguments.table:
        print(config_table(), end="")
    elif arguments.check:
        check_schema()
    else:
        print(f"wrote {show_path(write_schema())}")
    return 0


if __name__ == "__main__":
    run_main(main)
