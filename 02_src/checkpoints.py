"""Run folders: what is in one, what may be written over, where to go on, what is not touched."""

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import processes
from config import Config, load_run_config, log_folder, resolve_path, show_path
from errors import UserError
from safe_files import MANIFEST_FILE, find_damage

# Formats that can run code when they are loaded. A checkpoint may hold the four tensor files
# below, which are read with weights_only; anything else of the kind is refused by its name.
CODE_SUFFIXES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".dill", ".npy")
CODE_SUFFIXES += (".npz", ".h5", ".keras", ".msgpack", ".py", ".so", ".dll")
STATE_FILE = re.compile(r"(optimizer\.pt|scheduler\.pt|scaler\.pt|rng_state(_\d+)?\.pth)")
REMOVED = ".removed-"  # a checkpoint on its way out: none is ever half there under its own name
NUMBERED = re.compile(r"checkpoint-(\d+)")
SUMMARY_FILE = "training_summary.json"  # written last: a run that has it is complete
ADAPTER_FILES = ("adapter_model.safetensors", "adapter_config.json")
LARGEST_HEADER = 100_000_000  # bytes; safetensors' own limit


@dataclass(frozen=True)
class Run:
    """A finished or stopped run."""

    folder: Path
    log_folder: Path
    finished: bool
    steps: int
    seconds: float  # of the training loop
    train_loss: float | None = None
    resumed_at: int = 0  # the step at which the loop that took `seconds` began


def read_finished_run(config: Config) -> Run | None:
    """The config's run when it is complete, else None."""
    folder = resolve_path(config.output_dir)
    file = folder / SUMMARY_FILE
    if not file.is_file():
        return None
    try:
        summary = json.loads(file.read_text(encoding="utf-8"))
        return Run(folder, log_folder(config), True, **summary)
    except (ValueError, TypeError):
        raise UserError(f"{show_path(file)}: damaged; train again with --overwrite") from None


def list_checkpoints(folder: Path) -> list[Path]:
    """checkpoint-N folders, oldest first."""
    found = [path for path in folder.glob("checkpoint-*") if NUMBERED.fullmatch(path.name)]
    return sorted(found, key=read_step)


def read_step(checkpoint: Path | None) -> int:
    """The step after which a checkpoint was written, from its name; 0 without one."""
    return int(checkpoint.name.partition("-")[2]) if checkpoint else 0


def find_start(config: Config) -> Path | None:
    """The checkpoint to go on from; says which keys differ from those the run began with."""
    with processes.main_first():
        checkpoint = find_checkpoint(resolve_path(config.output_dir))
    if changed := list_changed_keys(config):
        print(f"note: changed since this run began: {', '.join(changed)}")
    return checkpoint


def find_checkpoint(folder: Path) -> Path | None:
    """The newest sound checkpoint in a run folder; None (with a line) when it has none yet.

    A damaged one is named, set aside under another name, and the one before it is taken.

    Raises:
        UserError: the checkpoint holds a file that could run code.
    """
    for path in reversed(list_checkpoints(folder)):
        refuse_code_files(path)
        damage = find_damage(path)
        if damage is None:
            check_state_files(path)
            print(f"resuming from {show_path(path)}")
            return path
        aside = path.with_name(f"damaged-{path.name}")
        shutil.rmtree(aside, ignore_errors=True)
        path.rename(aside)
        print(f"warning: {show_path(path)} is damaged: {damage}; set aside as {aside.name}")
    print(f"no sound checkpoint in {show_path(folder)}: starting from the beginning")
    return None


def refuse_code_files(folder: Path) -> None:
    """UserError when a checkpoint or adapter folder holds a file that can run code when loaded."""
    for path in sorted(folder.rglob("*")):
        known = path.parent == folder and STATE_FILE.fullmatch(path.name)
        if path.name.lower().endswith(CODE_SUFFIXES) and not known:
            raise UserError(
                f"{show_path(path)}: a file of this kind can run code and is never loaded; nothing "
                "of ours writes it: delete it if you know where it comes from"
            )


