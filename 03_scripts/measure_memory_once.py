"""Combinations of measure_memory.py, one after another: load, train, print a JSON line each.

python 03_scripts/measure_memory_once.py '[{"model": FOLDER, "cache": FOLDER, ...}]'
"""

import gc
import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "02_src"))

from measure_meter import Meter, make_step_meter, read_device
from measure_shapes import WORKLOADS, make_rows

STEPS, TIMED_STEPS, CAPPED_STEPS = 4, 30, 40
LEFTOVER_MIB = 8  # of the combination before; a new process is started beyond that


def make_config(job: dict, folder: str):
    """The config of a combination; a run under a cap leaves the setting to auto_fit."""
    from config import Config

    common = {
        "model_name": job["model"], "load_in_4bit": job["nf4"], "output_dir": folder,
        "logging_dir": folder, "max_steps": choose_steps(job), "max_seq_length": 2048,
        "optim": job.get("optim", "adamw_torch_fused"),
    }  # fmt: skip
    if "cap_gib" in job:
        return Config(
            **common, memory_budget_gib=float(job["cap_gib"]), auto_fit=True,
            per_device_train_batch_size=WORKLOADS[job["workload"]][2],
        )  # fmt: skip
    return Config(
        **common, gradient_checkpointing=job["checkpointing"],
        per_device_train_batch_size=job["pairs"],
    )  # fmt: skip


def choose_steps(job: dict) -> int:
    """Optimizer steps of a combination."""
    return CAPPED_STEPS if "cap_gib" in job else TIMED_STEPS if job.get("solo") else STEPS


def list_rows(job: dict) -> list[dict]:
    """The combination's pairs."""
    if "cap_gib" not in job:
        return make_rows(job["pairs"], job["row"], 2)
    from benchmark_inputs import make_rows as make_random_rows

    prompt, answer, pairs = WORKLOADS[job["workload"]]
    return make_random_rows(prompt, answer, pairs * 10, seed=0)


def build(job: dict, config, device, folder: str, meter: Meter):
    """The trainer of the combination, as train_dpo.py builds it."""
    from benchmark_inputs import make_tokenizer
    from datasets import Dataset
    from transformers.trainer_callback import PrinterCallback
    from transformers.trainer_utils import SaveStrategy

    from fast.trainer import PreferenceTrainer
    from qlora import build_lora_config, keep_differentiable, load_base
    from trainable_weights import cast_adapter_to_fp32
    from trainer_setup import build_arguments

    model = load_base(config, device)
    keep_differentiable(model)
    meter.note("load")
    arguments = build_arguments(config, device, validates=False)
    arguments.save_strategy = SaveStrategy.NO
    trainer = PreferenceTrainer(
        fast_forward=True,
        cuda_graphs=True,
        reference_cache=Path(folder) / "reference",
        model=model,
        args=arguments,
        train_dataset=Dataset.from_list(list_rows(job)),
        processing_class=make_tokenizer(),
        peft_config=build_lora_config(config, model),
    )
    cast_adapter_to_fp32(trainer.model)
    trainer.remove_callback(PrinterCallback)
    meter.note("build_and_reference")
    return trainer


def predict(job: dict, config, device) -> tuple:
    """(plan, config to run): the plan of the combination, or the one auto_fit takes."""
    from memory.plan import plan_memory
    from memory.search import fit_plan
    from memory.shape import read_shape
    from memory.speed import measure_rates
    from memory_plan import measure_lengths
    from qlora import choose_precision

    shape, lengths = read_shape(config), measure_lengths(list_rows(job))
    alone = job.get("solo") or "cap_gib" in job
    rates = measure_rates(device.kind, choose_precision(config, device).base) if alone else None
    if "cap_gib" not in job:
        return plan_memory(config, device, shape, lengths, rates), config
    plan = fit_plan(config, device, shape, lengths, rates)
    return plan, plan.apply(config)


def measure(job: dict, idle: float) -> dict:
    """Run one combination."""
    import torch

    import base_cache
    from hardware import GIB, find_device

    base_cache.CACHE_FOLDER = Path(job["cache"]) / "quantised"
    with tempfile.TemporaryDirectory() as folder:
        config = make_config(job, folder)
        device = find_device(config)
        plan, config = predict(job, config, device)
        meter = Meter(idle)
        if "cap_gib" in job and meter.cuda:
            share = job["cap_gib"] * GIB / device.total_bytes
            torch.cuda.set_per_process_memory_fraction(share)
        trainer = build(job, config, device, folder, meter)
        callback = make_step_meter(meter, choose_steps(job), trainer)
        trainer.add_callback(callback)
        trainer.train()
        found = meter.describe(trainer, callback.ends)
        del trainer, callback
    shown = {k: v for k, v in job.items() if k not in ("model", "cache")}
    return {"combination": shown, **describe_plan(plan), **found, "stages": meter.stages}


def describe_plan(plan) -> dict:
    """The prediction, in MiB."""
    mib = 2**20
    return {
        "setting": plan.describe().partition(":")[0],
        "predicted_mib": round(plan.peak / mib, 1),
        "predicted_process_mib": round(plan.process / mib, 1),
        "predicted_step_ms": round(1000 * plan.step_seconds, 2) if plan.step_seconds else None,
        "parts_mib": {name: round(size / mib, 1) for name, size in plan.parts.items()},
        "largest_step": [plan.step.rows, plan.step.width, plan.step.count],
    }


def free_all() -> float:
    """Drop the last combination; MiB that stay allocated."""
    import torch

    gc.collect()
    if not torch.cuda.is_available():
        return 0.0
    torch._C._cuda_clearCublasWorkspaces()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated() / 2**20


def main() -> int:
    """Measure the jobs given as a JSON list; stops early when memory is not given back."""
    idle = read_device()
    for job in json.loads(sys.argv[1]):
        print(json.dumps(measure(job, idle)), flush=True)
        if free_all() > LEFTOVER_MIB:
            break
    return 0


if __name__ == "__main__":
    sys.exit(main())
