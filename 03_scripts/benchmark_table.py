"""The Markdown table of benchmark.py."""

import statistics


def make_table(results: list[dict], workloads: list[str], titles: dict[str, str]) -> str:
    """Markdown: a row for each variant; pairs/s, peak GiB and seconds to the first step."""
    workloads = [name for name in workloads if any(r["workload"] == name for r in results)]
    lines = [
        "| pairs/s, peak GiB allocated / reserved, s to first step | "
        + " | ".join(workloads)
        + " |",
        "|---" * (len(workloads) + 1) + "|",
    ]
    for variant, title in titles.items():
        cells = [make_cell([r for r in results if names(r) == (w, variant)]) for w in workloads]
        if any(cells):
            lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def names(result: dict) -> tuple[str, str]:
    """(workload, variant) of a result."""
    return result["workload"], result["variant"]


def make_cell(runs: list[dict]) -> str:
    """Medians over repeats."""
    if not runs:
        return ""
    middle = {
        key: statistics.median(run.get(key, 0) for run in runs)
        for key in ("pairs_per_s", "peak_gib", "reserved_gib", "first_step_s")
    }
    return "{pairs_per_s:.4g}, {peak_gib:.2f} / {reserved_gib:.2f}, {first_step_s:.1f}".format(
        **middle
    )
