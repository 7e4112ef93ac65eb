"""How far back towards the base? What a run says, and what it forgot, by `adapter_scale`.

    python 03_scripts/measure_scale.py --run 04_models/adapters/quickstart
    python 03_scripts/measure_scale.py --run RUN --scales 1 0.8 0.6 0.4 --limit 100

Scales the trained adapter in memory, asks the run's test questions at each scale and prints a JSON
line for it, then a table. Nothing is written; the scale you like becomes `adapter_scale` of the
next training. Trade-off: Wortsman et al. 2022 (arXiv 2109.01903).
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "02_src"))

from config import load_run_config, resolve_path
from errors import UserError, run_main
from evaluation.question_sets import check_limit
from evaluation.verdict import percent
from recipes.goals import GOALS, MORE, read_values

SCALES = (1.0, 0.8, 0.6, 0.4)
RATIO = "perplexity_ratio"  # the one figure that is no share


def parse_arguments() -> argparse.Namespace:
    """The command line, checked."""
    parser = argparse.ArgumentParser(description="Grounding and forgetting by adapter_scale.")
    parser.add_argument("--run", required=True, help="folder of a finished run")
    parser.add_argument("--scales", nargs="+", type=float, default=SCALES)
    parser.add_argument("--splits", help="test files, separated by commas; all without it")
    parser.add_argument("--limit", type=int, help="items per split; default: eval_limit")
    arguments = parser.parse_args()
    for scale in arguments.scales:
        if not 0 < scale <= 1:
            raise UserError(f"--scales {scale:g}: must be above 0 and at most 1")
    check_limit(arguments.limit)
    return arguments


def measure_scales(arguments: argparse.Namespace) -> Iterator[dict]:
    """{"adapter_scale": ..., headline figures} at each scale.

    Raises:
        UserError: the run is not finished, or a test file is missing.
    """
    from checkpoints import check_adapter_files
    from evaluation.figures import summarize_set
    from evaluation.measure import measure_set
    from evaluation.question_sets import load_question_sets, read_glossary
    from evaluation.subjects import Models
    from hardware import find_device
    from trainable_weights import scale_adapter

    run = resolve_path(arguments.run)
    config = load_run_config(run)
    names = arguments.splits.split(",") if arguments.splits else None
    sets = load_question_sets(config, arguments.limit, names)
    check_adapter_files(run)
    adapter, glossary = Models(run, config, find_device(config)).load("adapter"), read_glossary()
    base = dataclasses.replace(adapter, name="base", adapter_off=True)
    before = {s.name: measure_set(base, s, glossary, ask=False) for s in sets}
    now = config.adapter_scale
    for scale in arguments.scales:
        scale_adapter(adapter.model, scale / now)
        now = scale
        found = {s.name: measure_set(adapter, s, glossary) for s in sets}
        figures = {
            name: summarize_set(records, before[name], found.get("seen", ()), config.dpo_beta)
            for name, records in found.items()
        }
        yield {"adapter_scale": scale, **read_values(figures)}


def make_table(results: Sequence[dict]) -> str:
    """Figures by scale, as Markdown; what was not measured is left out."""
    goals = [g for g in GOALS + MORE if any(r[g.key] is not None for r in results)]
    lines = [["figure", *(f"{r['adapter_scale']:g}" for r in results)]]
    lines.append(["---"] * len(lines[0]))
    lines += [[g.title, *(describe(g.key, r[g.key]) for r in results)] for g in goals]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def describe(key: str, value: float) -> str:
    """A share in percent, a ratio as it is."""
    return f"{value:.2f}" if key == RATIO else percent(value)


def main() -> int:
    """Measure each scale, then the table."""
    results = []
    for result in measure_scales(parse_arguments()):
        print(json.dumps(result), flush=True)
        results.append(result)
    print(f"\n{make_table(results)}")
    return 0


if __name__ == "__main__":
    run_main(main)
