"""Run folders: what is in one, what may be written over, where to go on."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from config import Config, load_run_config, log_folder, resolve_path, show_path
from errors import UserError

# PEFT reads these as weights where it finds them; a pickle could run code when loaded.
PICKLES = ("adapter_model.bin", "pytorch_model.bin")
SUMMARY_FILE = "training_summary.json"  # written last: a run that has it is complete


@dataclass(frozen=True)
class Run:
    """A finished or stopped run."""

    folder: Path
    log_folder: Path
    finished: bool
    steps: int
    seconds: float  # of the training loop
    train_loss: float | None = None


def read_finished_run(config: Config) -> Run | None:
    """The config's run when it is complete, else None."""
    folder = resolve_path(config.output_dir)
    file = folder / SUMMARY_FILE
    if not file.is_file():
        return None
    return Run(folder, log_folder(config), True, **json.loads(file.read_text(encoding="utf-8")))


def find_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint in a run folder; None (with a line) when it has none yet."""
    found = [path for path in folder.glob("checkpoint-*") if path.name[11:].isdigit()]
    complete = [path for path in found if (path / "trainer_state.json").is_file()]
    if not complete:
        print(f"no checkpoint in {show_path(folder)} yet: starting from the beginning")
        return None
    newest = max(complete, key=lambda path: int(path.name[11:]))
    print(f"resuming from {show_path(newest)}")
    return newest


def check_output(config: Config, resume: bool) -> None:
    """Refuse to write over a run.

    Raises:
        UserError: the output folder holds a finished run, or an unfinished one and not `resume`.
    """
    folder = resolve_path(config.output_dir)
    if (folder / SUMMARY_FILE).is_file():
        raise UserError(
            f"output_dir: {show_path(folder)} holds a finished run; choose another output_dir, or "
            "--overwrite to train again"
        )
    if not resume and any(folder.glob("checkpoint-*")):
        raise UserError(
            f"output_dir: {show_path(folder)} holds an unfinished run; go on with --resume, or "
            "--overwrite to start again"
        )


def clear_output(config: Config) -> None:
    """Delete a run's adapter, checkpoints and logs, so that it can start again."""
    for old in (resolve_path(config.output_dir), log_folder(config)):
        shutil.rmtree(old, ignore_errors=True)


def list_changed_keys(config: Config) -> list[str]:
    """Keys that differ from the config the unfinished run was started with."""
    folder = resolve_path(config.output_dir)
    if not any(folder.glob("checkpoint-*")):
        return []
    before = load_run_config(folder).model_dump()
    return [name for name, value in config.model_dump().items() if before[name] != value]


def check_adapter_files(folder: Path) -> None:
    """UserError unless `folder` holds a safetensors adapter and no pickled weights."""
    for name in PICKLES:
        if (folder / name).exists():
            raise UserError(
                f"{show_path(folder / name)}: pickled weights can run code and are never loaded; "
                "delete the file or save the adapter as safetensors"
            )
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        if not (folder / name).is_file():
            raise UserError(
                f"{show_path(folder)}: holds no {name}; the run is not finished, go on with: "
                "python 02_src/train_dpo.py --config CONFIG --resume"
            )
