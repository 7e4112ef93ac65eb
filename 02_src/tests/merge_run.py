"""A run folder with a random adapter on the tiny model, as training leaves it; no training."""

import json
from pathlib import Path

import pytest
from small_run import SENSES, UNSEEN, make_row, write_rows

TEXT = "The pump lifts the fluid to the surface, and the well is tested again in the spring."


def make_adapter(base: Path, folder: Path, seed: int = 1, scale: float = 0.05) -> None:
    """Save a LoRA adapter (r 4, all linear layers) with random weights for `base`."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    lora = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(model, lora)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=scale)
    model.save_pretrained(folder)


@pytest.fixture(scope="session")
def make_run(tiny_model, tmp_path_factory):
    """make(base=None, **keys): a run folder on the tiny model, or on another folder's."""

    def make(base: Path | None = None, **keys) -> Path:
        from base_models import load_tokenizer, resolve_model
        from config import load_config, save_config
        from merging.base_identity import write_identity
        from prompt_contract import apply_contract, write_contract

        place = tmp_path_factory.mktemp("run")
        run, base = place / "adapters" / "tiny", base or tiny_model
        rows = [make_row(name, UNSEEN) for name in SENSES]
        passages = [{"id": "1", "text": TEXT}, {"id": "2", "text": TEXT.upper()}]
        values = {
            "model_name": str(base), "dataset_hf": str(write_rows(place / "test.jsonl", rows)),
            "test_files": {"seen": str(place / "test.jsonl"),
                           "drift": str(write_rows(place / "drift.jsonl", passages))},
            "output_dir": str(run), "merged_dir": str(place / "merged"), "merge_max_kl": 10.0,
            "logging_dir": str(place / "logs"), "device": "cpu", "max_new_tokens": 4, **keys,
        }  # fmt: skip
        file = place / "config.json"
        file.write_text(json.dumps(values), encoding="utf-8")
        config = load_config(file)
        make_adapter(base, run)
        save_config(config, run)
        tokenizer = load_tokenizer(resolve_model(config))
        apply_contract(tokenizer, config)
        tokenizer.save_pretrained(run)
        write_contract(tokenizer, config, run)
        write_identity(config, run)
        return run

    return make


@pytest.fixture(scope="session")
def tiny_merged(make_run) -> tuple[Path, Path]:
    """(run, merged folder) of the tiny model, merged with `auto`."""
    from merge_lora import merge

    run = make_run()
    return run, merge(run)
