"""The Hugging Face token, from HF_TOKEN or 00_configs/secrets.toml; never printed or saved."""

import functools
import os
import re
import stat
import sys
import tomllib

from config import SECRETS_FILE, show_path
from errors import UserError


def find_token() -> str | None:
    """HF_TOKEN, else `[huggingface] token` of secrets.toml, else None.

    Raises:
        UserError: secrets.toml is not valid TOML or has a token that is not text.
    """
    token = os.environ.get("HF_TOKEN", "").strip()
    if token or not SECRETS_FILE.is_file():
        return token or None
    warn_if_readable()
    try:
        table = tomllib.loads(SECRETS_FILE.read_text(encoding="utf-8")).get("huggingface", {})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        line = re.search(r"at line (\d+)", str(error))
        place = f"{show_path(SECRETS_FILE)}:{line[1]}" if line else show_path(SECRETS_FILE)
        raise UserError(f"{place}: not valid TOML; see secrets.example.toml") from None
    token = table.get("token", "") if isinstance(table, dict) else None
    if not isinstance(token, str):
        raise UserError(f"{show_path(SECRETS_FILE)}: [huggingface] token must be text in quotes")
    return token.strip() or None


@functools.cache
def warn_if_readable() -> None:
    """Say once when other users of this machine can read the token."""
    if os.name == "posix" and SECRETS_FILE.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH):
        print(
            f"warning: {show_path(SECRETS_FILE)} can be read by others; "
            f"run: chmod 600 {show_path(SECRETS_FILE)}",
            file=sys.stderr,
        )
