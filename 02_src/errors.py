"""Errors a user can act on: one line, the place, the next step, exit code 2."""

import sys
from collections.abc import Callable


class UserError(Exception):
    """The user's config, data or machine has to change; the text says what and where."""

    exit_code = 2


def run_main(main: Callable[[], int | None]) -> None:
    """Run a stage's main(); a UserError becomes one line on stderr and exit code 2."""
    try:
        sys.exit(main() or 0)
    except UserError as error:
        print(f"error: {' '.join(str(error).split(chr(10)))}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("interrupted: nothing was left half-written", file=sys.stderr)
        sys.exit(130)
