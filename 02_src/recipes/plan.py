"""A study on paper: named recipes, each a set of config keys over one base config, and seeds.

study = load_study(Path("01_data/study/full/recipes.json"))
runs = list_runs(study)
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from config import Config, describe_problem, load_config, read_json_object, show_path
from errors import UserError

SAFE_NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"  # a recipe's name is a folder's name
UNTRAINED = ("base", "base_with_glossary")  # the controls that need no training


class Recipe(BaseModel):
    """Config keys that make this recipe, and a sentence for the report."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    about: str = ""
    overrides: dict[str, Any] = {}


class Study(BaseModel):
    """What is compared: every recipe with every seed."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    title: str = "recipes compared"
    about: str = ""  # what was asked: the report's first paragraph
    base_config: str = "00_configs/quickstart.json"
    shared: dict[str, Any] = {}  # config keys of all recipes
    seeds: list[int] = Field(min_length=1)
    shipped: str | None = None  # the recipe that the others are controls of
    recipes: dict[Annotated[str, Field(pattern=SAFE_NAME)], Recipe] = Field(min_length=1)


@dataclass(frozen=True)
class StudyRun:
    """One training: a recipe with a seed."""

    recipe: str
    seed: int
    config: Config


def load_study(file: Path) -> Study:
    """Read a recipes file.

    Raises:
        UserError: with `file: key: what was expected (what was found)`.
    """
    try:
        study = Study(**read_json_object(file))
    except ValidationError as error:
        raise UserError(f"{show_path(file)}: {describe_problem(error.errors()[0])}") from None
    if study.shipped is not None and study.shipped not in study.recipes:
        known = ", ".join(study.recipes)
        raise UserError(f"{show_path(file)}: shipped: {study.shipped}: not one of {known}")
    for name in UNTRAINED:
        if name in study.recipes:
            raise UserError(f"{show_path(file)}: recipes: {name}: the name of an untrained control")
    return study


def list_runs(study: Study, changes: dict[str, Any], only: list[str] | None) -> list[StudyRun]:
    """Every recipe with every seed, the shipped recipe first, one seed after the other.

    Args:
        changes: config keys of this machine, such as model_name; they win over the recipe's.
        only: names of recipes; None is all.

    Raises:
        UserError: a recipe has a key or value that no config may have.
    """
    for name in only or ():
        if name not in study.recipes:
            raise UserError(f"--only_recipes {name}: choose from {', '.join(study.recipes)}")
    names = sorted(only or study.recipes, key=lambda name: name != study.shipped)
    return [make_run(study, name, seed, changes) for seed in study.seeds for name in names]


def make_run(study: Study, name: str, seed: int, changes: dict[str, Any]) -> StudyRun:
    """One run with its checked config; it lies in a folder `study` beside the config's own."""
    overrides = {**study.shared, **study.recipes[name].overrides, **changes, "seed": seed}
    try:
        config = load_config(study.base_config, overrides)
    except UserError as error:
        raise UserError(f"recipe {name}: {error}") from None
    folder = Path(config.output_dir).parent / "study" / f"{name}-seed{seed}"
    logs = Path(config.logging_dir) / "study"
    places = {"output_dir": folder.as_posix(), "logging_dir": logs.as_posix()}
    return StudyRun(name, seed, config.model_copy(update=places))
