"""Load, override, check and save a run's configuration.

from config import load_config
config = load_config("00_configs/dpo.json", ["learning_rate=1e-4"])
"""

import difflib
import json
import logging
import os
import warnings
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from config_keys import Config
from errors import UserError
from safe_files import replacing

REPOSITORY = Path(__file__).resolve().parent.parent
SCHEMA_FILE = REPOSITORY / "00_configs" / "dpo.schema.json"
SECRETS_FILE = REPOSITORY / "00_configs" / "secrets.toml"
DEFAULT_CONFIG = REPOSITORY / "00_configs" / "dpo.json"
RUN_CONFIG = "run_config.json"  # the resolved config in a run folder; config.json is transformers'
QUANT_KEYS = ("bnb_4bit_use_double_quant", "bnb_4bit_quant_type", "bnb_4bit_compute_dtype")

# Nothing about a user's run leaves the machine; set before any hub library is imported.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("DO_NOT_TRACK", "1")
# Waiting OpenMP threads sleep instead of spinning; set before torch starts. Spinning costs a
# step 20 times its time as soon as another program uses one of two cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Notices of the libraries about one another, which a user can do nothing about.
warnings.filterwarnings("ignore", message=r".*is deprecated and will be removed in v6")
warnings.filterwarnings("ignore", message="Attempting to run cuBLAS")
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

__all__ = ["Config", "load_config", "load_run_config", "save_config", "resolve_path"]


def resolve_path(path: str | Path) -> Path:
    """A config's path as an absolute one: relative paths start at the repository root."""
    path = Path(path).expanduser()
    return path if path.is_absolute() else REPOSITORY / path


def show_path(path: str | Path) -> str:
    """A path as the user wrote it: relative to the repository where it lies inside."""
    path = Path(path)
    return path.relative_to(REPOSITORY).as_posix() if path.is_relative_to(REPOSITORY) else str(path)


def load_config(path: str | Path, overrides: list[str] | dict[str, Any] | None = None) -> Config:
    """Read a config file, apply overrides, check every key.

    Args:
        path: JSON file; a relative path is tried from the working directory, then the repository.
        overrides: "key=value" strings (`--set`), or a dict; values are JSON, else text.

    Raises:
        UserError: with `file: key: what was expected (what was found)`.
    """
    file = Path(path).expanduser()
    file = file if file.is_file() else resolve_path(path)
    values = read_json_object(file)
    values.pop("$schema", None)
    given = overrides if isinstance(overrides, dict) else parse_overrides(overrides or [])
    for name in given:
        check_key(name, "--set")
    return build_config({**values, **given}, show_path(file))


def describe_syntax(error: json.JSONDecodeError) -> str:
    """Python's words, or what a comma before a closing bracket is called."""
    before, rest = error.doc[: error.pos].rstrip(), error.doc[error.pos :]
    comma = before.endswith(",") or rest.startswith(",")  # Python 3.13 points at the comma
    if comma and rest.lstrip(", \t\r\n")[:1] in ("}", "]"):
        return "a comma before the closing bracket; remove it"
    return error.msg


def read_json_object(file: Path) -> dict[str, Any]:
    """The JSON object in `file`; UserError names the line of a syntax error."""
    if not file.is_file():
        raise UserError(f"{show_path(file)}: no such config file; see 00_configs/ for examples")
    try:
        values = json.loads(file.read_text(encoding="utf-8-sig"), object_pairs_hook=refuse_repeats)
    except json.JSONDecodeError as error:
        text = describe_syntax(error)
        raise UserError(f"{show_path(file)}:{error.lineno}: not valid JSON: {text}") from None
    except UnicodeDecodeError:
        raise UserError(f"{show_path(file)}: not UTF-8 text; save it as UTF-8") from None
    except (KeyError, ValueError, RecursionError) as error:
        text = "nested too deeply" if isinstance(error, RecursionError) else error.args[0]
        raise UserError(f"{show_path(file)}: {text}") from None
    if not isinstance(values, dict):
        raise UserError(f"{show_path(file)}: must hold one JSON object {{...}} of keys and values")
    return values


