"""Load what training and merging left: an adapter on its base, the 16-bit base, a merged model."""

from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.utils import logging as transformers_logging

from base_models import readable_hub_errors, resolve_model
from checkpoints import check_adapter_files
from config import Config, load_run_config, show_path
from errors import UserError
from hardware import Device
from prompt_contract import check_contract, eos_ids
from qlora import load_base


def load_adapter(run_folder: Path, device: Device) -> tuple[PeftModel, object, Config]:
    """Base + adapter of a finished run, its tokenizer, and the run's config.

    Raises:
        UserError: the folder holds no complete run, a pickle instead of safetensors, or tokens
            that differ from training's.
    """
    config = load_run_config(run_folder)
    check_adapter_files(run_folder)
    tokenizer = AutoTokenizer.from_pretrained(run_folder, local_files_only=True)
    check_contract(tokenizer, run_folder)
    base = load_base(config, device)
    model = PeftModel.from_pretrained(base, run_folder, autocast_adapter_dtype=False)
    return model.eval(), tokenizer, config


def load_16bit_base(config: Config) -> PreTrainedModel:
    """The base in 16 bit on the CPU, for merging."""
    source = resolve_model(config)
    transformers_logging.disable_progress_bar()
    with readable_hub_errors(source):
        return AutoModelForCausalLM.from_pretrained(
            source.location, dtype=torch.bfloat16, device_map="cpu", use_safetensors=True,
            **source.load_options(),
        )  # fmt: skip


def load_merged(folder: Path, device: Device) -> tuple[PreTrainedModel, object]:
    """A merged model and its tokenizer; needs neither base model nor network.

    Raises:
        UserError: the folder holds no merged model, or its tokens differ from training's.
    """
    if not (folder / "config.json").is_file():
        raise UserError(
            f"{show_path(folder)}: holds no merged model; make it with: "
            "python 02_src/merge_lora.py --run RUN_FOLDER"
        )
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    check_contract(tokenizer, folder)
    dtype = torch.bfloat16 if device.bf16 else torch.float32
    transformers_logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, local_files_only=True, use_safetensors=True,
        device_map={"": "cuda:0" if device.kind == "cuda" else device.kind},
    )  # fmt: skip
    return model.eval(), tokenizer


def set_generation_tokens(model, tokenizer) -> None:
    """Make generate() stop where the contract says an answer ends."""
    model.generation_config.eos_token_id = eos_ids(tokenizer)
    model.generation_config.pad_token_id = tokenizer.pad_token_id
