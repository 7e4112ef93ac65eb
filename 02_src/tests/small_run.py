"""A run small enough for tests and real enough to learn: four abbreviations, six phrasings."""

import json
from pathlib import Path

import pytest

SENSES = {
    "DP": ("Dynamic Positioning", "Demographic Parity"),
    "ROP": ("Rate of Penetration", "Return-Oriented Programming"),
    "BHA": ("Bottom Hole Assembly", "Butylated Hydroxyanisole"),
    "ESP": ("Electric Submersible Pump", "Electronic Stability Program"),
}
PHRASINGS = (
    "In oil and gas, what does {} stand for?",
    "What does {} mean on a drilling rig?",
    "Expand the oilfield abbreviation {}.",
    "What is {} short for in the oil industry?",
    "Spell out {} as used in oil and gas.",
    "Offshore, what does {} stand for?",
)
UNSEEN = "Which term does {} abbreviate in oil and gas?"


def make_row(name: str, question: str) -> dict:
    """One pair about one abbreviation."""
    right, wrong = SENSES[name]
    return {
        "instruction": question.format(name),
        "chosen": f"{name} stands for {right}.",
        "rejected": f"{name} stands for {wrong}.",
        "abbreviation": name,
        "accepted": [right],
        "competing": [wrong],
    }


def write_rows(file: Path, rows: list[dict]) -> Path:
    """A JSON Lines file."""
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


@pytest.fixture(scope="session")
def small_config(embedded_model, tmp_path_factory) -> Path:
    """A config that teaches four abbreviations in under a minute."""
    folder = tmp_path_factory.mktemp("small")
    train = [make_row(name, question) for question in PHRASINGS for name in SENSES]
    config = {
        "model_name": "embedded:smollm2-135m-instruct",
        "dataset_hf": str(write_rows(folder / "train.jsonl", train)),
        "validation_file": str(
            write_rows(folder / "validation.jsonl", [make_row("DP", "Expand DP, offshore.")])
        ),
        "test_files": {
            "seen": str(
                write_rows(folder / "test.jsonl", [make_row(name, UNSEEN) for name in SENSES])
            )
        },
        "output_dir": str(folder / "adapters" / "small"),
        "merged_dir": str(folder / "merged"),
        "logging_dir": str(folder / "logs"),
        "num_train_epochs": 6, "per_device_train_batch_size": 8, "learning_rate": 2e-3,
        "lora_r": 32, "lora_alpha": 64, "save_steps": 3, "logging_steps": 2, "eval_steps": 9,
        "max_seq_length": 128, "seed": 7,
    }  # fmt: skip
    file = folder / "small.json"
    file.write_text(json.dumps(config), encoding="utf-8")
    return file
