"""The trainer whose checkpoints are whole or absent, and that stops before it spoils the weights.

A loss that is not a finite number stops the run before its gradient is used. A gradient that is
not stops it before the optimizer's step; on a GPU with a fused optimizer the step is left out on
the device and the stop comes one step later, since asking each time would make the host wait.
With the fp16 scaler a gradient may overflow: the scaler leaves the step out, and we say so.
"""

import math
import shutil
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm
from transformers.trainer import TRAINER_STATE_NAME

import processes
from checkpoints import list_checkpoints, prune_checkpoints
from config import show_path
from errors import UserError
from fast.trainer import PreferenceTrainer
from safe_files import publish_folder, write_manifest

SCRATCH = ".saving-checkpoint"
MOST_ROWS_NAMED = 8
SMALLEST_SCALE = 1.0  # of the fp16 scaler; below it, overflow is not the scale's fault


@dataclass
class OverflowCount:
    """What the fp16 scaler has left out."""

    steps: int = 0

    def describe(self, step: int, scale: float) -> str | None:
        """A line to say after a skipped step: at the first one, then at each power of two."""
        self.steps += 1
        if self.steps & (self.steps - 1):
            return None
        return (
            f"fp16 overflow at step {step}: the scaler left the step out and halved its scale to "
            f"{scale:g} ({self.steps} so far; a few at the start are normal)"
        )


class PendingNorm:
    """A step's gradient norm on its way to the host: read one step later, it waits for nothing.

    Asked of the device, it would come behind all that was launched since, a whole backward.
    """

    def __init__(self, step: int, norm: torch.Tensor, batches: list) -> None:
        self.step, self.batches = step, batches
        self.arrived = torch.cuda.Event() if norm.device.type == "cuda" else None
        self.value = norm.detach().to("cpu", non_blocking=self.arrived is not None)
        if self.arrived:
            self.arrived.record()

    def is_finite(self) -> bool:
        """Whether the norm was a finite number."""
        if self.arrived:
            self.arrived.synchronize()
        return math.isfinite(self.value.item())


