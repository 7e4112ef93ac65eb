"""The lock file pins what requirements.txt pins, every package with a hash."""

import re

from config import REPOSITORY

PIN = re.compile(r"^([A-Za-z0-9_.-]+)==([^\s;]+)", re.M)


def test_lock_holds_every_requirement_in_the_same_version_and_a_hash_for_each():
    lock = (REPOSITORY / ".ci" / "requirements.lock").read_text(encoding="utf-8")
    wanted = dict(PIN.findall((REPOSITORY / "requirements.txt").read_text(encoding="utf-8")))
    entries = re.split(r"\n(?=[a-z0-9])", lock)
    locked = {m[1]: (m[2], "--hash=sha256:" in e) for e in entries if (m := PIN.match(e))}
    assert {name: locked[name][0] for name in wanted} == wanted
    assert all(has_hash for _, has_hash in locked.values())
    assert len(locked) > 100
