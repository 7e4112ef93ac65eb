"""Merge a random model of a given shape with a random adapter; print time, peak memory, figures.

    python 03_scripts/measure_merge.py                      # Llama-3.2-1B's shape, shards of 2 GB
    python 03_scripts/measure_merge.py --shape tiny --shard_bytes 100000

Nothing is trained: the question is what a merge costs and how far its strategies lie apart. The
adapter's update is --norm times the norm of the weight it changes. Prints one JSON line. Linux and
macOS (peak memory is the operating system's figure for the merging process).
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY / "02_src"))

from config import load_config, save_config, write_text
from errors import UserError, run_main

SHAPES = {
    "1b": {
        "vocab_size": 128256, "hidden_size": 2048, "intermediate_size": 8192,
        "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8,
        "head_dim": 64, "rope_theta": 500000.0,
    },
    "tiny": {
        "vocab_size": 49152, "hidden_size": 64, "intermediate_size": 128,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    },
}  # fmt: skip
EMBEDDED = "embedded:smollm2-135m-instruct"


def make_base(folder: Path, shape: str, shard_bytes: int) -> None:
    """Random bf16 weights with tied embeddings, the embedded model's tokenizer, sharded."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from base_models import fetch_embedded

    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    settings = LlamaConfig(**SHAPES[shape], tie_word_embeddings=True, rms_norm_eps=1e-5)
    model = LlamaForCausalLM(settings)
    torch.set_default_dtype(torch.float32)
    model.save_pretrained(folder, max_shard_size=shard_bytes)
    source = fetch_embedded(EMBEDDED.removeprefix("embedded:"))
    AutoTokenizer.from_pretrained(source, local_files_only=True).save_pretrained(folder)


def make_run(folder: Path, base: Path, norm: float) -> None:
    """A run folder as training leaves it, with a random adapter."""
    from base_models import load_tokenizer, resolve_model
    from merging.base_identity import write_identity
    from prompt_contract import apply_contract, write_contract

    given = {
        "model_name": str(base), "output_dir": str(folder), "merge_max_kl": 100.0,
        "merged_dir": str(folder.parent / "merged"), "device": "cpu", "merge_samples": 8,
        "max_new_tokens": 8,
        "test_files": {"seen": "01_data/dpo/mini/test_seen.jsonl",
                       "drift": "01_data/dpo/test_drift.jsonl"},
    }  # fmt: skip
    config = load_config("00_configs/quickstart.json", given)
    folder.mkdir()
    save_config(config, folder)
    tokenizer = load_tokenizer(resolve_model(config))
    apply_contract(tokenizer, config)
    tokenizer.save_pretrained(folder)
    write_contract(tokenizer, config, folder)
    write_identity(config, folder)
    write_text(folder / "README.md", "a random adapter\n")
    write_adapter(folder, base, config, norm)


def write_adapter(folder: Path, base: Path, config, norm: float) -> None:
    """LoRA matrices on every linear layer: scale * |B A| is `norm` times |W| in expectation."""
    import torch
    from peft import LoraConfig
    from safetensors.torch import save_file

    from merging.quantised_base import list_quantised_weights
    from merging.tensor_files import read_layout, read_tensor

    rank, scale = config.lora_r, config.lora_alpha / config.lora_r
    entries = {e.name: e for entries in read_layout(base).values() for e in entries}
    tensors = {}
    for name in sorted(list_quantised_weights(config, base)):
        rows, columns = entries[name].shape
        size = norm * read_tensor(entries[name]).float().norm().item() / scale
        down = torch.randn(rank, columns) / columns**0.5
        up = torch.randn(rows, rank) * size / (rows * rank) ** 0.5
        prefix = f"base_model.model.{name.removesuffix('.weight')}"
        tensors |= {f"{prefix}.lora_A.weight": down, f"{prefix}.lora_B.weight": up}
    save_file(tensors, folder / "adapter_model.safetensors")
    targets = sorted({name.split(".")[-2] for name in entries if ".self_attn" in name})
    LoraConfig(
        r=rank, lora_alpha=config.lora_alpha, task_type="CAUSAL_LM", bias="none",
        target_modules=[*targets, "gate_proj", "up_proj", "down_proj"], inference_mode=True,
    ).save_pretrained(folder)  # fmt: skip


def measure(run: Path) -> dict:
    """Merge in a process of its own; seconds, its peak memory in GiB, the report's figures."""
    started = time.monotonic()
    command = [sys.executable, str(REPOSITORY / "02_src" / "merge_lora.py"), "--run", str(run)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise UserError(f"the merge ended with {done.returncode}")
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss: bytes there, KiB on Linux
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit
    report = json.loads((run.parent / "merged" / run.name / "merge_report.json").read_text())
    figures = {
        name: {k: m[k] for k in ("mean_kl", "max_kl", "top1_agreement", "seconds", "bytes",
                                 "largest_logit_difference", "drift", "arithmetic_error")}
        for name, m in report["strategies"].items()
    }  # fmt: skip
    return {
        "seconds": round(time.monotonic() - started, 1),
        "peak_gib": round(peak / 2**30, 2),
        "strategy": report["strategy"],
        "strategies": figures,
    }


def main() -> int:
    """Build in a temporary folder, merge, print one JSON line."""
    parser = argparse.ArgumentParser(description="What merging a model of this shape costs.")
    parser.add_argument("--shape", choices=sorted(SHAPES), default="1b")
    parser.add_argument("--shard_bytes", type=int, default=2_000_000_000)
    parser.add_argument(
        "--norm", type=float, default=0.025, help="of the update, over the weight's"
    )
    parser.add_argument("--folder", help="where to build; default: the system's temporary folder")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as scratch:
        base, run = Path(scratch) / "base", Path(scratch) / "run"
        make_base(base, arguments.shape, arguments.shard_bytes)
        make_run(run, base, arguments.norm)
        shards = len(list(base.glob("*.safetensors")))
        print(json.dumps({"shape": arguments.shape, "shards": shards, **measure(run)}))
    return 0


if __name__ == "__main__":
    run_main(main)
