"""What the models of an evaluation are called, and where their files lie. No torch."""

from collections.abc import Iterable
from pathlib import Path

from config import Config, merged_folder, resolve_path

MODELS = ("base", "base_with_glossary", "adapter", "merged")  # in the order they are measured
CONTROLS = MODELS[:2]
TUNED_ORDER = ("adapter", "merged")


def order_models(names: Iterable[str]) -> list[str]:
    """Names without repeats, the base first: others are compared with it."""
    return sorted(dict.fromkeys(names), key=lambda name: (*MODELS, name).index(name))


def find_folder(name: str, run_folder: Path, config: Config) -> Path:
    """Where the files of a model lie."""
    if name == "merged":
        return merged_folder(config, run_folder)
    return run_folder if name in MODELS else resolve_path(name)


def choose_tuned(report: dict) -> str | None:
    """The model a report is about: adapter, else merged, else the first that is no control."""
    models = report["models"]
    others = [name for name in models if name not in CONTROLS]
    return next((name for name in TUNED_ORDER if name in models), others[0] if others else None)
