"""What a sweep leaves in its log folder: sweep.md, sweep.png and best.json, after every trial."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial, TrialState

from config import SCHEMA_FILE, read_json_object, resolve_path, show_path, write_text
from evaluation.verdict import percent
from recipes.search_space import make_overrides
from recipes.trials import Sweep, list_ended
from safe_files import replacing

TABLE_FILE, PLOT_FILE, BEST_FILE = "sweep.md", "sweep.png", "best.json"


def write_reports(sweep: Sweep, study: optuna.Study) -> FrozenTrial | None:
    """Write all three files; the best trial, or None while none is finished."""
    trials = study.get_trials(deepcopy=False)
    write_text(sweep.folder / TABLE_FILE, make_table(sweep, trials))
    done = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    if not done:
        return None
    draw_plot(sweep, done)
    best = max(done, key=lambda trial: trial.value)
    write_best(sweep, best)
    return best


def make_table(sweep: Sweep, trials: Sequence[FrozenTrial]) -> str:
    """Trials as Markdown, the best first."""
    names = list(sweep.space)
    ended = list_ended(trials)
    order = sorted(ended, key=lambda t: -t.value if t.state == TrialState.COMPLETE else 1)
    heads = ["trial", *names, "validation grounding (95 %)", "perplexity ratio", "seconds"]
    rows = [[str(t.number), *(show(t.params.get(n)) for n in names), *describe(t)] for t in order]
    lines = [heads, ["---"] * len(heads), *rows]
    title = f"# Sweep {sweep.name}: {len(ended)} trials over {show_path(sweep.config_file)}\n\n"
    return title + "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def show(value: object) -> str:
    """A parameter's value, short."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def describe(trial: FrozenTrial) -> list[str]:
    """The three last cells of a trial's row."""
    if trial.state == TrialState.PRUNED:
        step = trial.last_step
        return [f"pruned at step {step}, {percent(trial.intermediate_values[step])}", "-", "-"]
    if trial.state != TrialState.COMPLETE:
        return ["failed", "-", "-"]
    found = trial.user_attrs
    interval = f"{percent(found['low'])} to {percent(found['high'])}, n {found['n']}"
    ratio, seconds = f"{found['perplexity_ratio']:.3f}", f"{found['seconds']:.0f}"
    return [f"{percent(found['grounding'])} ({interval})", ratio, seconds]


def draw_plot(sweep: Sweep, done: Sequence[FrozenTrial]) -> Path:
    """Validation grounding against each parameter; the colour is the drift."""
    from matplotlib.figure import Figure

    names = list(sweep.space)
    figure = Figure(figsize=(3.2 * len(names) + 1, 3.4), layout="constrained")
    panels = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    grounding = [trial.user_attrs["grounding"] for trial in done]
    drift = [trial.user_attrs["perplexity_ratio"] for trial in done]
    for axes, name in zip(panels, names, strict=True):
        values = [trial.params[name] for trial in done]
        if sweep.space[name].choices:
            values = [str(value) for value in values]
        elif sweep.space[name].log:
            axes.set_xscale("log")
        points = axes.scatter(values, grounding, c=drift, cmap="viridis", edgecolors="black")
        axes.set_xlabel(name)
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("validation grounding")
    figure.colorbar(points, ax=list(panels), label="perplexity ratio")
    with replacing(sweep.folder / PLOT_FILE) as scratch:
        figure.savefig(scratch, dpi=110, format="png")
    return sweep.folder / PLOT_FILE


def write_best(sweep: Sweep, best: FrozenTrial) -> Path:
    """The config file of the sweep with the best trial's values, ready for train_dpo.py."""
    source = Path(sweep.config_file)
    values = read_json_object(source if source.is_file() else resolve_path(source))
    values |= {**sweep.given, **make_overrides(best.params, sweep.base)}
    runs = Path(sweep.base.output_dir).parent
    values |= {"output_dir": (runs / f"{sweep.name}_best").as_posix()}
    if sweep.folder.drive == SCHEMA_FILE.drive:
        values["$schema"] = Path(os.path.relpath(SCHEMA_FILE, sweep.folder)).as_posix()
    file = sweep.folder / BEST_FILE
    write_text(file, json.dumps(values, indent=2) + "\n")
    return file
