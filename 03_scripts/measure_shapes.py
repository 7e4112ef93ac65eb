"""Shapes and random models for measure_memory.py; nothing is downloaded."""

from pathlib import Path

from benchmark_inputs import LLAMA_1B

SMOLLM_360M = {
    "vocab_size": 49152, "hidden_size": 960, "intermediate_size": 2560, "num_hidden_layers": 32,
    "num_attention_heads": 15, "num_key_value_heads": 5, "head_dim": 64, "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True, "max_position_embeddings": 4096,
}  # fmt: skip
QWEN_TINY = {
    "vocab_size": 11_000, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32,
    "tie_word_embeddings": True,
}  # fmt: skip
LLAMA_TINY = {**QWEN_TINY, "num_hidden_layers": 3, "tie_word_embeddings": False}
SHAPES = {"llama-1b": ("llama", LLAMA_1B), "smollm-360m": ("llama", SMOLLM_360M)}
TINY_SHAPES = {"tiny-llama": ("llama", LLAMA_TINY), "tiny-qwen": ("qwen3", QWEN_TINY)}


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
