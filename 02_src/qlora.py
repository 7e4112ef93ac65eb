"""The policy: a frozen 4-bit base, the LoRA layers to train, and the dtypes this device can do.

    model, tokenizer = load_policy(config, device)
    lora = build_lora_config(config, model)

QLoRA: Dettmers et al. 2023 (arXiv 2305.14314). LoRA: Hu et al. 2021 (arXiv 2106.09685).
"""

from dataclasses import dataclass, replace
from importlib.metadata import version

import quick_bitsandbytes  # noqa: F401  # isort: skip  (before peft and trl)
import torch
from peft import LoraConfig
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from base_cache import discard_quantised, find_quantised, write_quantised
from base_models import ModelSource, load_tokenizer, readable_hub_errors, resolve_model
from config import Config
from errors import UserError
from hardware import Device
from processes import shards_base
from prompt_contract import apply_contract


@dataclass(frozen=True)
class Precision:
    """Number formats of a run, and why they differ from the config where they do."""

    base: torch.dtype  # dtype of the base's non-quantised weights and of 4-bit matmuls
    fp16: bool
    bf16: bool
    optim: str
    notices: tuple[str, ...]


def choose_precision(config: Config, device: Device) -> Precision:
    """Formats this device can do; each replacement of a config value gets one notice."""
    notices = []
    fp16, bf16, optim = config.fp16, config.bf16, config.optim
    if fp16 and device.kind != "cuda":
        fp16, bf16 = False, device.bf16
        notices.append(
            f"fp16 needs an NVIDIA GPU: using {'bf16' if bf16 else 'fp32'} on {device.kind}"
        )
    if bf16 and not device.bf16:
        bf16, fp16 = False, device.kind == "cuda"
        notices.append(f"{device.name} has no fast bf16: using {'fp16' if fp16 else 'fp32'}")
    if device.kind != "cuda" and ("8bit" in optim or "paged" in optim):
        notices.append(f"optim {optim} needs an NVIDIA GPU: using adamw_torch_fused")
        optim = "adamw_torch_fused"
    base = torch.bfloat16 if bf16 else torch.float16 if fp16 else torch.float32
    wanted = config.bnb_4bit_compute_dtype
    if config.load_in_4bit and wanted not in ("auto", str(base).removeprefix("torch.")):
        notices.append(f"bnb_4bit_compute_dtype {wanted} does not match: using {base}")
    return Precision(base, fp16, bf16, optim, tuple(notices))


def load_contract_tokenizer(config: Config):
    """The base model's tokenizer with the config's contract in its chat template."""
    tokenizer = load_tokenizer(resolve_model(config))
    apply_contract(tokenizer, config)
    return tokenizer


def load_policy(config: Config, device: Device, tokenizer=None) -> tuple[PreTrainedModel, object]:
    """The frozen base (4 bit where the config says so) and its tokenizer with the contract.

    No fp32 copy of the embeddings is made (prepare_model_for_kbit_training would: +0.5 to 1 GB
    at a 128k vocabulary). Adapters are added by the trainer. A `tokenizer` that is loaded already
    is used as it is.

    Raises:
        UserError: the model cannot be found, loaded, or used for chat.
    """
    source = resolve_model(config)
    tokenizer = tokenizer or load_contract_tokenizer(config)
    model = load_base(config, device, source)
    keep_differentiable(model)
    return model, tokenizer


def load_base(config: Config, device: Device, source=None) -> PreTrainedModel:
    """The base model alone, on `device`, frozen, in the config's precision.

    A 4-bit base is quantised once and kept on disk (base_cache); later runs load it directly.
    """
    source = source or resolve_model(config)
    dtype = choose_precision(config, device).base
    transformers_logging.disable_progress_bar()
    settings = describe_quantisation(config, device, dtype)
    with readable_hub_errors(source):
        model = load_quantised(config, device, source, dtype, settings) if settings else None
        if model is None:
            model = load_weights(config, device, source, dtype, build_quantization(config, dtype))
            if settings:
                write_quantised(model, source, settings)
    model.config.use_cache = False
    if shards_base():
        model.__dict__.pop(
            "hf_device_map", None
        )  # it lies in system memory only until it is sharded
    return model.requires_grad_(False)


