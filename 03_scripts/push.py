"""Send a model to the Hugging Face Hub; without --upload, list what would leave the machine.

python 03_scripts/push.py --model 04_models/merged/quickstart --repo me/oilfield-135m
python 03_scripts/push.py --model 04_models/merged/quickstart --repo me/oilfield-135m --upload

--model is an adapter run, a merged model or an export. The repository is private unless --public.
The model card is written into the folder in either case.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "02_src"))

from config import resolve_path, show_path
from errors import UserError, run_main
from hub_push import REPO_ID, collect_items, describe_items, send


def main() -> int:
    """Parse, list, send where asked to."""
    parser = argparse.ArgumentParser(description="Send a model to the Hugging Face Hub.")
    parser.add_argument("--model", required=True, help="adapter run, merged model or export")
    parser.add_argument("--repo", required=True, help="owner/name on the Hub")
    parser.add_argument("--public", action="store_true", help="anyone may read it")
    parser.add_argument("--upload", action="store_true", help="send; without it only list")
    arguments = parser.parse_args()
    folder = resolve_path(arguments.model)
    if not folder.is_dir():
        raise UserError(f"--model {show_path(folder)}: no such folder")
    if not REPO_ID.fullmatch(arguments.repo):
        raise UserError(f"--repo {arguments.repo}: write it as owner/name")
    items = collect_items(folder)
    print(describe_items(items, arguments.repo, not arguments.public))
    if not arguments.upload:
        print(f"nothing was sent; the card is {show_path(folder / 'README.md')}; send: --upload")
        return 0
    print(f"sent: {send(items, arguments.repo, not arguments.public)}")
    return 0


if __name__ == "__main__":
    run_main(main)
