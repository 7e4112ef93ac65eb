"""The error table of measure_memory.py as Markdown: predicted against measured peak."""

import statistics
from pathlib import Path

MIB_PER_GIB = 1024


def write_table(results: list[dict], file: Path) -> None:
    """Write the table, its summary and the runs under caps."""
    rows = [r for r in results if r.get("measured_mib")]
    errors = [r["predicted_mib"] / r["measured_mib"] - 1 for r in rows]
    lines = [
        "| model | base | checkpointing | pairs | row | predicted GiB | measured GiB | error |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for result, error in zip(rows, errors, strict=True):
        job = result["combination"]
        lines.append(
            f"| {job['shape']} | {'4 bit' if job['nf4'] else 'bf16'} | "
            f"{'on' if job['checkpointing'] else 'off'} | {job['pairs']} | {job['row']} | "
            f"{result['predicted_mib'] / MIB_PER_GIB:.2f} | "
            f"{result['measured_mib'] / MIB_PER_GIB:.2f} | {error:+.1%} |"
        )
    if errors:
        sizes = sorted(map(abs, errors))
        lines += [
            "",
            f"{len(errors)} combinations: median error {statistics.median(sizes):.1%}, "
            f"largest {sizes[-1]:.1%}, lowest {min(errors):+.1%}.",
        ]
    lines += ["", *format_caps(results)]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def format_caps(results: list[dict]) -> list[str]:
    """A table of the runs under memory caps."""
    caps = [r for r in results if r["combination"].get("cap_gib")]
    if not caps:
        return []
    lines = [
        "| cap GiB | pairs | setting taken | reserved GiB | step, predicted | step, measured |",
        "|---|---|---|---|---|---|",
    ]
    for result in caps:
        job = result["combination"]
        if "error" in result:
            last = result["error"].splitlines()[-1][:80]
            lines.append(f"| {job['cap_gib']} | {job['workload']} | {last} | | | |")
            continue
        lines.append(
            f"| {job['cap_gib']} | {job['workload']} | {result['setting']} | "
            f"{result.get('peak_reserved_mib', 0) / MIB_PER_GIB:.2f} | "
            f"{result['predicted_step_ms']:.0f} ms | {result['step_ms']:.0f} ms |"
        )
    return lines
