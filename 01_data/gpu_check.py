"""What this machine can train. `--json` for programs.

python 01_data/gpu_check.py
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "02_src"))

from errors import run_main
from hardware import describe_fit, find_device


def main() -> int:
    """Print the device and what fits on it."""
    parser = argparse.ArgumentParser(description="What this machine can train.")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    device = find_device()
    advice = describe_fit(device)
    if arguments.json:
        print(json.dumps({**device.to_dict(), "advice": advice}, indent=2))
    else:
        print("\n".join([device.describe(), *advice]))
    return 0


if __name__ == "__main__":
    run_main(main)
