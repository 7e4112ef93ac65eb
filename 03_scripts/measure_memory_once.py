"""One combination of measure_memory.py: load, build the trainer, train, print a JSON line.

python 03_scripts/measure_memory_once.py '{"model": FOLDER, "shape": "llama-1b", ...}'
"""

import json
import sys
import tempfile
import time
from pathlib import Path

START = time.perf_counter()
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "02_src"))

from measure_shapes import make_rows

STEPS, TIMED_STEPS = 8, 30
MIB = 2**20


class Meter:
    """Reads the CUDA allocator; on a machine without CUDA every figure is left out."""

    def __init__(self) -> None:
        import torch

        self.cuda = torch.cuda.is_available()
        self.stages: dict[str, dict] = {}
        self.idle = self.read_device()

    def read_device(self) -> int | None:
        """Bytes in use on the whole device, this process's context included."""
        if not self.cuda:
            return None
        import pynvml

        pynvml.nvmlInit()
        used = pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByIndex(0)).used
        pynvml.nvmlShutdown()
        return used

    def note(self, stage: str) -> None:
        """Keep MiB allocated now, at the stage's peak, and reserved; start the next stage."""
        import torch

        found = {"at_s": round(time.perf_counter() - START, 2)}
        if self.cuda:
            torch.cuda.synchronize()
            used = self.read_device() - self.idle
            found |= {
                "now": round(torch.cuda.memory_allocated() / MIB, 1),
                "peak": round(torch.cuda.max_memory_allocated() / MIB, 1),
                "reserved": round(torch.cuda.memory_reserved() / MIB, 1),
                "peak_reserved": round(torch.cuda.max_memory_reserved() / MIB, 1),
                "device_used": round(used / MIB, 1),
            }
            torch.cuda.reset_peak_memory_stats()
        self.stages[stage] = found


def watch_captures(scorer, meter: Meter) -> None:
    """Note the memory after each recorded forward and backward."""
    for name in ("run_forward", "run_backward"):
        stock = getattr(scorer, name)

        def run(bucket, stock=stock, name=name):
            note_quietly(meter, f"{name}_before")
            stock(bucket)
            note_quietly(meter, name)

        setattr(scorer, name, run)


def note_quietly(meter: Meter, stage: str) -> None:
    """Allocated MiB now and at the peak, without a synchronisation: a capture forbids it."""
    import torch

    now, peak = torch.cuda.memory_allocated(), torch.cuda.max_memory_allocated()
    meter.stages[stage] = {"now": round(now / MIB, 1), "peak": round(peak / MIB, 1)}
    torch.cuda.reset_peak_memory_stats()


def make_step_meter(meter: Meter, steps: int):
    """A callback that notes the memory of the first steps and the seconds of the later ones."""
    import torch
    from transformers import TrainerCallback

    class StepMeter(TrainerCallback):
        """Memory after each of the first four steps; then times."""

        ends: list[float] = []

        def on_step_begin(self, args, state, control, **kwargs) -> None:
            trainer = self.trainer
            if meter.cuda and state.global_step == 1 and trainer.fast_obstacle is None:
                watch_captures(trainer.packed_scorer.graphed, meter)

        def on_step_end(self, args, state, control, **kwargs) -> None:
            if state.global_step <= 4 or state.global_step == steps:
                meter.note(f"step_{state.global_step}")
            if meter.cuda:
                torch.cuda.synchronize()
            self.ends.append(time.perf_counter())

    return StepMeter()


def build(job: dict, folder: str, meter: Meter):
    """The trainer of the combination, as train_dpo.py builds it."""
    from datasets import Dataset
    from transformers.trainer_utils import SaveStrategy

    from benchmark_inputs import make_tokenizer
    from config import Config
    from fast.trainer import PreferenceTrainer
    from hardware import find_device
    from qlora import build_lora_config, cast_adapter_to_fp32, keep_differentiable, load_base
    from trainer_setup import build_arguments

    steps = TIMED_STEPS if job["solo"] else STEPS
    config = Config(
        model_name=job["model"], load_in_4bit=job["nf4"], max_steps=steps, max_seq_length=2048,
        gradient_checkpointing=job["checkpointing"], per_device_train_batch_size=job["pairs"],
        output_dir=folder, **job.get("keys", {}),
    )  # fmt: skip
    meter.note("imports")
    device = find_device(config)
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
        train_dataset=Dataset.from_list(make_rows(job["pairs"], job["row"], 4)),
        processing_class=make_tokenizer(),
        peft_config=build_lora_config(config, model),
    )
    cast_adapter_to_fp32(trainer.model)
    meter.note("build_and_reference")
    return trainer, steps


def describe_run(trainer, meter: Meter, ends: list[float]) -> dict:
    """What else explains the figures: versions, attention kernel, buckets, step time."""
    import torch

    later = sorted(b - a for a, b in zip(ends[5:], ends[6:], strict=False))
    found = {
        "torch": torch.__version__,
        "obstacle": trainer.fast_obstacle,
        "step_ms": round(1000 * later[len(later) // 2], 2) if later else None,
    }
    if meter.cuda and trainer.fast_obstacle is None:
        scorer = trainer.packed_scorer.graphed
        stats = torch.cuda.memory_stats()
        found |= {
            "failure": scorer.failure,
            "buckets": [bucket.shape for bucket in scorer.buckets],
            "sdpa": choose_attention(trainer.model.config),
            "stats": {k: v for k, v in stats.items() if k.endswith(("all.current", "all.peak"))},
            "device": torch.cuda.get_device_name(),
            "idle_mib": round(meter.idle / MIB, 1),
        }
    return found


def choose_attention(config) -> int:
    """torch's number of the attention kernel it takes for packed rows of this model."""
    import torch

    options = {"device": "cuda", "dtype": torch.bfloat16}
    q = torch.zeros(2, config.num_attention_heads, 64, config.head_dim, **options)
    mask = torch.ones(2, 1, 64, 64, dtype=torch.bool, device="cuda")
    return int(torch._fused_sdp_choice(q.requires_grad_(), q, q, mask))


def main() -> int:
    """Train the combination given as JSON, print its figures."""
    from transformers.trainer_callback import PrinterCallback

    job = json.loads(sys.argv[1])
    meter = Meter()
    with tempfile.TemporaryDirectory() as folder:
        trainer, steps = build(job, folder, meter)
        trainer.remove_callback(PrinterCallback)
        callback = make_step_meter(meter, steps)
        callback.trainer = trainer
        trainer.add_callback(callback)
        trainer.train()
        found = describe_run(trainer, meter, callback.ends)
    print(json.dumps({"combination": job, "stages": meter.stages, **found}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
