"""What is kept of a run for good: its figures, its outcomes item by item, its training log.

    <out>/<recipe>/seed_<n>/     run.json  evaluation.json  outcomes.json  metrics.jsonl
    <out>/<control>/untrained/   run.json  evaluation.json  outcomes.json
An outcome is three signs: grounded, confused, abstained or invented by its first letter (- where
nothing was asked); ! for a strict answer; + or - for a right or wrong forced choice; else a dot.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from config import Config, show_path, write_text
from errors import UserError
from evaluation.figures import keep_first
from evaluation.report import read_evaluation
from recipes.goals import count_reached, read_values
from recipes.plan import UNTRAINED, StudyRun

RUN_FILE, FIGURES_FILE, OUTCOMES_FILE = "run.json", "evaluation.json", "outcomes.json"
METRICS_FILE = "metrics.jsonl"
MACHINE_KEYS = (  # say where a run was made, not what it was
    "model_name", "output_dir", "merged_dir", "logging_dir", "gpu", "num_proc",
    "dataloader_num_workers", "generation_batch_size", "per_device_eval_batch_size",
)  # fmt: skip
Outcomes = dict[str, dict[str, str]]  # split -> {"DP.1a2b3c": "g!+"}


@dataclass(frozen=True)
class Kept:
    """One kept run."""

    recipe: str
    seed: int | None  # None: an untrained control
    about: dict  # run.json
    splits: dict  # figures of every split
    outcomes: Outcomes


def describe_settings(config: Config) -> dict:
    """The config's keys that decide what a run learns."""
    return {k: v for k, v in config.model_dump().items() if k not in MACHINE_KEYS}


def find_place(out: Path, recipe: str, seed: int | None) -> Path:
    """Where a run is kept."""
    return out / recipe / ("untrained" if seed is None else f"seed_{seed}")


def is_kept(out: Path, run: StudyRun) -> bool:
    """Whether a result of exactly these settings is there."""
    file = find_place(out, run.recipe, run.seed) / RUN_FILE
    if not file.is_file():
        return False
    return json.loads(file.read_text(encoding="utf-8"))["settings"] == describe_settings(run.config)


def keep_run(out: Path, run: StudyRun, folder: Path, metrics: Path, about: dict) -> list[dict]:
    """Keep every model of an evaluated run; returns one headline a model.

    Args:
        folder: the run folder, evaluated.
        metrics: its metrics.jsonl.
        about: seconds and the like, for run.json.
    """
    report, records = read_evaluation(folder)
    lines = []
    for model, figures in report["models"].items():
        untrained = model in UNTRAINED
        name, seed = (model, None) if untrained else (run.recipe, run.seed)
        place = find_place(out, name, seed)
        mine = [record for record in records if record["model"] == model]
        write_json(place / FIGURES_FILE, strip_groups(figures))
        write_json(place / OUTCOMES_FILE, code_outcomes(mine))
        if not untrained:
            write_text(place / METRICS_FILE, metrics.read_text(encoding="utf-8"))
        values = read_values(figures["splits"])
        line = {"recipe": name, "seed": seed, **values, "goals_reached": count_reached(values)}
        facts = {"device": report["device"]} | ({} if untrained else about)
        write_json(place / RUN_FILE, {**facts, "settings": describe_settings(run.config)})
        lines.append({**line, **facts})
    return lines


def write_json(file: Path, value: dict) -> None:
    """A small JSON file."""
    write_text(file, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def strip_groups(figures: dict) -> dict:
    """Figures without those by category, kind and phrasing."""
    splits = figures["splits"].items()
    return {"splits": {s: {k: v for k, v in f.items() if k != "groups"} for s, f in splits}}


def code_outcomes(records: Sequence[dict]) -> Outcomes:
    """Outcomes of one item per abbreviation and sense, per split."""
    found: Outcomes = {}
    for split in dict.fromkeys(record["split"] for record in records):
        first = keep_first([record for record in records if record["split"] == split])
        found[split] = {f"{r['abbreviation']}.{r['item'][:6]}": code_outcome(r) for r in first}
    return {split: items for split, items in found.items() if items}


def code_outcome(record: dict) -> str:
    """ "g!+": grounded, strict, chose right."""
    outcome = (record.get("outcome") or "-")[0]
    strict = "!" if record.get("strict") else "."
    if "choice_margin" not in record:
        return f"{outcome}{strict}."
    return f"{outcome}{strict}{'+' if record['choice_margin'] > 0 else '-'}"


def read_kept(out: Path) -> list[Kept]:
    """Everything kept under `out`, in order of name and seed.

    Raises:
        UserError: there is nothing.
    """
    found = [read_one(file.parent) for file in sorted(out.glob(f"*/*/{RUN_FILE}"))]
    if not found:
        raise UserError(f"{show_path(out)}: holds no result; make some: python 03_scripts/study.py")
    return found


def read_one(place: Path) -> Kept:
    """One kept run."""
    about, figures, outcomes = (
        json.loads((place / name).read_text(encoding="utf-8"))
        for name in (RUN_FILE, FIGURES_FILE, OUTCOMES_FILE)
    )
    seed = None if place.name == "untrained" else int(place.name.removeprefix("seed_"))
    return Kept(place.parent.name, seed, about, figures["splits"], outcomes)