def refuse_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build a JSON object; a key given twice is an error, since one value would be lost."""
    names = [name for name, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            raise KeyError(f"{name}: given twice; keep one")
    return dict(pairs)


def parse_overrides(items: list[str]) -> dict[str, Any]:
    """["key=value", ...] as a dict; a value that is not JSON is taken as text."""
    values: dict[str, Any] = {}
    for item in items:
        name, equals, text = item.partition("=")
        if not equals:
            raise UserError(f"--set {item}: write it as key=value, such as learning_rate=1e-4")
        values[name.strip()] = parse_value(name.strip(), text)
    return values


def parse_value(name: str, text: str) -> Any:
    """JSON where it is JSON, else text; a key that takes text keeps 2024 as text."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    field = Config.model_fields.get(name)
    takes_text = field is not None and field.annotation in (str, str | None)
    return text if takes_text and not isinstance(value, str | None) else value


def check_key(name: str, where: str) -> None:
    """Raise UserError with the nearest known key when `name` is not one."""
    if name in Config.model_fields:
        return
    near = difflib.get_close_matches(name, Config.model_fields, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]}?" if near else "; see the table in README.md"
    raise UserError(f"{where}: {name}: unknown key{hint}")


def build_config(values: dict[str, Any], where: str) -> Config:
    """Validate `values`; the first problem becomes one readable line."""
    for name in values:
        check_key(name, where)
    try:
        return Config(**values)
    except ValidationError as error:
        raise UserError(f"{where}: {describe_problem(error.errors()[0])}") from None


def describe_problem(problem: dict[str, Any]) -> str:
    """pydantic's first error as `key: must be > 0 (got -1)`."""
    text = problem["msg"].removeprefix("Value error, ")
    if not problem["loc"]:
        return text
    replaced = text.replace("Input should be greater than or equal to", "must be >=")
    replaced = replaced.replace("Input should be less than or equal to", "must be <=")
    replaced = replaced.replace("Input should be greater than", "must be >")
    replaced = replaced.replace("Input should be less than", "must be <")
    replaced = replaced.replace("Input should be", "must be")
    return f"{problem['loc'][0]}: {replaced} (got {json.dumps(problem['input'], default=str)})"


def list_notices(config: Config) -> list[str]:
    """What the config says that has no effect or a surprising one, a line each."""
    given = config.model_fields_set
    notices = []
    if not config.load_in_4bit and given & set(QUANT_KEYS):
        names = ", ".join(name for name in QUANT_KEYS if name in given)
        notices.append(f"load_in_4bit is false: {names} have no effect")
    if "loss_type" not in given:
        notices.append("loss_type is not given: sigmoid + sft is used (DPO alone grounds nothing)")
    if config.trust_remote_code:
        notices.append(f"trust_remote_code is true: code of {config.model_name} runs as you do")
    if config.validation_file and "validation_fraction" in given:
        notices.append("validation_file is given: validation_fraction has no effect")
    return notices


def save_config(config: Config, folder: Path) -> Path:
    """Write the resolved config (every key, no secrets) into a run folder."""
    file = folder / RUN_CONFIG
    write_text(file, json.dumps(config.model_dump(), indent=2) + "\n")
    return file


def load_run_config(folder: str | Path) -> Config:
    """The resolved config saved with a run or merged model.

    Raises:
        UserError: the folder holds none; the text names the command that makes one.
    """
    folder = resolve_path(folder)
    if not (folder / RUN_CONFIG).is_file():
        raise UserError(
            f"{show_path(folder)}: holds no {RUN_CONFIG}; "
            "train first: python 02_src/train_dpo.py --config 00_configs/dpo.json"
        )
    return load_config(folder / RUN_CONFIG)


def write_text(file: Path, text: str) -> None:
    """Write through a temporary sibling and rename: readers see the old file or the new one."""
    with replacing(file) as scratch:
        scratch.write_text(text, encoding="utf-8", newline="\n")


def run_name(config: Config) -> str:
    """The run's name: the last part of output_dir."""
    return resolve_path(config.output_dir).name


def log_folder(config: Config) -> Path:
    """05_logs/<run_name>."""
    return resolve_path(config.logging_dir) / run_name(config)


def merged_folder(config: Config, run_folder: Path | None = None) -> Path:
    """04_models/merged/<run>; the run's name is its folder's, also after it was moved."""
    return resolve_path(config.merged_dir) / (run_folder.name if run_folder else run_name(config))
