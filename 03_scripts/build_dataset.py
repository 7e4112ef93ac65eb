"""Build the preference pairs under 01_data/dpo from the glossary.

python 03_scripts/build_dataset.py            # writes 01_data/dpo, prints the counts
python 03_scripts/build_dataset.py --check    # rebuilds elsewhere and compares the bytes
"""

import argparse
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "02_src"))

from errors import UserError, run_main
from pairs.build import build_dataset


def main() -> int:
    """Build, or with --check compare a fresh build with the files that are there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--glossary", type=Path, default=ROOT / "01_data/glossary/oil_gas.jsonl")
    parser.add_argument("--output", type=Path, default=ROOT / "01_data/dpo")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--check", action="store_true", help="compare, change nothing")
    args = parser.parse_args()
    if args.check:
        return check_build(args.glossary, args.output, args.seed)
    manifest = build_dataset(args.glossary, args.output, args.seed)
    if manifest["inputs"]["base_answers.jsonl"] is None:
        print("no base_answers.jsonl: competing senses take the place of the base model's answers")
        print("make it with: python 03_scripts/mine_base_answers.py")
    for name, file in manifest["files"].items():
        print(f"{file['rows']:6d}  {name}")
    for name, value in manifest["length_balance_train"].items():
        print(f"{value:8.3f}  {name}")
    return 0


def check_build(glossary: Path, output: Path, seed: int) -> int:
    """Rebuild in a temporary folder and compare every file; UserError names what differs."""
    with tempfile.TemporaryDirectory() as folder:
        build_dataset(glossary, Path(folder), seed)
        fresh, there = read_files(Path(folder)), read_files(output)
    differing = sorted(n for n in fresh.keys() | there.keys() if fresh.get(n) != there.get(n))
    if differing:
        raise UserError(
            f"{output}: differs from a fresh build in {', '.join(differing)}; "
            "run: python 03_scripts/build_dataset.py"
        )
    print(f"{len(fresh)} files are what a fresh build gives")
    return 0


def read_files(folder: Path) -> dict[str, bytes]:
    """The data files under a folder and the manifest, by relative name."""
    paths = [*folder.rglob("*.jsonl"), folder / "manifest.json"]
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in paths if p.is_file()}


if __name__ == "__main__":
    run_main(main)
