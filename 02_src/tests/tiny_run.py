"""A run of the tiny random model: it learns nothing in particular, and trains in seconds."""

import json

import pytest
from small_run import PHRASINGS, SENSES, make_row, write_rows

from config import Config, load_config


@pytest.fixture(scope="session")
def tiny_config(tiny_model, tmp_path_factory):
    """write(**keys): a config that trains the tiny model for four steps in a few seconds."""
    folder = tmp_path_factory.mktemp("tiny")
    train = [make_row(name, question) for question in PHRASINGS[:4] for name in SENSES]
    validation = [make_row(name, PHRASINGS[4]) for name in SENSES]
    files = {
        "dataset_hf": str(write_rows(folder / "train.jsonl", train)),
        "validation_file": str(write_rows(folder / "validation.jsonl", validation)),
    }

    def write(name: str, **keys) -> Config:
        values = {
            "model_name": str(tiny_model), **files, "output_dir": str(folder / "runs" / name),
            "logging_dir": str(folder / "logs"), "merged_dir": str(folder / "merged"),
            "max_steps": 4, "per_device_train_batch_size": 4, "learning_rate": 5e-3,
            "logging_steps": 1, "eval_steps": 1, "save_steps": 4, "max_seq_length": 128,
            "warmup_ratio": 0.0, "device": "cpu", "seed": 3, **keys,
        }  # fmt: skip
        file = folder / f"{name}.json"
        file.write_text(json.dumps(values), encoding="utf-8")
        return load_config(file)

    return write


@pytest.fixture(scope="session")
def train_tiny(tiny_config):
    """train(name, **keys): (trainer, metrics records, training.log) of a finished tiny run."""

    def run(name: str, **keys):
        from config import log_folder
        from hardware import find_device
        from preferences import load_preferences
        from qlora import load_policy
        from run_log import read_metrics
        from train_dpo import train
        from trainer_setup import build_trainer

        config = tiny_config(name, **keys)
        device = find_device(config)
        trainer = build_trainer(
            config, device, *load_policy(config, device), load_preferences(config)
        )
        finished = train(trainer, config)
        assert finished.finished
        folder = log_folder(config)
        return trainer, read_metrics(folder), (folder / "training.log").read_text()

    return run
