"""The merged models that compete: written to disk, loaded back, measured."""

import time
from dataclasses import dataclass, field
from pathlib import Path

from transformers import AutoTokenizer

from base_models import resolve_model
from config import Config
from hardware import find_device
from merging.adapter_weights import Update, load_updates
from merging.base_identity import check_identity, find_base_folder
from merging.measure import measure_candidate, measure_trained
from merging.sample import load_sample
from merging.tensor_files import Layout, read_layout
from merging.write_model import check_disk_space, make_merger, write_model_settings, write_weights
from prompt_contract import check_contract, eos_ids, write_contract


@dataclass
class Candidates:
    """One run's merges, a folder per strategy under `scratch`. Checks everything at its start."""

    config: Config
    run_folder: Path
    scratch: Path
    count: int
    base: Path = field(init=False)
    layout: Layout = field(init=False)
    updates: dict[str, Update] = field(init=False)
    written: dict[str, dict] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse a run with another contract or base before anything is written."""
        self.tokenizer = AutoTokenizer.from_pretrained(self.run_folder, local_files_only=True)
        check_contract(self.tokenizer, self.run_folder)
        self.base = find_base_folder(resolve_model(self.config))
        self.layout = read_layout(self.base)
        self.updates = load_updates(self.run_folder, self.layout)
        self.fingerprint = check_identity(self.run_folder, self.layout, self.config.model_name)
        self.sample = load_sample(self.config)
        check_disk_space(self.scratch, self.layout, self.count)

    def write(self, strategy: str) -> None:
        """Write the merged model of `strategy`; shards that are there already stay."""
        folder, started = self.scratch / strategy, time.monotonic()
        resumed = any((folder / name).is_file() for name in self.layout)
        merger = make_merger(strategy, self.config, self.base, self.updates)
        write_weights(self.layout, folder, merger, f"merging: {strategy}")
        first = next(entry for entries in self.layout.values() for entry in entries)
        dtype = {"F16": "float16"}.get(merger.choose_dtype(first), "bfloat16")
        ends, pad = eos_ids(self.tokenizer), self.tokenizer.pad_token_id
        write_model_settings(self.base, folder, dtype, ends, pad)
        self.tokenizer.save_pretrained(folder)
        write_contract(self.tokenizer, self.config, folder)
        self.written[strategy] = {
            "dtype": dtype,
            "bytes": sum((folder / name).stat().st_size for name in self.layout),
            "seconds": round(time.monotonic() - started, 1),
            "arithmetic_error": None if resumed else merger.largest_error,
        }

    def measure(self, strategies: list[str]) -> tuple[dict[str, dict], dict]:
        """(figures per strategy, figures they share), against the trained model."""
        device = find_device(self.config)
        trained = measure_trained(self.run_folder, device, self.sample)
        measured = {}
        for name in strategies:
            folder = self.scratch / name
            found = measure_candidate(folder, device, self.config, self.sample, trained)
            measured[name] = {**found.to_dict(), **self.written[name]}
        sample = {
            "source": self.sample.source,
            "pairs": len(self.sample.pairs),
            "asked": len(self.sample.asked),
            "passages": len(self.sample.passages),
        }
        shared = {"base_fingerprint": self.fingerprint, "sample": sample}
        return measured, {**shared, "trained": trained.to_dict()}
