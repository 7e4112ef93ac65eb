"""Draw the README's pictures from a finished, evaluated run and a kept benchmark.

    python 03_scripts/draw_pictures.py --run 04_models/adapters/quickstart

Writes training.png, answers.png, memory.png (the config's plan on this machine) and speed.png to
.github/pictures, which also holds the benchmark's figures. All read on light and on dark pages.
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "02_src"))

from benchmark_measure import VARIANTS
from benchmark_plots import plot_workloads

from config import REPOSITORY, Config, load_run_config, log_folder, resolve_path, show_path
from errors import run_main
from evaluation.report import read_evaluation
from live_view import INK, draw_live, render, tone
from notebook_figures import view_outcomes
from run_log import read_metrics

PICTURES = REPOSITORY / ".github" / "pictures"
BENCHMARK = PICTURES / "benchmark_h100.jsonl"


def draw_memory(config: Config) -> bytes:
    """The memory plan of a config as one bar, what is left aside; a PNG."""
    from matplotlib.figure import Figure

    from hardware import GIB, find_device
    from memory.table import COLOURS, list_parts
    from preferences import load_preferences
    from train_dpo import plan_run

    device = find_device(config)
    plan = plan_run(config, device, load_preferences(config))[0].plan
    figure = Figure(figsize=(10, 2.2), layout="constrained")
    axes, start = figure.subplots(), 0.0
    parts = [(name, size / GIB) for name, size in list_parts(plan) if name != "left"]
    for (name, size), colour in zip(parts, COLOURS, strict=False):
        axes.barh(0, size, left=start, color=colour, label=f"{name} {size:.2f}")
        start += size
    axes.set(xlim=(0, start), yticks=[], xlabel=f"GiB at the peak of training, {device.name}")
    tone(axes)
    axes.get_legend().remove()
    figure.legend(loc="outside upper center", ncols=5, fontsize=8, framealpha=0, labelcolor=INK)
    return render(figure)


def main() -> int:
    """Draw all of them."""
    parser = argparse.ArgumentParser(description="Draw the README's pictures.")
    parser.add_argument("--run", required=True, help="run folder with evaluation.json")
    run = resolve_path(parser.parse_args().run)
    config = load_run_config(run)
    records = read_metrics(log_folder(config))
    report, _ = read_evaluation(run)
    drawn = {
        "training.png": draw_live(records, f"{run.name}, {records[-1]['step']} steps"),
        "answers.png": view_outcomes(report).data,
        "memory.png": draw_memory(config),
    }
    for name, data in drawn.items():
        (PICTURES / name).write_bytes(data)
    results = [json.loads(line) for line in BENCHMARK.read_text("utf-8").splitlines()]
    measured = {result["variant"] for result in results}
    titles = {name: title for name, (title, _, _) in VARIANTS.items() if name in measured}
    workloads = list(dict.fromkeys(result["workload"] for result in results))
    plot_workloads(results, workloads, titles, PICTURES / "speed.png")
    print(f"drawn in {show_path(PICTURES)}")
    return 0


if __name__ == "__main__":
    run_main(main)
