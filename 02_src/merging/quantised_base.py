"""The base as training saw it: its linear layers through bitsandbytes' 4-bit format and back.

QLoRA trains the adapter on these rounded weights (Dettmers et al. 2023, arXiv 2305.14314).
"""

from pathlib import Path

import bitsandbytes as bnb
import torch
from bitsandbytes.functional import dequantize_4bit
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.integrations import replace_with_bnb_linear
from transformers.quantizers.base import get_keys_to_not_convert

from config import Config
from hardware import find_device
from qlora import build_quantization, choose_precision


def list_quantised_weights(config: Config, base: Path) -> set[str]:
    """Names of the weights that load in 4 bit: the layers transformers itself replaces.

    The model is built on the meta device: no memory, no weights.
    """
    settings = AutoConfig.from_pretrained(
        base, local_files_only=True, trust_remote_code=config.trust_remote_code
    )
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(
            settings, trust_remote_code=config.trust_remote_code
        )
        model = replace_with_bnb_linear(
            model,
            modules_to_not_convert=get_keys_to_not_convert(model),
            quantization_config=build_quantization(config, find_training_dtype(config)),
        )
    modules = model.named_modules()
    return {f"{name}.weight" for name, module in modules if isinstance(module, bnb.nn.Linear4bit)}


def find_training_dtype(config: Config) -> torch.dtype:
    """The dtype the base's weights had when they were quantised, and have when dequantised."""
    return choose_precision(config, find_device(config)).base


def round_to_4bit(weight: torch.Tensor, config: Config, dtype: torch.dtype) -> torch.Tensor:
    """`weight` [out, in] quantised as the config says and dequantised, in `dtype`."""
    packed = bnb.nn.Params4bit(
        weight.to(dtype),
        requires_grad=False,
        compress_statistics=config.bnb_4bit_use_double_quant,
        quant_type=config.bnb_4bit_quant_type,
    ).to("cpu")
    return dequantize_4bit(packed.data, packed.quant_state)
