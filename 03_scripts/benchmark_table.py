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


def make_growth_table(results: list[dict], workloads: list[str], titles: dict[str, str]) -> str:
    """Markdown: a row for each workload; pairs/s, thousand tokens/s and share of the peak."""
    variants = [name for name in titles if any(r["variant"] == name for r in results)]
    lines = [
        "| pairs/s, k tokens/s, share of the bf16 matmul peak | "
        + " | ".join(titles[name] for name in variants)
        + " |",
        "|---" * (len(variants) + 1) + "|",
    ]
    for workload in workloads:
        cells = []
        for variant in variants:
            rate, tokens, share = (
                find_median(results, workload, variant, key)
                for key in ("pairs_per_s", "tokens_per_s", "share_of_peak")
            )
            cells.append(f"{rate:.4g}, {tokens / 1000:.3g}, {share:.1%}" if rate else "")
        lines.append(f"| {workload} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def find_median(results: list[dict], workload: str, variant: str, key: str) -> float:
    """Median of a figure over repeats; 0 where nothing was measured."""
    values = [r[key] for r in results if names(r) == (workload, variant)]
    return statistics.median(values) if values else 0.0
