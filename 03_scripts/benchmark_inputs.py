"""Workloads, models, tokenizer and pairs for the benchmark and check_gpu.py."""

import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LLAMA_1B = {
    "vocab_size": 128256, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
    "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64, "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0},
    "tie_word_embeddings": True, "max_position_embeddings": 8192,
}  # fmt: skip
HIGHEST_TOKEN = 10_000  # below every vocabulary
HEADER = 23  # tokens all prompts begin with; two pairs of the shipped set share that many


@dataclass(frozen=True)
class Workload:
    """Mean lengths in tokens (zero: the config's own pairs) and how many pairs a step takes."""

    prompt: int
    answer: int
    batch: int
    accumulation: int = 1


@dataclass
class Inputs:
    """What a measurement trains: token rows, frozen model, tokenizer, LoRA rank."""

    rows: list[dict[str, list[int]]]
    model: Any
    tokenizer: Any
    rank: int = 16


def find_workload(name: str) -> Workload:
    """short_B, long_B, config_B: B pairs a step; short_1x8: one pair at a time; length_N: 4 pairs
    of N tokens.

    Raises:
        ValueError: no such workload.
    """
    kind, _, size = name.partition("_")
    batch, _, accumulation = size.partition("x")
    if kind not in ("short", "long", "config", "length") or not batch.isdigit():
        raise ValueError(name)
    if kind == "length":
        return Workload(round(int(size) * 0.36), round(int(size) * 0.32), 4)
    prompt, answer = {"short": (40, 12), "long": (300, 280), "config": (0, 0)}[kind]
    return Workload(prompt, answer, int(batch), int(accumulation or 1))


def make_inputs(job: dict, dtype) -> Inputs:
    """Rows and model of a job; a config brings its own model, LoRA rank and pairs."""
    workload = find_workload(job["workload"])
    count = workload.batch * workload.accumulation * job["steps"]
    if job["config"]:
        return load_config_inputs(job, dtype, count, not workload.prompt)
    rows = make_rows(workload.prompt, workload.answer, count, job["seed"], HEADER)
    return Inputs(rows, load_model(job["model"], dtype), make_tokenizer())


def load_config_inputs(job: dict, dtype, count: int, own_pairs: bool) -> Inputs:
    """Model and pairs of a config file; pairs repeat where there are too few."""
    import torch

    from config import load_config
    from hardware import find_device
    from preferences import load_preferences
    from qlora import load_policy
    from tokenization import tokenize_pairs

    config = load_config(job["config"], {"bf16": dtype == torch.bfloat16, "seed": job["seed"]})
    device = find_device(config)
    model, tokenizer = load_policy(config, device)
    workload = find_workload(job["workload"])
    rows = make_rows(workload.prompt, workload.answer, count, job["seed"], HEADER)
    if own_pairs:
        found = tokenize_pairs(load_preferences(config).train, tokenizer, config).rows
        rows = (found * (count // len(found) + 1))[:count]
    return Inputs(rows, model, tokenizer, config.lora_r)


def make_rows(
    prompt: int, answer: int, count: int, seed: int, header: int = 0
) -> list[dict[str, list[int]]]:
    """Pairs of random token ids; lengths vary by a fifth around prompt and answer.

    All prompts begin with the same `header` tokens, as those of a chat template do.
    """
    draw = random.Random(seed)

    def ids(length: int) -> list[int]:
        length = round(length * draw.uniform(0.8, 1.2))
        return [draw.randrange(10, HIGHEST_TOKEN) for _ in range(length)]

    first = [draw.randrange(10, HIGHEST_TOKEN) for _ in range(header)]
    rows = [
        {"prompt_ids": ids(prompt), "chosen_ids": ids(answer), "rejected_ids": ids(answer)}
        for _ in range(count)
    ]
    for row in rows:
        shared = min(header, len(row["prompt_ids"]) - 1)
        row["prompt_ids"][:shared] = first[:shared]
    return rows


def count_flops(inputs: Inputs) -> float:
    """Floating-point operations a pair needs, attention and LoRA left out.

    Prompt tokens once; forward and the gradient of the input through each frozen layer, 4 per
    weight and token; the head on answer tokens only.
    """
    config = inputs.model.config.get_text_config()
    head = config.vocab_size * config.hidden_size
    tokens = sum(len(ids) for row in inputs.rows for ids in row.values()) / len(inputs.rows)
    prompts = sum(len(row["prompt_ids"]) for row in inputs.rows) / len(inputs.rows)
    return 4 * count_linear_weights(inputs.model) * tokens + 4 * head * (tokens - prompts)


def count_linear_weights(model) -> int:
    """Weights of the layers' matrix products; two to a byte where they are packed."""
    import torch

    head = model.get_output_embeddings()
    linear = [m for m in model.modules() if isinstance(m, torch.nn.Linear) and m is not head]
    return sum(m.in_features * m.out_features for m in linear)


def measure_peak(device) -> float:
    """FLOP/s of a large bf16 matrix product on this device."""
    import torch

    size = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    seconds = []
    for _ in range(12):
        if device.type == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    del a, b
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    return 2 * size**3 / min(seconds)


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
