"""Check CUDA graphs against eager training on this machine's GPU. Needs a CUDA device.

    python 03_scripts/check_gpu.py
    python 03_scripts/check_gpu.py --model meta-llama/Llama-3.2-1B-Instruct

Prints a JSON line for each check and exits with 1 when one fails. On a machine without CUDA it
checks nothing, says so, and exits with 2.
"""

import argparse
import json
import random
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "02_src"))

import benchmark_inputs
import torch

TINY = {
    "vocab_size": 12_000, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4,
    "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 32,
}  # fmt: skip
CHECKPOINTING = {
    "gradient_checkpointing": True,
    "gradient_checkpointing_kwargs": {"use_reentrant": False, "preserve_rng_state": False},
}


def make_tiny_model():
    """A random fp32 Llama on the GPU, not quantised; the same at each call."""
    from transformers import AutoModelForCausalLM, LlamaConfig

    torch.manual_seed(0)
    with torch.device("cuda"):
        model = AutoModelForCausalLM.from_config(LlamaConfig(**TINY), attn_implementation="sdpa")
    return model.requires_grad_(False)


def make_rehearsal():
    """Random blocks, two of them in each micro-step."""
    from fast.rehearsal import BLOCK, Rehearsal

    draw = torch.Generator().manual_seed(9)
    return Rehearsal(torch.randint(1, 10_000, (12, BLOCK), generator=draw), 1.0, 2)


def make_trainer(model, rows: list[dict], folder: str, graphs: bool, **options):
    """Our trainer over token ids: sigmoid, SFT and rehearsal, a loss logged at every step."""
    from datasets import Dataset
    from peft import LoraConfig
    from trl import DPOConfig

    from fast.trainer import PreferenceTrainer
    from trainable_weights import cast_adapter_to_fp32

    arguments = {
        "output_dir": folder, "max_length": 2048, "precompute_ref_log_probs": True,
        "per_device_train_batch_size": 8, "learning_rate": 1e-3, "logging_steps": 1,
        "save_strategy": "no", "report_to": "none", "disable_tqdm": True, "seed": 1,
        "gradient_checkpointing": False, "loss_type": ["sigmoid", "sft"],
        "logging_nan_inf_filter": False, "bf16": True, **options,
    }  # fmt: skip
    torch.manual_seed(2)
    trainer = PreferenceTrainer(
        fast_forward=True,
        cuda_graphs=graphs,
        rehearsal=make_rehearsal(),
        reference_cache=Path(folder) / "reference",
        model=model,
        args=DPOConfig(**arguments),
        train_dataset=Dataset.from_list(rows),
        processing_class=benchmark_inputs.make_tokenizer(),
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear"),
    )
    cast_adapter_to_fp32(trainer.model)
    return trainer