def check_state_files(folder: Path) -> None:
    """Read optimizer, scheduler and random state as tensors only; UserError where they are more.

    Raises:
        UserError: a file asks for something else to be built, which would run code.
    """
    import torch
    from transformers.trainer_pt_utils import safe_globals

    for path in sorted(folder.iterdir()):
        if not STATE_FILE.fullmatch(path.name):
            continue
        try:
            with safe_globals():
                torch.load(path, map_location="meta", weights_only=True, mmap=False)
        except Exception as error:  # any failure means: not what Trainer writes
            reason = " ".join(str(error).split())[:80]
            raise UserError(
                f"{show_path(path)}: holds more than tensors and numbers, and is not loaded "
                f"({reason}); delete {show_path(folder)} to go on from the checkpoint before it"
            ) from None


def prune_checkpoints(folder: Path, keep: int, best: Path | None = None) -> None:
    """Delete the oldest checkpoints beyond `keep`; the newest and the `best` one stay."""
    found = list_checkpoints(folder)
    spare = [path for path in found[:-1] if path != best]
    for path in spare[: max(0, len(found) - keep)]:
        path.rename(path.with_name(f"{REMOVED}{path.name}"))
    for path in folder.glob(f"{REMOVED}*"):  # also one that a killed process left
        shutil.rmtree(path, ignore_errors=True)


def check_output(config: Config, resume: bool) -> None:
    """Refuse to write over a run.

    Raises:
        UserError: the output folder holds a finished run, or an unfinished one and not `resume`.
    """
    folder = resolve_path(config.output_dir)
    for path in (folder, log_folder(config)):
        if path.exists() and not path.is_dir():
            raise UserError(f"{show_path(path)}: is a file; the run needs a folder of that name")
    if (folder / SUMMARY_FILE).is_file():
        raise UserError(
            f"output_dir: {show_path(folder)} holds a finished run; choose another output_dir, or "
            "--overwrite to train again"
        )
    if not resume and list_checkpoints(folder):
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
    if not list_checkpoints(folder):
        return []
    before = load_run_config(folder).model_dump()
    return [name for name, value in config.model_dump().items() if before[name] != value]


def check_adapter_files(folder: Path) -> None:
    """Check an adapter before anything of it is loaded.

    Raises:
        UserError: a file that can run code, a missing or damaged file, a broken header.
    """
    refuse_code_files_beside_adapter(folder)
    for name in ADAPTER_FILES:
        if not (folder / name).is_file():
            raise UserError(
                f"{show_path(folder)}: holds no {name}; the run is not finished, go on with: "
                "python 02_src/train_dpo.py --config CONFIG --resume"
            )
    check_safetensors(folder / ADAPTER_FILES[0])
    check_adapter_config(folder / ADAPTER_FILES[1])
    damage = find_damage(folder) if (folder / MANIFEST_FILE).is_file() else None
    if damage:
        raise UserError(
            f"{show_path(folder)}: {damage}; copy it again, or train again with --overwrite"
        )


def check_merged(folder: Path) -> None:
    """UserError where a folder holds no merged model."""
    if not (folder / "config.json").is_file():
        raise UserError(
            f"{show_path(folder)}: holds no merged model; make it with: "
            "python 02_src/merge_lora.py --run RUN_FOLDER"
        )


def refuse_code_files_beside_adapter(folder: Path) -> None:
    """refuse_code_files for the run folder itself; its checkpoints are looked at on --resume."""
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if path.is_file() and path.name.lower().endswith(CODE_SUFFIXES):
            raise UserError(
                f"{show_path(path)}: a file of this kind can run code and is never loaded; "
                "delete the file, or save the adapter as safetensors"
            )


def check_safetensors(file: Path) -> None:
    """UserError unless the header is sound and describes exactly the file that is there.

    The sizes are compared before anything is allocated.
    """
    size = file.stat().st_size
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if size < 10 or length > min(LARGEST_HEADER, size - 8):
                raise ValueError
            header = json.loads(stream.read(length))
        ends = [int(v["data_offsets"][1]) for k, v in header.items() if k != "__metadata__"]
        if max(ends, default=0) != size - 8 - length:
            raise ValueError
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
        raise UserError(
            f"{show_path(file)}: not a whole safetensors file; copy it again, or train again"
        ) from None


def check_adapter_config(file: Path) -> None:
    """UserError unless adapter_config.json is a LoRA adapter's, without code of its own."""
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        sound = values["peft_type"] == "LORA" and not values.get("auto_mapping")
    except (ValueError, KeyError, TypeError, RecursionError):
        sound = False
    if not sound:
        raise UserError(
            f"{show_path(file)}: not the configuration of a LoRA adapter; copy it again, or train "
            "again"
        )
