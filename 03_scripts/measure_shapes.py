"""Shapes, random models, combinations and pairs for measure_memory.py; nothing is downloaded."""

from collections.abc import Sequence
from pathlib import Path

from benchmark_inputs import LLAMA_1B

SMOLLM_360M = {
    "vocab_size": 49152, "hidden_size": 960, "intermediate_size": 2560, "num_hidden_layers": 32,
    "num_attention_heads": 15, "num_key_value_heads": 5, "head_dim": 64, "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True, "max_position_embeddings": 4096,
}  # fmt: skip
QWEN_TINY = {
    "vocab_size": 49_152, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32,
    "tie_word_embeddings": True,
}  # fmt: skip
LLAMA_TINY = {**QWEN_TINY, "num_hidden_layers": 3, "tie_word_embeddings": False}
SHAPES = {"llama-1b": ("llama", LLAMA_1B), "smollm-360m": ("llama", SMOLLM_360M)}
TINY_SHAPES = {"tiny-llama": ("llama", LLAMA_TINY), "tiny-qwen": ("qwen3", QWEN_TINY)}
ROWS = [  # (checkpointing, pairs, tokens of a row); what matters most comes first
    (False, 8, 128), (True, 8, 512), (False, 8, 512), (True, 32, 128), (False, 1, 512),
    (True, 8, 2048), (False, 32, 128), (True, 1, 128), (False, 1, 2048), (False, 1, 128),
    (True, 32, 512), (True, 32, 2048),
]  # fmt: skip
LARGE = (False, 8, 2048)  # over 20 GiB: not in every process at once
TINY_ROWS = [(False, 2, 64), (True, 2, 64)]
SMALL = [(True, 1, 64), (True, 8, 64)]  # with what a card of 2 GiB needs
SOLO = [(True, 8, 64), (False, 8, 64), (False, 8, 1024), (True, 8, 1024)]
WORKLOADS = {"short": (40, 12, 32), "long": (300, 280, 8)}  # prompt, answer tokens, pairs a step
SMALL_WORKSPACE = {"CUBLAS_WORKSPACE_CONFIG": ":4096:2:16:8"}


def make_job(shape: str, nf4: bool, row: tuple[bool, int, int], **more) -> dict:
    """One combination."""
    checkpointing, pairs, length = row
    job = {"shape": shape, "nf4": nf4, "checkpointing": checkpointing}
    return {**job, "pairs": pairs, "row": length, **more}


def list_queues(shapes: dict) -> list[list[dict]]:
    """Combinations by process: one for each shape and kind of weights."""
    tiny = shapes is TINY_SHAPES
    queues = [
        [make_job(shape, nf4, row) for row in (TINY_ROWS if tiny else ROWS)]
        for shape in shapes
        for nf4 in (True, False)
    ]
    if not tiny:
        for queue in (queues[0], queues[2]):
            queue.append(make_job(queue[0]["shape"], True, LARGE))
    return queues


def list_solo(shape: str) -> list[dict]:
    """What runs alone: NVML and step times; the smallest ones as on a small card."""
    tiny = shape in TINY_SHAPES
    if tiny:
        return [make_job(shape, True, TINY_ROWS[0], solo=True)]
    small = {"solo": True, "environment": SMALL_WORKSPACE, "optim": "adamw_8bit"}
    jobs = [make_job(shape, True, row, **small) for row in SMALL]
    return jobs + [make_job(shape, True, row, solo=True) for row in SOLO]


def list_caps(shape: str, tiny: bool, caps: Sequence[int]) -> list[dict]:
    """Runs with auto_fit under a cap on what torch may reserve, GiB."""
    return [
        {"shape": shape, "nf4": True, "cap_gib": cap, "workload": name}
        for cap in ((4,) if tiny else caps)
        for name in (("short",) if tiny else WORKLOADS)
    ]


def make_rows(pairs: int, row: int, batches: int) -> list[dict[str, list[int]]]:
    """Token ids of pairs that fill a row of `row` tokens exactly: half prompt, half answers."""
    answer = row // 4
    prompt = row - 2 * answer + 1
    return [
        {
            "prompt_ids": [10 + (i + k) % 9000 for k in range(prompt)],
            "chosen_ids": [20 + (i + k) % 9000 for k in range(answer)],
            "rejected_ids": [30 + (i + k) % 9000 for k in range(answer)],
        }
        for i in range(pairs * batches)
    ]


def make_model(name: str, folder: Path) -> None:
    """Save a random bf16 model of a named shape."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    kind, values = (SHAPES | TINY_SHAPES)[name]
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        config = AutoConfig.for_model(kind, **values)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    del model
    torch.cuda.empty_cache()
