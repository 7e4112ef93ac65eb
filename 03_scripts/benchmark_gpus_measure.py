"""One measurement of benchmark_gpus.py, in one of its processes; the main one prints JSON.

python 03_scripts/benchmark_gpus_measure.py JOB      JOB: the JSON object that benchmark_gpus makes
"""

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "02_src"))

from benchmark_inputs import HEADER, LLAMA_1B, find_workload, make_rows, make_tokenizer
from benchmark_measure import make_clock, measure_memory

import processes

SHAPES = {
    "1b": LLAMA_1B,
    "8b": {**LLAMA_1B, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
           "head_dim": 128, "tie_word_embeddings": False},
    "tiny": {**LLAMA_1B, "vocab_size": 12000, "hidden_size": 64, "intermediate_size": 128,
             "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
             "head_dim": 16},
}  # fmt: skip


def build_model(shape: dict, device: str, sharded: bool):
    """A random model in 4 bit, frozen, made where it is used; for FSDP it ends in system memory."""
    import bitsandbytes
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(
            LlamaConfig(**shape), dtype=torch.bfloat16, attn_implementation="sdpa"
        )
    storage = torch.bfloat16 if sharded else torch.uint8
    head = model.get_output_embeddings()
    for name, linear in list(model.named_modules()):
        if not isinstance(linear, torch.nn.Linear) or linear is head:
            continue
        packed = bitsandbytes.nn.Linear4bit(
            linear.in_features, linear.out_features, bias=False, compute_dtype=torch.bfloat16,
            compress_statistics=True, quant_type="nf4", quant_storage=storage, device="meta",
        )  # fmt: skip
        packed.weight = bitsandbytes.nn.Params4bit(
            linear.weight.data, requires_grad=False, compress_statistics=True, quant_type="nf4",
            quant_storage=storage, module=packed,
        ).to(device)  # fmt: skip
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, packed)
    del linear
    model.is_loaded_in_4bit = True
    return (model.cpu() if sharded else model).requires_grad_(False)


def make_trainer(job: dict, model, folder: str):
    """Our trainer over random pairs; `batch` is for each process."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from trl import DPOConfig

    from fast.trainer import PreferenceTrainer
    from qlora import keep_differentiable
    from trainable_weights import cast_adapter_to_fp32

    keep_differentiable(model)
    workload = find_workload(job["workload"])
    rows = job["batch"] * processes.count() * job["steps"]
    cpu = not torch.cuda.is_available()
    trainer = PreferenceTrainer(
        fast_forward=job["fast"],
        reference_cache=Path(folder) / "reference",
        model=model,
        args=DPOConfig(
            output_dir=folder, max_length=8192, max_steps=job["steps"], report_to="none",
            per_device_train_batch_size=job["batch"], gradient_accumulation_steps=1,
            precompute_ref_log_probs=not job["sharded"], precompute_ref_batch_size=64,
            learning_rate=1e-4, logging_steps=5, save_strategy="no", disable_tqdm=True,
            bf16=True, use_cpu=cpu, dataloader_pin_memory=not cpu, logging_nan_inf_filter=False,
            gradient_checkpointing=False,
        ),
        train_dataset=Dataset.from_list(
            make_rows(workload.prompt, workload.answer, rows, seed=42, header=HEADER)
        ),
        processing_class=make_tokenizer(),
        peft_config=LoraConfig(
            r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"
        ),
    )  # fmt: skip
    cast_adapter_to_fp32(trainer.model)
    return trainer


def measure(job: dict) -> dict:
    """Train; the figures of this process, and the largest peak of all."""
    import torch

    kind = "cuda" if torch.cuda.is_available() else "cpu"
    processes.join(kind)
    device = f"cuda:{processes.local_rank()}" if kind == "cuda" else "cpu"
    start = time.perf_counter()
    model = build_model(SHAPES[job["model"]], device, job["sharded"])
    built = time.perf_counter()
    if kind == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(job, model, folder)
        clock = make_clock()
        trainer.add_callback(clock)
        result = trainer.train()
    ends = clock.ends[job["warmup"] :]
    seconds = [b - a for a, b in zip(ends, ends[1:], strict=False)]
    pairs = job["batch"] * processes.count()
    memory = processes.gather(measure_memory())
    graphed = getattr(getattr(trainer, "packed_scorer", None), "graphed", None)
    return {
        **job,
        "pairs_per_s": round(pairs / statistics.median(seconds), 2),
        "mean_pairs_per_s": round(pairs / statistics.mean(seconds), 2),
        "build_s": round(built - start, 1),
        "all_s": round(time.perf_counter() - start, 1),
        "train_loss": round(result.training_loss, 4),
        "obstacle": trainer.fast_obstacle,
        "graphs": graphed and {"buckets": len(graphed.buckets), "failed": graphed.failure},
        **max(memory, key=lambda own: own.get("peak_gib", 0)),
    }


def main() -> None:
    """Measure; only the main process prints."""
    processes.silence_others()
    print(json.dumps(measure(json.loads(sys.argv[1]))))
    processes.leave()


if __name__ == "__main__":
    main()
