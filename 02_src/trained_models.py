"""Load what training left: an adapter on its base, a merged model, an exported GGUF."""

from pathlib import Path

import quick_bitsandbytes  # noqa: F401  # isort: skip  (before peft and trl)
import torch
from peft import PeftModel
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GgufConfig,
    PreTrainedModel,
)
from transformers.utils import logging as transformers_logging

from checkpoints import check_adapter_files, check_merged
from config import Config, load_run_config, show_path
from errors import UserError
from fast.frozen_weights import keep_weights
from fast.lora_linear import fuse_lora_layers
from fast.lora_stack import list_weights
from hardware import Device
from prompt_contract import CONTRACT_FILE, check_contract
from qlora import load_base


def load_adapter(
    run_folder: Path, device: Device, fused: bool = False
) -> tuple[PeftModel, object, Config]:
    """Base + adapter of a finished run, its tokenizer, and the run's config.

    Args:
        fused: compute as training does, in fewer steps (fast/lora_linear.py); else as PEFT does.

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
    if fused:
        keep_weights([[weight] for weight in list_weights(fuse_lora_layers(model))])
    return model.eval(), tokenizer, config


def load_merged(folder: Path, device: Device) -> tuple[PreTrainedModel, object]:
    """A merged model and its tokenizer; needs neither base model nor network.

    Raises:
        UserError: the folder holds no merged model, or its tokens differ from training's.
    """
    check_merged(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    check_contract(tokenizer, folder)
    dtype = torch.bfloat16 if device.bf16 else torch.float32
    transformers_logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, local_files_only=True, use_safetensors=True,
        device_map={"": device.place},
    )  # fmt: skip
    return model.eval(), tokenizer


def load_gguf(file: Path, device: Device) -> tuple[PreTrainedModel, object]:
    """An exported .gguf, dequantised, with the tokenizer that the file itself carries.

    The model's settings come from the config.json beside it: transformers' GGUF reader leaves
    out Llama-3.1's RoPE scaling.

    Raises:
        UserError: the file is no GGUF this toolkit exported, or its tokens differ from training's.
    """
    if not (file.is_file() and (file.parent / CONTRACT_FILE).is_file()):
        raise UserError(
            f"{show_path(file)}: no GGUF with a {CONTRACT_FILE} beside it; make one with: "
            "python 02_src/export_model.py --model MERGED_FOLDER"
        )
    options = {"gguf_file": file.name, "local_files_only": True}
    tokenizer = AutoTokenizer.from_pretrained(file.parent, **options)
    contract = check_contract(tokenizer, file.parent)
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(contract["eos_ids"][0])
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(contract["pad_id"])
    transformers_logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(
        file.parent,
        config=AutoConfig.from_pretrained(file.parent, local_files_only=True),
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.bfloat16 if device.bf16 else torch.float32,
        **options,
    )
    return model.to(device.place).eval(), tokenizer
