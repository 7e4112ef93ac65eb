"""Start stages by fork from a process that has the libraries loaded: seconds less a start. Linux.

Reads a JSON list of arguments a line: log file, script, arguments. Answers 0 once it is
ready, then for each line with the child's process id and with its exit code.
"""

import json
import os
import sys
import traceback
from importlib import import_module
from pathlib import Path


def run_child(log: str, script: str, arguments: list[str]) -> None:
    """Become the stage: output into `log`, exit code as the script's own."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.argv = [script, *arguments]
    code = 1
    try:
        errors = import_module("errors")
        errors.run_main(import_module(Path(script).stem).main)
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def main() -> None:
    """Load what the stages load, then serve."""
    for name in ("trainer_setup", "trained_models", "evaluation.measure", "evaluation.subjects"):
        import_module(name)
    for name in ("torch.utils.tensorboard", "matplotlib.figure", "transformers.integrations"):
        import_module(name)
    answers = os.fdopen(os.dup(1), "w")
    print(0, file=answers, flush=True)
    for line in sys.stdin:
        log, script, *arguments = json.loads(line)
        child = os.fork()
        if child == 0:
            run_child(log, script, arguments)
        print(child, file=answers, flush=True)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), file=answers, flush=True)


if __name__ == "__main__":
    main()
