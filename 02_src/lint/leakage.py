"""Does a test file ask what training already answered: prompts, split groups, 8-word runs."""

from collections import Counter
from collections.abc import Iterable, Sequence

from config import Config
from lint.report import Finding, Track, make_finding
from lint.rows import LintRow, TestRow, find_group, read_test_rows

RUN_WORDS = 8
# A run found in more training texts than this is a phrasing, not a copied passage.
PHRASING_TEXTS, PHRASING_SHARE = 5, 0.005


def find_leakage(
    rows: Sequence[LintRow], test_files: Iterable[str], config: Config, track: Track
) -> list[Finding]:
    """Findings for each test file against the training rows."""
    files = list(test_files)
    if not files:
        return []
    prompts: dict[str, str] = {}
    groups: dict[str, str] = {}
    for row in rows:
        prompts.setdefault(row.prompt, row.source)
        group = find_group(row.pair.row)
        if group is not None:
            groups.setdefault(group, row.source)
    found: list[Finding] = []
    for name in files:
        tests, problems = read_test_rows(name, config, track)
        repeated = [row for row in tests if row.prompt in prompts]
        fresh = [row for row in tests if row.prompt not in prompts]
        found += problems
        found += report_prompts(name, repeated, prompts)
        found += report_groups(name, tests, groups)
        found += report_runs(name, find_copied(rows, fresh, track))
    return found


def report_prompts(name: str, rows: Sequence[TestRow], prompts: dict[str, str]) -> list[Finding]:
    """Test questions that training contains: their scores measure memory."""
    places = [f"{row.source} = {prompts[row.prompt]}" for row in rows]
    text = f"prompt(s) of {name} are in the training data too"
    advice = "remove them from one side; they would be scored from memory"
    return make_finding("test_prompt_in_train", "error", places, text, advice)


def report_groups(name: str, tests: Sequence[TestRow], groups: dict[str, str]) -> list[Finding]:
    """Split groups on both sides: some is a leak, all of them a test of what was taught."""
    grouped = [row for row in tests if row.group is not None]
    shared = [row for row in grouped if row.group in groups]
    places = [f"{row.source} shares {row.group} with {groups[row.group]}" for row in shared]
    if len(shared) == len(grouped):
        text = f"row(s) of {name}, all of them, share a split_group with training: a seen split"
        return make_finding("split_group_seen", "info", places, text)
    text = f"of {len(grouped):,} rows of {name} share a split_group with training, others do not"
    advice = "split by split_group, never by row, unless this split mixes both on purpose"
    return make_finding("split_group_shared", "warning", places, text, advice)


def report_runs(name: str, copied: dict[TestRow, str]) -> list[Finding]:
    """Test contexts that hold eight words in a row from a training prompt."""
    places = [f"{row.source} copies {source}" for row, source in copied.items()]
    text = f"context(s) of {name} share {RUN_WORDS} words in a row with a training prompt"
    advice = "write fresh contexts for the test, or drop these"
    return make_finding("context_overlap", "warning", places, text, advice)


def find_copied(
    rows: Sequence[LintRow], tests: Sequence[TestRow], track: Track
) -> dict[TestRow, str]:
    """{test row: the training row whose passage it copies}."""
    runs = {row: collect_runs(row.body) for row in tests}
    wanted = set().union(*runs.values())
    counts: Counter[tuple[str, ...]] = Counter()
    sources: dict[tuple[str, ...], str] = {}
    texts = collect_texts(rows) if wanted else {}
    for text, source in track(texts.items(), "looking for copied contexts"):
        for run in collect_runs(text) & wanted:
            counts[run] += 1
            sources.setdefault(run, source)
    limit = max(PHRASING_TEXTS, PHRASING_SHARE * len(texts))
    copied = {run for run, count in counts.items() if count <= limit}
    return {row: sources[min(own & copied)] for row, own in runs.items() if own & copied}


def collect_texts(rows: Sequence[LintRow]) -> dict[str, str]:
    """Distinct training texts with their first place: contexts and questions apart."""
    texts: dict[str, str] = {}
    for row in rows:
        parts = (row.prompt,) if row.context is None else (row.context, row.question)
        for text in parts:
            texts.setdefault(text, row.source)
    return texts


def collect_runs(text: str) -> set[tuple[str, ...]]:
    """All runs of eight words of a normalised text."""
    words = text.split()
    return set(zip(*(words[offset:] for offset in range(RUN_WORDS)), strict=False))
