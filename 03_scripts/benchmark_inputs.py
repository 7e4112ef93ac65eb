"""Models, tokenizer and pairs for benchmark.py and check_gpu.py; nothing is downloaded."""

import random
from pathlib import Path

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
