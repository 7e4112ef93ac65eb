"""What benchmark.py measures: workloads, variants, a random model, TRL's trainer or ours."""

import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "02_src"))

WORKLOADS = {  # name: (prompt tokens, answer tokens, pairs per micro-step, micro-steps)
    "short_1x8": (40, 12, 1, 8),
    "short_8": (40, 12, 8, 1),
    "short_32": (40, 12, 32, 1),
    "long_8": (300, 280, 8, 1),
}
VARIANTS = {  # name: (what the table calls it, changes to DPOConfig, changes to PreferenceTrainer)
    "trl": ("TRL defaults", {}, None),
    "trl_best": (
        "TRL, reference precomputed, no checkpointing",
        {"precompute_ref_log_probs": True, "gradient_checkpointing": False},
        None,
    ),
    "ours": ("fast forward, CUDA graphs", {"gradient_checkpointing": False}, {}),
    "ours_checkpointing": (
        "fast forward, CUDA graphs, checkpointing",
        {
            "gradient_checkpointing": True,
            "gradient_checkpointing_kwargs": {"use_reentrant": False, "preserve_rng_state": False},
        },
        {},
    ),
    "ours_eager": (
        "fast forward, no graphs",
        {"gradient_checkpointing": False},
        {"cuda_graphs": False},
    ),
}
LLAMA_1B = {
    "vocab_size": 128256, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
    "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64, "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0},
    "tie_word_embeddings": True, "max_position_embeddings": 4096,
}  # fmt: skip
HIGHEST_TOKEN = 10_000  # below every vocabulary


def make_rows(prompt: int, answer: int, count: int, seed: int) -> list[dict[str, list[int]]]:
    """Pairs of random token ids; lengths vary by a fifth around prompt and answer."""
    draw = random.Random(seed)

    def ids(length: int) -> list[int]:
        length = round(length * draw.uniform(0.8, 1.2))
        return [draw.randrange(10, HIGHEST_TOKEN) for _ in range(length)]

    return [
        {"prompt_ids": ids(prompt), "chosen_ids": ids(answer), "rejected_ids": ids(answer)}
        for _ in range(count)
    ]


def make_model(folder: Path) -> str:
    """A random model of Llama-3.2-1B's shape, saved in `folder`; its path."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(LlamaConfig(**LLAMA_1B), dtype=torch.bfloat16)
    model.save_pretrained(folder)
    return str(folder)


def load_model(path: str, dtype):
    """The model in 4 bit, frozen, as load_policy makes it."""
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    from qlora import keep_differentiable

    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    model = AutoModelForCausalLM.from_pretrained(
        path,
        dtype=dtype,
        attn_implementation="sdpa",
        quantization_config=quantization,
        device_map={"": "cuda:0" if torch.cuda.is_available() else "cpu"},
    )
    keep_differentiable(model)
    return model.requires_grad_(False)


def make_tokenizer():
    """A tokenizer that only knows its special tokens: rows are token ids already."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"<pad>": 0, "<eos>": 1}, unk_token="<eos>"))
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="<eos>", unk_token="<eos>"
    )


def make_trainer(job: dict, model, rows: list[dict], folder: str):
    """TRL's trainer, or ours, over the same rows."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from trl import DPOConfig, DPOTrainer

    from fast.trainer import PreferenceTrainer
    from qlora import cast_adapter_to_fp32

    class StockTrainer(DPOTrainer):
        """DPOTrainer over token ids."""

        def _prepare_dataset(self, dataset, *_):
            return dataset

    _, changes, ours = VARIANTS[job["variant"]]
    _, _, batch, accumulation = WORKLOADS[job["workload"]]
    arguments = {
        "output_dir": folder, "max_length": 2048, "max_steps": job["steps"], "report_to": "none",
        "per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation,
        "precompute_ref_batch_size": max(16, batch), "learning_rate": 1e-4, "logging_steps": 5,
        "save_strategy": "no", "disable_tqdm": True, "seed": job["seed"],
        "bf16": not is_stock_on_cpu(job), "use_cpu": not torch.cuda.is_available(),
        "dataloader_pin_memory": torch.cuda.is_available(),
    }  # fmt: skip
    if ours is not None:
        arguments |= {
            "precompute_ref_batch_size": 64,
            "precompute_ref_log_probs": True,
            "logging_nan_inf_filter": False,
        }
    kwargs = {
        "model": model,
        "args": DPOConfig(**{**arguments, **changes}),
        "train_dataset": Dataset.from_list(rows),
        "processing_class": make_tokenizer(),
        "peft_config": LoraConfig(
            r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"
        ),
    }
    if ours is None:
        return StockTrainer(**kwargs)
    cache = Path(folder) / "reference"
    trainer = PreferenceTrainer(fast_forward=True, reference_cache=cache, **ours, **kwargs)
    cast_adapter_to_fp32(trainer.model)
    return trainer


def is_stock_on_cpu(job: dict) -> bool:
    """TRL's defaults on a CPU are fp32; everything else measured here is bf16."""
    import torch

    return job["variant"] == "trl" and not torch.cuda.is_available()
