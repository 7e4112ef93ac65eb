"""Measure training speed: stock TRL against the fast forward, same model, data and seed.

    python 03_scripts/benchmark.py
    python 03_scripts/benchmark.py --model meta-llama/Llama-3.2-1B-Instruct --repeats 3
    python 03_scripts/benchmark.py --workloads short_8 --variants trl_best ours --json out.jsonl

Each measurement is a process of its own; variants take turns. Without --model, a model of
Llama-3.2-1B's shape with random weights is made. Rates are medians over steps after warm-up, then
over repeats. Time to first step counts from the loaded model, reference pass included.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "02_src"))

from benchmark_inputs import load_model, make_model, make_rows, make_tokenizer
from benchmark_table import make_table

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


def make_trainer(job: dict, model, rows: list[dict], folder: str):
    """TRL's trainer, or ours, over the same rows."""
    from datasets import Dataset
    from peft import LoraConfig
    from trl import DPOConfig, DPOTrainer

    from fast.trainer import PreferenceTrainer
    from qlora import cast_adapter_to_fp32

    class StockTrainer(DPOTrainer):
        """DPOTrainer over token ids."""

        def _prepare_dataset(self, dataset, *_):
            return dataset

    ours = VARIANTS[job["variant"]][2]
    kwargs = {
        "model": model,
        "args": DPOConfig(**choose_arguments(job, folder)),
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


def choose_arguments(job: dict, folder: str) -> dict:
    """DPOConfig's arguments for a variant."""
    import torch

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
    import trl.trainer.dpo_trainer  # noqa: F401  imports are not part of a first step

    import fast.trainer  # noqa: F401

    prompt, answer, batch, accumulation = WORKLOADS[job["workload"]]
    pairs = batch * accumulation
    rows = make_rows(prompt, answer, pairs * job["steps"], job["seed"])
    model = load_model(job["model"], torch.float32 if is_stock_on_cpu(job) else torch.bfloat16)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(job, model, rows, folder)
        ready = time.perf_counter()
        clock = make_clock()
        trainer.add_callback(clock)
        result = trainer.train()
    ends = clock.ends[job["warmup"] :]
    seconds = [b - a for a, b in zip(ends, ends[1:], strict=False)]
    tokens = sum(len(ids) for row in rows for ids in row.values()) / len(rows)
    rate = pairs / statistics.median(seconds)
    return {
        **job,
        "pairs_per_s": round(rate, 2),
        "mean_pairs_per_s": round(pairs / statistics.mean(seconds), 2),
        "tokens_per_s": round(rate * tokens),
        "setup_s": round(ready - start, 2),
        "first_step_s": round(clock.ends[0] - start, 2),
        "train_loss": round(result.training_loss, 4),
        "obstacle": getattr(trainer, "fast_obstacle", None),
        **measure_memory(),
        **count_buckets(trainer),
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


def run_job(job: dict) -> dict | None:
    """Measure in a fresh process; None (and the end of its output) when it fails."""
    command = [sys.executable, __file__, "--job", json.dumps(job)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"{job['workload']} {job['variant']} failed:\n{done.stderr[-1200:]}", flush=True)
        return None
    return json.loads(done.stdout.strip().splitlines()[-1])


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Training speed, stock TRL against ours.")
    parser.add_argument("--model", help="model folder or hub id; default: random 1B Llama")
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument(
        "--variants", nargs="+", choices=VARIANTS, default=["trl", "trl_best", "ours"]
    )
    parser.add_argument("--repeats", type=int, default=2, help="measurements of each")
    parser.add_argument("--steps", type=int, default=60, help="optimizer steps of a measurement")
    parser.add_argument("--warmup", type=int, default=30, help="steps left out at the start")
    parser.add_argument("--seed", type=int, default=42, help="of data and adapter")
    parser.add_argument("--json", help="append results to this JSON Lines file")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Measure everything asked for, print JSON lines, then the table."""
    arguments = parse_arguments()
    if arguments.job:
        print(json.dumps(measure(json.loads(arguments.job))))
        return
    with tempfile.TemporaryDirectory() as folder:
        model = arguments.model or make_model(Path(folder) / "model")
        results = []
        for _ in range(arguments.repeats):
            for workload in arguments.workloads:
                for variant in arguments.variants:
                    job = {"workload": workload, "variant": variant, "model": model}
                    job |= {key: getattr(arguments, key) for key in ("steps", "warmup", "seed")}
                    result = run_job(job)
                    if result:
                        print(json.dumps(result), flush=True)
                        results.append(result)
                        append_line(arguments.json, result)
    titles = {name: title for name, (title, _, _) in VARIANTS.items()}
    print(make_table(results, list(WORKLOADS), titles))


def append_line(file: str | None, result: dict) -> None:
    """One JSON line more in `file`."""
    if file:
        with open(file, "a", encoding="utf-8") as lines:
            lines.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