def load_quantised(
    config: Config, device: Device, source: ModelSource, dtype: torch.dtype, settings: dict
) -> PreTrainedModel | None:
    """The 4-bit base from the cache; None where it is not there, or damaged."""
    folder = find_quantised(source, settings)
    if folder is None:
        return None
    try:
        return load_weights(config, device, replace(source, location=str(folder)), dtype)
    except (OSError, SafetensorError) as error:
        discard_quantised(folder, error)
        return None


def load_weights(
    config: Config,
    device: Device,
    source: ModelSource,
    dtype: torch.dtype,
    quantization: BitsAndBytesConfig | None = None,
) -> PreTrainedModel:
    """from_pretrained on one device, with the config's attention; what is sharded, on the CPU.

    A quantisation of None is not passed on: it would hide the one in a cached base's config.json.
    """
    options = {} if quantization is None else {"quantization_config": quantization}
    return AutoModelForCausalLM.from_pretrained(
        source.location,
        dtype=dtype,
        attn_implementation=config.attn_implementation,
        device_map={"": "cpu" if shards_base() else device.place},
        use_safetensors=True,
        **options,
        **source.load_options(),
    )


def describe_quantisation(config: Config, device: Device, dtype: torch.dtype) -> dict | None:
    """What a cached 4-bit base depends on besides its weights; None for 16-bit bases."""
    if not config.load_in_4bit:
        return None
    settings = {
        "type": config.bnb_4bit_quant_type,
        "double": config.bnb_4bit_use_double_quant,
        "dtype": str(dtype),
        "device": device.kind,
        "bitsandbytes": version("bitsandbytes"),
    }
    sharded = {"device": "cpu", "storage": str(choose_storage(dtype))} if shards_base() else {}
    return {**settings, **sharded}


def choose_storage(dtype: torch.dtype) -> torch.dtype:
    """What 4-bit weights are packed in: FSDP shards floating-point tensors only."""
    return dtype if shards_base() else torch.uint8


def keep_differentiable(model: torch.nn.Module) -> None:
    """Stop bitsandbytes from repacking 4-bit weights for CPU inference, in place.

    On CPUs with AVX512-BF16, one forward in eval mode repacks them for a kernel without a
    backward (bitsandbytes 0.50), and every later training step silently loses the gradient that
    flows through the base.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def build_quantization(config: Config, dtype: torch.dtype) -> BitsAndBytesConfig | None:
    """bitsandbytes settings of the config, or None for 16-bit weights."""
    if not config.load_in_4bit:
        return None
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=config.bnb_4bit_quant_type,
        bnb_4bit_use_double_quant=config.bnb_4bit_use_double_quant,
        bnb_4bit_compute_dtype=dtype,
        bnb_4bit_quant_storage=choose_storage(dtype),
    )


def build_lora_config(config: Config, model: PreTrainedModel) -> LoraConfig:
    """LoRA settings for TRL's peft_config.

    Raises:
        UserError: a target module is not in this model; the text lists the ones that are.
    """
    targets = config.lora_target_modules
    if targets != "all-linear":
        targets = [targets] if isinstance(targets, str) else targets
        check_targets(targets, model)
    return LoraConfig(
        r=config.lora_r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=targets,
        bias="none",
        task_type="CAUSAL_LM",
    )


def list_linear_names(model: PreTrainedModel) -> list[str]:
    """Last name parts of the linear layers LoRA can sit on, in model order, without the head."""
    head = model.get_output_embeddings()
    names = [
        name.rsplit(".", 1)[-1]
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not head
    ]
    return list(dict.fromkeys(names))


def check_targets(targets: list[str], model: PreTrainedModel) -> None:
    """UserError when a target matches no module, or is the output head."""
    modules = [n for n, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    known = ", ".join(list_linear_names(model))
    for target in targets:
        if target == "lm_head":
            raise UserError(f"lora_target_modules: lm_head cannot be adapted; choose from {known}")
        if not any(name == target or name.endswith(f".{target}") for name in modules):
            raise UserError(
                f"lora_target_modules: {target} matches no linear layer of this model; "
                f'it has {known}; or use "all-linear"'
            )


def count_parameters(model: torch.nn.Module) -> tuple[int, int]:
    """(trainable, total) parameters; 4-bit tensors count two values a byte."""
    trainable = total = 0
    for parameter in model.parameters():
        packed = parameter.__class__.__name__ == "Params4bit"
        size = parameter.numel() * 2 if packed else parameter.numel()
        total += size
        trainable += size if parameter.requires_grad else 0
    return trainable, total