class SafeTrainer(PreferenceTrainer):
    """PreferenceTrainer with checksummed checkpoints and a guard on loss and gradient."""

    def __init__(self, *, sources: list[str], **arguments: Any) -> None:
        """As PreferenceTrainer.

        Args:
            sources: file:line of each training row, in the data set's order.
        """
        self.sources = sources
        self._saving = False
        self._norm: PendingNorm | None = None  # of the last step, not looked at yet
        self._overflows = OverflowCount()
        super().__init__(**arguments)
        self._batches: deque = deque(maxlen=self.args.gradient_accumulation_steps)

    def train(self, *arguments: Any, **options: Any) -> Any:
        """Trainer's; bars are closed also where it fails, or the error would share their line."""
        try:
            return super().train(*arguments, **options)
        finally:
            for bar in list(tqdm._instances):
                bar.close()

    def _run_epoch(self, *arguments: Any, **options: Any) -> None:
        """Trainer's, which takes a step before it looks whether one is left.

        None is where a run was killed after its last checkpoint and before it was finished.
        """
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
        if not self.control.should_training_stop:
            super()._run_epoch(*arguments, **options)

    # Checkpoints

    def _get_output_dir(self, trial: Any) -> str:
        """Where Trainer writes a checkpoint: a scratch folder that is renamed once it is whole."""
        return str(Path(self.args.output_dir) / SCRATCH) if self._saving else self.args.output_dir

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """TRL writes its card at each checkpoint; ours is written once, with the adapter."""

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """Adapter and tokenizer as safetensors and JSON; no training_args.bin, a pickle."""
        if self.args.should_save:
            folder = output_dir or self.args.output_dir
            self.save_adapter(folder)
            self.processing_class.save_pretrained(folder)

    def save_adapter(self, folder: str | Path) -> None:
        """The adapter as safetensors.

        Of a sharded base no state is asked for: this process would give its gathered weights back
        and the others not, and their next exchange would not match.
        """
        adapter = {n: p.detach() for n, p in self.model.named_parameters() if p.requires_grad}
        state = adapter if processes.shards_base() else None
        self.model.save_pretrained(folder, state_dict=state, safe_serialization=True)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write a checkpoint beside the others, with checksums, and rename it."""
        self.check_last_norm()
        output = Path(self.args.output_dir)
        scratch = output / SCRATCH
        name = f"checkpoint-{self.state.global_step}"
        if self.args.should_save:
            shutil.rmtree(scratch, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        self._saving = True
        try:
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()
            self.point_to_best(output)
            if self.args.should_save:
                self.publish_checkpoint(scratch / name, output / name)
        finally:
            self._saving = False
            if self.args.should_save:
                shutil.rmtree(scratch, ignore_errors=True)
        self.accelerator.wait_for_everyone()

    def point_to_best(self, output: Path) -> None:
        """Name the best checkpoint as it is called once it is whole; in every process."""
        best = self.state.best_global_step
        if best is not None:
            self.state.best_model_checkpoint = str(output / f"checkpoint-{best}")

    def publish_checkpoint(self, scratch: Path, target: Path) -> None:
        """Checksums, rename, and no more checkpoints than the config wants."""
        if self.state.best_global_step is not None:
            self.state.save_to_json(str(scratch / TRAINER_STATE_NAME))
        write_manifest(scratch)
        publish_folder(scratch, target)
        kept = self.state.best_model_checkpoint
        prune_checkpoints(target.parent, self.args.save_total_limit, Path(kept) if kept else None)

    # Numbers

    def compute_loss(self, model: Any, inputs: dict[str, Any], *rest: Any, **options: Any) -> Any:
        """TRL's; a training loss that is not finite stops the run before its backward."""
        found = super().compute_loss(model, inputs, *rest, **options)
        if torch.is_grad_enabled() and self.model.training:
            self._batches.append((inputs["input_ids"], inputs["attention_mask"]))
            loss = found[0] if isinstance(found, tuple) else found
            if not math.isfinite(loss.item()):
                self.stop("loss", [self._batches[-1]])
        return found

    def _clip_grad_norm(self, model: torch.nn.Module) -> torch.Tensor:
        """Clip; a norm that is not finite stops the run."""
        norm = super()._clip_grad_norm(model)
        if self.args.fp16:  # the scaler looks for itself
            return norm
        self.check_last_norm()
        self._norm = PendingNorm(self.state.global_step, norm, list(self._batches))
        optimizer = getattr(self.optimizer, "optimizer", self.optimizer)
        if norm.device.type == "cuda" and optimizer.defaults.get("fused"):
            optimizer.found_inf = (~torch.isfinite(norm)).float()  # the kernel then skips
        else:
            self.check_last_norm()
        return norm

    def check_last_norm(self) -> None:
        """Stop when the last optimizer step had a gradient that is not finite."""
        last, self._norm = self._norm, None
        if last is not None and not last.is_finite():
            self.stop("gradient", last.batches, last.step)

    def _maybe_log_save_evaluate(self, *arguments: Any, **options: Any) -> None:
        """Trainer's, after a word about a step that the fp16 scaler left out."""
        if self.args.fp16 and self.accelerator.optimizer_step_was_skipped:
            self.note_overflow(self.accelerator.scaler.get_scale())
        super()._maybe_log_save_evaluate(*arguments, **options)

    def note_overflow(self, scale: float) -> None:
        """Say it; stop when no scale helps any more."""
        if scale < SMALLEST_SCALE:
            self.stop("gradient", list(self._batches))
        if line := self._overflows.describe(self.state.global_step, scale):
            tqdm.write(line)

    def stop(self, what: str, batches: list, step: int | None = None) -> None:
        """Raise UserError: which rows, where the last good checkpoint is, what helps."""
        step = self.state.global_step if step is None else step
        rows = [self.find_source(ids, mask) for batch in batches for ids, mask in read_rows(*batch)]
        named = ", ".join(dict.fromkeys(rows[:MOST_ROWS_NAMED]))
        more = f" and {len(rows) - MOST_ROWS_NAMED} more" if len(rows) > MOST_ROWS_NAMED else ""
        kept = list_checkpoints(Path(self.args.output_dir))
        where = (
            f"{show_path(kept[-1])} is whole, --resume goes on from it"
            if kept
            else "there is no checkpoint yet, start again with --overwrite"
        )
        raise UserError(
            f"the {what} is not a finite number at step {step + 1}, in the batch "
            f"of {named}{more}: stopped before the weights were spoilt; {where}; lower "
            f"learning_rate (now {self.args.learning_rate:g}), or look at those rows"
        )

    def find_source(self, ids: torch.Tensor, mask: torch.Tensor) -> str:
        """file:line of a batch's row, found by its tokens."""
        wanted = ids[mask.bool()].tolist()
        for index, row in enumerate(self.train_dataset):
            if (row["prompt_ids"] + row["chosen_ids"])[: len(wanted)] == wanted:
                return self.sources[index]
        return "an unknown row"


def read_rows(ids: torch.Tensor, mask: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """(token ids, mask) of each pair in a batch: TRL puts the chosen answers first."""
    count = len(ids) // 2
    return list(zip(ids[:count], mask[:count], strict=True))
