"""Errors a user can act on: one line, the place, the next step, exit code 2.

Imported before anything else, so that Ctrl-C is one line while the libraries load, too.
"""

import errno
import gc
import os
import re
import signal
import sys
from collections.abc import Callable
from types import TracebackType

INTERRUPTED = 130  # what a shell reports for a command that SIGINT ended
# Python's default looks for garbage every 700 objects: a sixth of the time that imports take.
COLLECT_RARELY = (50_000, 50, 50)
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)
# Libraries that write files in C++ or Rust say what went wrong in the text only.
DISK_FULL_TEXT = ("No space left", "os error 28", "File too large", "os error 27", "quota exceeded")
WRITE_FAILED_TEXT = ("PytorchStreamWriter", "file write failed", "unexpected pos")
OUT_OF_MEMORY_TEXT = (  # cuBLAS, the driver, cuDNN's attention
    "CUBLAS_STATUS_ALLOC_FAILED", "CUDA error: out of memory", "mha_graph.execute",
)  # fmt: skip
PEER_GONE_TEXT = ("Connection closed by peer", "Connection reset by peer", "Broken pipe")
# Everything a terminal obeys instead of showing; also signs that turn the text's direction.
CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


_who: str | None = ""  # begins what this process says; None: it says nothing


def speak_as(who: str | None) -> None:
    """Begin each line with `who`, or say nothing: one of several processes of a run."""
    global _who
    _who = who


class UserError(Exception):
    """The user's config, data or machine has to change; the text says what and where."""

    exit_code = 2

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows of it: the line, without the calls that led there."""
        return [f"error: {escape_controls(str(self))}"]


def escape_controls(text: str) -> str:
    """`text` with what a terminal would obey shown as \\x1b and the like; line ends stay."""
    return CONTROLS.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether a GPU's memory ran out, be it that a library says so in words of its own."""
    disguised = any(part in str(error) for part in OUT_OF_MEMORY_TEXT)
    return type(error).__name__ == "OutOfMemoryError" or disguised  # torch's; not imported here


def describe_machine_trouble(error: BaseException) -> str | None:
    """One line for a full disk, a folder that may not be written, a file that is gone, else None.

    Args:
        error: what a stage raised; only errors of the file system are described.
    """
    text = " ".join(str(error).split())
    number = error.errno if isinstance(error, OSError) else None
    place = f"{error.filename}: " if isinstance(error, OSError) and error.filename else ""
    resume = "then run the same command again (training: with --resume)"
    if any(part in text for part in PEER_GONE_TEXT) and "gloo" in text.lower():
        return "another process of this run has ended, see its message; go on with --resume"
    if ran_out_of_memory(error):
        return f"the GPU's memory ran out ({text.split('.')[0]}); close other programs, {resume}"
    if number in DISK_FULL or any(part in text for part in DISK_FULL_TEXT):
        return f"{place}no space left to write; what was finished is whole; free some, {resume}"
    if number in READ_ONLY:
        return f"{place}may not be written or read ({text}); change its rights or output_dir"
    if number == errno.ENOENT:
        return f"{place}vanished while it was needed; put it back, {resume}"
    if any(part in text for part in WRITE_FAILED_TEXT):
        return f"a file could not be written ({text[:80]}); check the disk, {resume}"
    if number in (errno.EIO, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.EMFILE):
        return f"{text}; check the path and the disk, {resume}"
    return None


def say(line: str) -> None:
    """A line on stderr, free of line ends and control characters."""
    if _who is not None:
        print(_who + escape_controls(" ".join(line.split())), file=sys.stderr, flush=True)


def say_interrupted() -> None:
    """Ctrl-C's line; another Ctrl-C ends the process at once and without a word."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    say("interrupted: nothing was left half-written")


def run_main(main: Callable[[], int | None]) -> None:
    """Run a stage's main(); what a user can act on becomes one line and exit code 2."""
    gc.set_threshold(*COLLECT_RARELY)
    try:
        end_process(main() or 0)
    except UserError as error:
        say(f"error: {error}")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        say_interrupted()
        sys.exit(INTERRUPTED)
    except Exception as error:
        line = describe_machine_trouble(error)
        if line is None:
            raise
        say(f"error: {line}")
        sys.exit(UserError.exit_code)


def end_process(code: int) -> None:
    """Exit; one of several processes at once: gloo's threads can abort it while it unwinds."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def show_uncaught(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """sys.excepthook: Ctrl-C before main() runs is one line, everything else as Python has it."""
    if issubclass(kind, KeyboardInterrupt):
        say_interrupted()
    else:
        sys.__excepthook__(kind, error, trace)


# Work at import time, on purpose: main() runs only after seconds of imports.
sys.excepthook = show_uncaught
