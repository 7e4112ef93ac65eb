"""What is kept of a run for good: its figures, its outcomes item by item, its training log.

    <out>/<recipe>/seed_<n>/     run.json  evaluation.json  outcomes.json  metrics.jsonl
    <out>/<control>/untrained/   run.json  evaluation.json  outcomes.json
An outcome is three signs: grounded, confused, abstained or invented by its first letter (- where
nothing was asked); ! for a strict answer; + or - for a right or wrong forced choice; else a dot.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from base_models import resolve_model
from config import Config, resolve_path, show_path, write_text
from errors import UserError
from evaluation.figures import keep_first
from evaluation.report import read_evaluation
from recipes.goals import count_reached, read_values
from recipes.plan import UNTRAINED, Study, StudyRun, make_run

RUN_FILE, FIGURES_FILE, OUTCOMES_FILE = "run.json", "evaluation.json", "outcomes.json"
METRICS_FILE = "metrics.jsonl"
MACHINE_KEYS = (  # say where a run was made and what was written down, not what it learned
    "model_name", "output_dir", "merged_dir", "logging_dir", "gpu", "num_proc",
    "dataloader_num_workers", "generation_batch_size", "per_device_eval_batch_size",
    "logging_steps", "save_steps", "save_total_limit",
)  # fmt: skip
MODEL = "base model"
LIBRARIES = ("torch", "transformers", "trl", "peft", "bitsandbytes")
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
    """Whether a result of exactly these settings and today's files is there.

    What a hub data set holds is not looked at.
    """
    file = find_place(out, run.recipe, run.seed) / RUN_FILE
    if not file.is_file():
        return False
    about = read_json(file)
    return not (list_differences(about["settings"], run.config) or list_changed(about["data"]))


def are_controls_kept(out: Path) -> bool:
    """Whether the untrained controls were measured on today's test files."""
    files = [find_place(out, name, None) / RUN_FILE for name in UNTRAINED]
    return all(file.is_file() and not list_changed(read_json(file)["data"]) for file in files)


def list_differences(settings: dict, config: Config) -> list[str]:
    """What a kept run's settings say other than `config`; keys newer than the run had defaults."""
    defaults = Config().model_dump()
    return [
        f"{key} is {json.dumps(settings.get(key, defaults[key]))}, not {json.dumps(value)}"
        for key, value in describe_settings(config).items()
        if settings.get(key, defaults[key]) != value
    ]


def read_json(file: Path) -> dict:
    """A JSON file."""
    return json.loads(file.read_text(encoding="utf-8"))


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
        splits = figures["splits"]
        values = read_values(splits)
        line = {"recipe": name, "seed": seed, **values, "goals_reached": count_reached(splits)}
        facts = {"device": report["device"]} | ({} if untrained else about)
        origin = describe_origin(run.config, not untrained)
        write_json(place / RUN_FILE, {**facts, **origin, "settings": describe_settings(run.config)})
        lines.append({**line, **facts})
    return lines


def describe_origin(config: Config, trained: bool) -> dict:
    """When, with which versions, on which data (sha256 of each file)."""
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "versions": [f"{name} {version(name)}" for name in LIBRARIES],
        "model": describe_model(config),
        "data": (hash_training_data(config) if trained else {})
        | hash_files(config.test_files.values()),
    }


def hash_training_data(config: Config) -> dict[str, str]:
    """sha256 of the files a run learns from and chooses by."""
    return hash_files([config.dataset_hf, config.validation_file, config.rehearsal_file])


def hash_files(names: Iterable[str | None]) -> dict[str, str]:
    """sha256 by name, of the files there are."""
    return {name: digest for name in names if name and (digest := hash_file(name))}


def describe_model(config: Config) -> str:
    """sha256 of the base's weights, the same wherever they lie; a hub id as it is."""
    digest, found = hashlib.sha256(), False
    for file in sorted(Path(resolve_model(config).location).glob("*.safetensors")):
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
        found = True
    return digest.hexdigest() if found else config.model_name


def hash_file(name: str) -> str | None:
    """sha256 of a data file; None where there is none (a hub data set)."""
    file = resolve_path(name)
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else None


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
    names = (RUN_FILE, FIGURES_FILE, OUTCOMES_FILE)
    about, figures, outcomes = (read_json(place / name) for name in names)
    seed = None if place.name == "untrained" else int(place.name.removeprefix("seed_"))
    return Kept(place.parent.name, seed, about, figures["splits"], outcomes)


def check_kept(kept: Sequence[Kept], study: Study) -> list[str]:
    """Refuse results of other settings, mixed data or models; returns files changed since.

    Raises:
        UserError: a result is not of this study's recipes, or two were made with other inputs.
    """
    data: dict[str, str] = {}
    for run in kept:
        place = f"results/{run.recipe}" + ("" if run.seed is None else f"/seed_{run.seed}")
        if run.seed is not None and (run.recipe, run.seed) not in list_names(study):
            raise UserError(f"{place}: no such recipe and seed in this study; delete the folder")
        if run.seed is not None:
            config = make_run(study, run.recipe, run.seed, {}).config
            for difference in list_differences(run.about["settings"], config):
                raise UserError(f"{place}: {difference} as in the recipe; run study.py again")
        for name, digest in {**run.about["data"], MODEL: run.about["model"]}.items():
            if data.setdefault(name, digest) != digest:
                again = "delete one of them" if name == MODEL else "run study.py again"
                raise UserError(
                    f"{place}: made with another {name} than the results before it; {again}"
                )
    data.pop(MODEL, None)
    return list_changed(data)


def list_changed(data: dict[str, str]) -> list[str]:
    """Names of the files whose sha256 is no longer what `data` says."""
    return [name for name, digest in data.items() if hash_file(name) != digest]


def list_names(study: Study) -> set[tuple[str, int]]:
    """(recipe, seed) of every run of a study."""
    return {(name, seed) for name in study.recipes for seed in study.seeds}
