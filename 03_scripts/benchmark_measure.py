"""One measurement of benchmark.py: a variant trains on a workload; prints its figures as JSON.

echo JOB | python 03_scripts/benchmark_measure.py      JOB: the JSON object that benchmark.py makes
"""

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "02_src"))

from benchmark_inputs import Inputs, count_flops, find_workload, make_inputs, measure_peak

VARIANTS = {  # name: (what the table calls it, changes to DPOConfig, changes to SafeTrainer)
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


def make_trainer(job: dict, inputs: Inputs, folder: str):
    """TRL's trainer, or ours, over the same rows."""
    from datasets import Dataset
    from peft import LoraConfig
    from trl import DPOConfig, DPOTrainer

    from safe_trainer import SafeTrainer
    from trainable_weights import cast_adapter_to_fp32

    class StockTrainer(DPOTrainer):
        """DPOTrainer over token ids."""

        def _prepare_dataset(self, dataset, *_):
            return dataset

    ours = VARIANTS[job["variant"]][2]
    kwargs = {
        "model": inputs.model,
        "args": DPOConfig(**choose_arguments(job, folder)),
        "train_dataset": Dataset.from_list(inputs.rows),
        "processing_class": inputs.tokenizer,
        "peft_config": LoraConfig(
            r=inputs.rank, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"
        ),
    }
    if ours is None:
        return StockTrainer(**kwargs)
    cache = Path(folder) / "reference"
    sources = [f"row {number}" for number in range(len(inputs.rows))]
    trainer = SafeTrainer(
        sources=sources, fast_forward=True, reference_cache=cache, **ours, **kwargs
    )
    cast_adapter_to_fp32(trainer.model)
    return trainer


def choose_arguments(job: dict, folder: str) -> dict:
    """DPOConfig's arguments for a variant."""
    import torch

    _, changes, ours = VARIANTS[job["variant"]]
    workload = find_workload(job["workload"])
    arguments = {
        "output_dir": folder, "max_length": 8192, "max_steps": job["steps"], "report_to": "none",
        "per_device_train_batch_size": workload.batch,
        "gradient_accumulation_steps": workload.accumulation,
        "precompute_ref_batch_size": max(16, workload.batch),
        "learning_rate": 1e-4, "logging_steps": 5,
        "save_strategy": "no", "disable_tqdm": True, "seed": job["seed"],
        "bf16": not is_stock_on_cpu(job), "use_cpu": not torch.cuda.is_available(),
        "dataloader_pin_memory": torch.cuda.is_available(),
    }  # fmt: skip
    if ours is not None:
        arguments |= {
            "precompute_ref_batch_size": 64,
            "precompute_ref_log_probs": True,
            "logging_nan_inf_filter": False,
            "dataloader_pin_memory": False,
        }
    return {**arguments, **changes}


def is_stock_on_cpu(job: dict) -> bool:
    """TRL's defaults on a CPU are fp32; everything else measured here is bf16."""
    import torch

    return job["variant"] == "trl" and not torch.cuda.is_available()


def make_clock():
    """A callback that notes when each optimizer step was handed to the device, in `ends`."""
    import torch
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        """When each optimizer step was handed to the device, which is at most one behind."""

        ends: list[float] = []

        def on_step_end(self, *_, **__) -> None:
            if not self.ends and torch.cuda.is_available():
                torch.cuda.synchronize()
            self.ends.append(time.perf_counter())

    return Clock()


def measure(job: dict) -> dict:
    """Run one variant on one workload; returns its figures."""
    import torch

    inputs = make_inputs(job, torch.float32 if is_stock_on_cpu(job) else torch.bfloat16)
    peak = measure_peak(inputs.model.device)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(job, inputs, folder)
        ready = time.perf_counter()
        clock = make_clock()
        trainer.add_callback(clock)
        result = trainer.train()
    return {
        **job,
        **measure_rates(job, clock.ends[job["warmup"] :], inputs, peak),
        "setup_s": round(ready - start, 2),
        "first_step_s": round(clock.ends[0] - start, 2),
        "train_loss": round(result.training_loss, 4),
        "obstacle": getattr(trainer, "fast_obstacle", None),
        **measure_memory(),
        **count_buckets(trainer),
    }


def measure_rates(job: dict, ends: list[float], inputs: Inputs, peak: float) -> dict:
    """Rates after warm-up. Tokens: prompt once, both answers. `peak` in FLOP/s."""
    workload = find_workload(job["workload"])
    pairs = workload.batch * workload.accumulation
    seconds = [b - a for a, b in zip(ends, ends[1:], strict=False)]
    rate = pairs / statistics.median(seconds)
    tokens = sum(len(ids) for row in inputs.rows for ids in row.values()) / len(inputs.rows)
    return {
        "pairs_per_s": round(rate, 2),
        "mean_pairs_per_s": round(pairs / statistics.mean(seconds), 2),
        "tokens_per_pair": round(tokens, 1),
        "tokens_per_s": round(rate * tokens),
        "peak_tflops": round(peak / 1e12, 2),
        "share_of_peak": round(rate * count_flops(inputs) / peak, 3),
    }


def measure_memory() -> dict[str, float]:
    """Peak allocated and reserved GiB of this process; empty without a GPU."""
    import torch

    if not torch.cuda.is_available():
        return {}
    return {
        "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2),
        "reserved_gib": round(torch.cuda.max_memory_reserved() / 2**30, 2),
        "device": torch.cuda.get_device_name(),
    }


def count_buckets(trainer) -> dict:
    """How many graphs were captured, and why none if none."""
    graphed = getattr(getattr(trainer, "packed_scorer", None), "graphed", None)
    return {} if graphed is None else {"buckets": len(graphed.buckets), "failed": graphed.failure}


def main() -> None:
    """Import first: that is no part of a first step, and a job before this one still runs."""
    import trl.trainer.dpo_trainer  # noqa: F401

    import safe_trainer  # noqa: F401

    print(json.dumps(measure(json.loads(sys.stdin.readline()))))


if __name__ == "__main__":
    main()
