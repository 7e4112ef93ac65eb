"""Pin every dependency of a dependency with its hashes, and look for known vulnerabilities.

    pip install uv pip-audit
    python 03_scripts/lock_requirements.py            # writes .ci/requirements.lock
    python 03_scripts/lock_requirements.py --audit    # asks PyPI's advisories about it

A package that the advisories cannot be asked about counts as not audited: exit code 1.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
LOCK = REPOSITORY / ".ci" / "requirements.lock"
OLDEST_PYTHON = "3.11"


def write_lock() -> int:
    """Resolve requirements.txt for all systems at once; the exit code."""
    command = [sys.executable, "-m", "uv", "pip", "compile", "--generate-hashes", "--universal"]
    command += ["--python-version", OLDEST_PYTHON, "requirements.txt", "--quiet"]
    command += ["--custom-compile-command", "python 03_scripts/lock_requirements.py"]
    temporary = LOCK.with_suffix(".tmp")
    done = subprocess.run([*command, "--output-file", str(temporary)], cwd=REPOSITORY)
    if done.returncode == 0:
        temporary.replace(LOCK)
    return done.returncode


def audit_lock() -> int:
    """Print known vulnerabilities and what could not be audited; 1 where there is either."""
    command = [sys.executable, "-m", "pip_audit", "--disable-pip", "--format", "json"]
    done = subprocess.run([*command, "-r", str(LOCK)], stdout=subprocess.PIPE, text=True)
    packages = json.loads(done.stdout or '{"dependencies": []}')["dependencies"]
    skipped = [p["name"] for p in packages if "skip_reason" in p]
    found = [(p["name"], v["id"]) for p in packages for v in p.get("vulns", [])]
    for name, number in found:
        print(f"{name}: {number}")
    print(f"{len(packages)} packages, {len(found)} vulnerabilities, {len(skipped)} not audited")
    return 1 if found or skipped or not packages else 0


def main() -> int:
    """Lock, or audit the lock."""
    parser = argparse.ArgumentParser(description="Lock requirements.txt with hashes, audit it.")
    parser.add_argument("--audit", action="store_true", help="look for known vulnerabilities")
    return audit_lock() if parser.parse_args().audit else write_lock()


if __name__ == "__main__":
    sys.exit(main())