def read_losses(trainer) -> list[float]:
    """The logged losses."""
    return [float(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]


def check_run(model_path: str, folder: str) -> dict:
    """60 steps in 4 bit: graph and eager losses."""
    rows = benchmark_inputs.make_rows(40, 12, 60 * 8, 3, benchmark_inputs.HEADER)
    losses = []
    for graphs in (False, True):
        model = benchmark_inputs.load_model(model_path, torch.bfloat16)
        trainer = make_trainer(model, rows, folder, graphs, max_steps=60, learning_rate=1e-4)
        trainer.train()
        losses.append(read_losses(trainer))
    scorer = trainer.packed_scorer.graphed
    gaps = [abs(a - b) for a, b in zip(*losses, strict=True)]
    mean_gap = abs(sum(losses[0]) - sum(losses[1])) / len(gaps)
    return {
        "check": "60 steps, graph against eager",
        "largest_gap": max(gaps),
        "mean_gap": mean_gap,
        "buckets": len(scorer.buckets),
        "failure": scorer.failure,
        "passed": max(gaps) <= 2e-2 and mean_gap <= 5e-3 and bool(scorer.buckets),
    }


def collect_gradients(trainer, batches: list[list[int]]) -> dict[str, torch.Tensor]:
    """Gradients summed over batches of row indices."""
    trainer.model.train()
    trainer.model.zero_grad()
    for indices in batches:
        batch = trainer.collate([trainer.train_dataset[i] for i in indices], training=True)
        trainer.compute_loss(trainer.model, batch).backward()
    named = trainer.model.named_parameters()
    return {name: p.grad.clone() for name, p in named if p.requires_grad}


def check_gradients(folder: str, **options) -> dict:
    """fp32: gradients accumulated over a mix of eager, captured and replayed batches."""
    rows = benchmark_inputs.make_rows(40, 12, 16, seed=4) + benchmark_inputs.make_rows(
        150, 60, 16, seed=5
    )
    draw = random.Random(6)
    first = [list(range(8)), list(range(8, 16))]
    later = [draw.sample(range(32), size) for size in (8, 8, 4, 8, 4)]
    found, buckets = [], []
    for graphs in (False, True):
        trainer = make_trainer(make_tiny_model(), rows, folder, graphs, bf16=False, **options)
        for name, parameter in trainer.model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.constant_(parameter, 0.01)
        if options:  # train() would switch it on
            trainer.model.gradient_checkpointing_enable(options["gradient_checkpointing_kwargs"])
        steps = []
        for batches in (first, first, later + later):
            steps.append(collect_gradients(trainer, batches))
            if graphs:
                buckets.append(len(trainer.packed_scorer.graphed.buckets))
        found.append(steps)
    worst = max(
        ((graph[name] - eager[name]).norm() / eager[name].norm().clamp(min=1e-12)).item()
        for eager, graph in zip(*found, strict=True)
        for name in eager
    )
    return {
        "check": f"fp32 gradients, graph against eager {'with checkpointing' if options else ''}",
        "worst_relative": worst,
        "buckets_after_each_step": buckets,
        "failure": trainer.packed_scorer.graphed.failure,
        "passed": worst <= 1e-4 and 0 < buckets[1] < buckets[2],
    }


def check_trees(folder: str) -> dict:
    """fp32: gradients through the kernels that know the tree, and through masks."""
    rows = benchmark_inputs.make_rows(40, 12, 16, 10) + benchmark_inputs.make_rows(150, 60, 16, 11)
    found, used = [], []
    for without in (False, True):
        hidden = mock.patch("fast.fuse.fuse_attention", lambda model: [])
        with hidden if without else nullcontext():
            trainer = make_trainer(make_tiny_model(), rows, folder, False, bf16=False)
        for name, parameter in trainer.model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.constant_(parameter, 0.01)
        used.append(getattr(trainer.model.get_base_model(), "attends_trees", False))
        found.append(collect_gradients(trainer, [list(range(16)), list(range(16, 32))]))
    trees, masks = found
    gaps = [(trees[name] - g).norm() / g.norm().clamp(min=1e-12) for name, g in masks.items()]
    worst = max(gaps).item()
    return {
        "check": "fp32 gradients, kernels of token trees against masks",
        "worst_relative": worst,
        "kernels_used": used,
        "passed": worst <= 1e-4 and used == [True, False],
    }


def check_memory(folder: str) -> dict:
    """500 steps over 20 batches: memory after 250 and after 500."""
    from transformers import TrainerCallback

    class Meter(TrainerCallback):
        """Allocated MiB at two steps."""

        found: list[float] = []

        def on_step_end(self, args, state, control, **kwargs) -> None:
            if state.global_step in (250, 500):
                self.found.append(torch.cuda.memory_allocated() / 2**20)

    rows = benchmark_inputs.make_rows(40, 12, 160, seed=7)
    trainer = make_trainer(make_tiny_model(), rows, folder, True, max_steps=500)
    meter = Meter()
    trainer.add_callback(meter)
    trainer.train()
    middle, end = meter.found
    return {
        "check": "memory over 500 steps",
        "mib_at_250": middle,
        "mib_at_500": end,
        "buckets": len(trainer.packed_scorer.graphed.buckets),
        "passed": end - middle < 1.0,
    }


def check_resume(folder: str) -> dict:
    """20 steps at once, and stopped after 10 and resumed: the last losses agree."""
    rows = benchmark_inputs.make_rows(40, 12, 160, seed=8)
    options = {"max_steps": 20, "save_strategy": "steps", "save_steps": 10}
    whole = make_trainer(make_tiny_model(), rows, folder, True, **options)
    whole.train()
    again = make_trainer(make_tiny_model(), rows, folder, True, **options)
    again.train(resume_from_checkpoint=str(Path(folder) / "checkpoint-10"))
    last = zip(read_losses(whole)[-10:], read_losses(again)[-10:], strict=True)
    gap = max(abs(a - b) for a, b in last)
    return {"check": "resume at step 10 of 20", "largest_gap": gap, "passed": gap <= 2e-2}


def main() -> int:
    """Run all checks."""
    parser = argparse.ArgumentParser(description="CUDA graphs against eager training.")
    parser.add_argument("--model", help="model folder or hub id; default: random 1B Llama")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("no CUDA device: nothing was checked")
        return 2
    passed = True
    with tempfile.TemporaryDirectory() as folder:
        model = arguments.model or benchmark_inputs.make_model(Path(folder) / "model")
        for run in (
            lambda: check_gradients(folder + "/a"),
            lambda: check_gradients(folder + "/b", **CHECKPOINTING),
            lambda: check_trees(folder + "/f"),
            lambda: check_resume(folder + "/c"),
            lambda: check_memory(folder + "/d"),
            lambda: check_run(model, folder + "/e"),
        ):
            result = run()
            print(json.dumps(result), flush=True)
            passed = passed and result["passed"]
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
