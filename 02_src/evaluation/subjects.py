"""The models an evaluation can measure: base, base with the glossary told, adapter, merged, other.

Base and adapter are one model in memory, with the adapter switched off or on.
"""

from pathlib import Path

from config import Config
from evaluation.measure import Subject
from evaluation.model_names import CONTROLS, MODELS, find_folder
from evaluation.question_sets import read_glossary
from hardware import Device
from qlora import load_policy
from trained_models import load_adapter, load_merged


class Models:
    """Loads models when they are first needed, one in memory at a time."""

    def __init__(self, run_folder: Path, config: Config, device: Device) -> None:
        self.run_folder, self.config, self.device = run_folder, config, device
        self.place: Path | None = None
        self.loaded: tuple = ()

    def load(self, name: str) -> Subject:
        """The model called `name`.

        Raises:
            UserError: the folder holds no such model, or its contract is broken.
        """
        place = find_folder(name, self.run_folder, self.config)
        if place != self.place:
            self.loaded = ()  # free the last one first
            self.loaded, self.place = self.load_files(name, place), place
        return Subject(
            name,
            *self.loaded,
            self.config,
            adapter_off=name in CONTROLS,
            has_adapter=name == "adapter",
            glossary=read_glossary() if name == "base_with_glossary" else None,
        )

    def load_files(self, name: str, place: Path) -> tuple:
        """(model, tokenizer) from their folder."""
        if name == "merged":
            return load_merged(place, self.device)
        if name in MODELS:
            return load_adapter(place, self.device, fused=True)[:2]
        other = self.config.model_copy(update={"model_name": str(place), "model_revision": None})
        model, tokenizer = load_policy(other, self.device)
        return model.eval(), tokenizer
