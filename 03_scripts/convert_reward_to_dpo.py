"""Turn scored answers (instruction, response, reward) into preference pairs.

    python 03_scripts/convert_reward_to_dpo.py scored.jsonl pairs.jsonl
    python 03_scripts/convert_reward_to_dpo.py scored.csv pairs.jsonl --mode best-each \\
        --min-gap 0.5 --response-field answer --reward-field score

Exit code: 0 written, 2 wrong usage or no pair to make.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "02_src"))

from errors import UserError, run_main
from reward_pairs import MODES, RewardFields, convert_rewards


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("input", type=Path, help="scored answers: .jsonl .json .csv .parquet")
    parser.add_argument("output", type=Path, help="the .jsonl file to write")
    parser.add_argument("--mode", choices=MODES, default=MODES[0])
    parser.add_argument("--min-gap", type=float, default=0.0, help="smallest reward difference")
    for name in ("instruction", "response", "reward", "context"):
        parser.add_argument(f"--{name}-field", default=name, metavar="NAME")
    return parser.parse_args()


def main() -> None:
    """Convert and print the counts."""
    args = parse_arguments()
    fields = RewardFields(
        args.instruction_field, args.response_field, args.reward_field, args.context_field
    )
    source = args.input.expanduser().resolve()
    try:
        result = convert_rewards(source, args.output, fields, args.mode, args.min_gap)
    except OSError as error:
        raise UserError(f"{args.output}: cannot be written: {error.strerror}") from None
    print(*result.describe(), sep="\n")
    print(f"written: {args.output}")


if __name__ == "__main__":
    run_main(main)
