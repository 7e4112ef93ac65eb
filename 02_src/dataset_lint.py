"""Check a preference data set for what spoils training, before a GPU is spent on it.

    report = lint_file("01_data/dpo/train.jsonl", test_files=["01_data/dpo/test_seen.jsonl"])
    print(*summarize(report), sep="\\n")

The command: python 03_scripts/lint_dataset.py 01_data/dpo/train.jsonl
"""

from collections.abc import Sequence
from pathlib import Path

from config import Config, show_path
from lint.contents import (
    count_classes,
    find_answer_leaks,
    find_classes,
    find_refusals,
    find_same_answers,
    find_strange_characters,
)
from lint.leakage import find_leakage
from lint.lengths import describe_lengths, find_length_bias, find_truncation, measure_lengths
from lint.repeats import (
    find_contradictions,
    find_mixed_preferences,
    find_repeats,
)
from lint.report import Finding, LintReport, Track, sort_findings, track_silently
from lint.rows import LintRow, read_pairs

__all__ = ["Finding", "LintReport", "lint_file", "summarize"]

SUMMARY_FINDINGS = 5


def lint_file(
    path: str | Path,
    config: Config | None = None,
    test_files: Sequence[str | Path] = (),
    tokenizer=None,
    track: Track = track_silently,
) -> LintReport:
    """Run every check on the pairs of `path`.

    Args:
        path: file or hub data set, as the config key dataset_hf takes it.
        config: gives the length limits and dataset_split; None is the defaults.
        test_files: files that must not share questions with `path`.
        tokenizer: counts tokens exactly; without one lengths are estimated from characters.
        track: wraps long loops, for a progress bar.

    Raises:
        UserError: a file does not exist or cannot be read at all. Bad rows are findings.
    """
    config = config or Config()
    rows, findings = read_pairs(str(path), config, track)
    statistics = {**measure_lengths(rows), "rejected_classes": count_classes(rows)}
    if not rows:
        text = "no pairs; give rows with instruction, chosen, rejected"
        findings.append(Finding("no_pairs", "error", 0, text))
    findings += find_length_bias(rows, statistics)
    findings += find_truncation(rows, config, tokenizer)
    findings += check_contents(rows, track)
    findings += find_classes(rows, statistics)
    findings += check_repeats(rows, track)
    findings += find_leakage(rows, map(str, test_files), config, track)
    lengths = [(len(row.pair.chosen), len(row.pair.rejected)) for row in rows]
    return LintReport(show_path(path), len(rows), sort_findings(findings), statistics, lengths)


def check_contents(rows: Sequence[LintRow], track: Track) -> list[Finding]:
    """The checks that look at one row at a time."""
    checks = (find_strange_characters, find_same_answers, find_answer_leaks, find_refusals)
    return [found for check in track(checks, "reading answers") for found in check(rows)]


def check_repeats(rows: Sequence[LintRow], track: Track) -> list[Finding]:
    """The checks that compare rows with each other."""
    return [
        *find_contradictions(rows),
        *find_mixed_preferences(rows),
        *find_repeats(rows, track),
    ]


def summarize(report: LintReport) -> list[str]:
    """The report in a few lines: lengths, the worst findings, and where to read the rest."""
    head = f"{report.file}: {report.pairs:,} pairs"
    lines = [f"{head}; {describe_lengths(report.statistics)}" if report.pairs else head]
    serious = [finding for finding in report.findings if finding.severity != "info"]
    for finding in serious[:SUMMARY_FINDINGS]:
        place = f" (first: {finding.places[0]})" if finding.places else ""
        advice = f"; {finding.advice}" if finding.advice else ""
        lines.append(f"{finding.severity}: {finding.text}{place}{advice}")
    if not serious:
        return [*lines, "no errors, no warnings"]
    command = f"python 03_scripts/lint_dataset.py {report.file}"
    more = len(serious) - SUMMARY_FINDINGS
    return [*lines, f"{more} more: {command}" if more > 0 else f"all details: {command}"]
