"""The stages of quickstart.py after setup: the command of each, and what shows that it is done.

    STAGES["train"].find_done(read_places("00_configs/quickstart.json"))    # None: it has to run

Standard library only. Each stage is a command that works on its own too.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bootstrap import REPOSITORY
from find_python import SetupError

DEFAULT_CONFIG = "00_configs/quickstart.json"
EMBEDDED_PREFIX = "embedded:"


@dataclass(frozen=True)
class Places:
    """Where the run of a config lies, and with which base model."""

    config: str
    values: dict  # the config file's own keys
    model_name: str
    run: Path
    merged: Path
    logs: Path


@dataclass(frozen=True)
class Stage:
    """One step after setup: a command, and what shows that it is done."""

    purpose: str
    duration: str
    find_done: Callable[[Places], str | None]  # where its result lies; None: it has to run
    build_command: Callable[[Places], list[str]]


def read_places(config: str | None) -> Places:
    """Read from a config file where its run lies; the stages check the rest of it.

    Raises:
        SetupError: there is no such file, or it holds no JSON object.
    """
    config = config or DEFAULT_CONFIG
    file = Path(config).expanduser()
    file = file.resolve() if file.is_file() else REPOSITORY / file
    try:
        values = json.loads(file.read_text(encoding="utf-8-sig"))
    except OSError:
        raise SetupError(f"--config {config}: no such file; see 00_configs/") from None
    except ValueError as error:
        raise SetupError(f"--config {config}: not valid JSON: {error}") from None
    if not isinstance(values, dict):
        raise SetupError(f"--config {config}: must hold one JSON object {{...}}")
    run = resolve_path(values.get("output_dir", "04_models/adapters/output_dpo"))
    return Places(
        config=show_path(file),
        values=values,
        model_name=str(values.get("model_name", "")),
        run=run,
        merged=resolve_path(values.get("merged_dir", "04_models/merged")) / run.name,
        logs=resolve_path(values.get("logging_dir", "05_logs")) / run.name,
    )


def resolve_path(path: str) -> Path:
    """A config's path as an absolute one, as 02_src/config.py reads it."""
    return REPOSITORY / Path(str(path)).expanduser()


def show_path(path: Path) -> str:
    """A path relative to the repository where it lies inside."""
    return path.relative_to(REPOSITORY).as_posix() if path.is_relative_to(REPOSITORY) else str(path)


def find_model(places: Places) -> str | None:
    """The converted embedded model; other models are loaded by the train stage."""
    if not places.model_name.startswith(EMBEDDED_PREFIX):
        return f"the train stage loads {places.model_name}"
    folder = REPOSITORY / "04_models/base" / places.model_name.removeprefix(EMBEDDED_PREFIX)
    return show_path(folder) if (folder / "model.safetensors").is_file() else None


def find_run(places: Places) -> str | None:
    """The run, once it has the summary that training writes last."""
    if not (places.run / "training_summary.json").is_file():
        return None
    changed = ", ".join(list_changed_keys(places))
    note = f" (trained with another {changed}; --overwrite trains anew)" if changed else ""
    return show_path(places.run) + note


def list_changed_keys(places: Places) -> list[str]:
    """Keys of the config file that differ from what the finished run was trained with."""
    used = json.loads((places.run / "run_config.json").read_text(encoding="utf-8"))
    given = {key: value for key, value in places.values.items() if key != "$schema"}
    return [key for key, value in given.items() if used.get(key) != value]


def find_evaluation(places: Places) -> str | None:
    """The report on base and adapter, made after training."""
    trained = places.run / "training_summary.json"
    return find_report(places.run / "evaluation.json", trained, {"base", "adapter"})


def find_merged(places: Places) -> str | None:
    """The merged model, if it was made from the adapter that is there: merge_lora.py's own test."""
    report, adapter = places.merged / "merge_report.json", places.run / "adapter_model.safetensors"
    if not (report.is_file() and adapter.is_file()):
        return None
    with adapter.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    merged = json.loads(report.read_text(encoding="utf-8")).get("adapter_sha256")
    return show_path(places.merged) if merged == digest else None


def find_answers(places: Places) -> str | None:
    """The report on the merged model, made after merging."""
    merged = places.merged / "merge_report.json"
    return find_report(places.merged / "evaluation.json", merged, {"merged"})


def find_report(report: Path, source: Path, models: set[str]) -> str | None:
    """The report, if it is newer than what it reports on and has all `models`."""
    if not is_newer(report, source):
        return None
    done = json.loads(report.read_text(encoding="utf-8"))["models"]
    return show_path(report) if models <= set(done) else None


def is_newer(file: Path, source: Path) -> bool:
    """Whether both exist and `file` was not written before `source`."""
    both = file.is_file() and source.is_file()
    return both and file.stat().st_mtime >= source.stat().st_mtime


def build_model_command(places: Places) -> list[str]:
    """Fetch and convert the embedded model."""
    name = places.model_name.removeprefix(EMBEDDED_PREFIX)
    return ["03_scripts/fetch_embedded_model.py", "--name", name]


def build_train_command(places: Places) -> list[str]:
    """Train, or go on where an earlier run stopped."""
    resume = ["--resume"] if any(places.run.glob("checkpoint-*")) else []
    return ["02_src/train_dpo.py", "--config", places.config, *resume]


def build_run_command(script: str, *options: str) -> Callable[[Places], list[str]]:
    """A stage's command that takes the run's folder."""
    return lambda places: [script, "--run", show_path(places.run), *options]


STAGES = {
    "model": Stage(
        "fetch the base model and convert it",
        "half a minute",
        find_model,
        build_model_command,
    ),
    "train": Stage(
        "train a DPO + QLoRA adapter",
        "4 to 9 minutes on a CPU, a minute on a GPU",
        find_run,
        build_train_command,
    ),
    "evaluate": Stage(
        "put held-out questions to base and adapter",
        "1 to 3 minutes on a CPU",
        find_evaluation,
        build_run_command("02_src/evaluate_dpo.py"),
    ),
    "merge": Stage(
        "merge the adapter into a model of its own",
        "half a minute",
        find_merged,
        build_run_command("02_src/merge_lora.py"),
    ),
    "ask": Stage(
        "put the same questions to the merged model",
        "1 to 2 minutes on a CPU",
        find_answers,
        build_run_command("02_src/evaluate_dpo.py", "--models", "merged"),
    ),
}
