"""DPOTrainer in several processes, without DistributedDataParallel around the model.

DDP's hooks run inside the backward and keep CUDA graphs from being captured. Here each process
captures and runs its own model; where Trainer clips the gradient, once per optimizer step, the
adapter's gradients are averaged first. TRL's loss code is unchanged: its loss weights are set for
each micro-batch so that a step's loss is the mean over all its pairs (sft: over all tokens of the
better answers), as if one process had taken the whole batch at once. TRL gathers its metrics from
all processes at every micro-batch; here they stay local until they are logged.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader, SequentialSampler
from trl import DPOTrainer

import processes
from fast import gradients
from fast.columns import measure_pairs
from fast.shares import Counts, StepBatches, count_pairs, share_loader

# What TRL takes the mean of each metric over; the others: pairs.
MEAN_OVER = {
    "entropy": "tokens",
    "mean_token_accuracy": "chosen",
    "logits/chosen": "chosen",
    "logits/rejected": "rejected",
}


class ParallelTrainer(DPOTrainer):
    """DPOTrainer whose processes share pairs, gradients and metrics."""

    def __init__(self, **arguments: Any) -> None:
        self._counted: dict[str, list[Counts]] = {"train": [], "eval": []}
        self._eval_losses: list[tuple[float, int]] = []  # of each batch: loss, pairs
        self._trainable: list[torch.nn.Parameter] = []  # kept where looking for them costs time
        super().__init__(**arguments)

    # Pairs

    def get_train_dataloader(self) -> DataLoader:
        """Trainer's; in several processes each gets its part of the pairs of every step."""
        loader = super().get_train_dataloader()
        if processes.count() == 1:
            return loader
        order = loader.batch_sampler.batch_sampler.sampler
        steps = self.args.gradient_accumulation_steps
        return self.share(loader, order, self.args.train_batch_size, steps)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        """Trainer's; in several processes each gets its part of the pairs."""
        loader = super().get_eval_dataloader(eval_dataset)
        if processes.count() == 1:
            return loader
        order = SequentialSampler(loader.dataset)
        return self.share(loader, order, self.args.eval_batch_size, 1, balanced=False)

    def share(
        self, loader: DataLoader, order: Any, batch: int, steps: int, balanced: bool = True
    ) -> DataLoader:
        """This process's part of a loader."""
        lengths, who = measure_pairs(loader.dataset), (processes.rank(), processes.count())
        return share_loader(loader, StepBatches(order, lengths, batch, steps, *who, balanced))

    def get_batch_samples(self, *arguments: Any) -> tuple[list, Any]:
        """Trainer's: the micro-batches of a step; each learns what it counts for in the step."""
        batches, items = super().get_batch_samples(*arguments)
        if processes.count() == 1:
            return batches, items
        counts = [count_pairs(batch) for batch in batches]
        kinds = ("pairs", "chosen")
        totals = processes.add([float(sum(c[kind] for c in counts)) for kind in kinds])
        # Trainer divides by the micro-steps, average_gradients by the processes.
        whole = len(batches) * processes.count()
        for batch, count in zip(batches, counts, strict=True):
            batch["shares"] = tuple(
                whole * count[kind] / total for kind, total in zip(kinds, totals, strict=True)
            )
        return batches, items

    # Loss and metrics

    def compute_loss(self, model: Any, inputs: dict[str, Any], *rest: Any, **options: Any) -> Any:
        """TRL's; in several processes weighted by this micro-batch's share of the step."""
        if processes.count() == 1:
            with kept_local(self.accelerator):
                return super().compute_loss(model, inputs, *rest, **options)
        counts, shares = count_pairs(inputs), inputs.pop("shares", None)
        inputs.pop("pairs", None)
        configured, tokens = self.loss_weights, self._total_train_tokens
        if shares is not None:
            self.loss_weights = [
                weight * shares[name == "sft"]
                for name, weight in zip(self.loss_types, configured, strict=True)
            ]
        try:
            with kept_local(self.accelerator), self.autocast():
                found = super().compute_loss(model, inputs, *rest, **options)
        finally:
            self.loss_weights = configured
        self._total_train_tokens = self._total_train_tokens if counts["pairs"] else tokens
        if self.model.training:
            self._counted["train"].append(counts)
        else:  # one process weighs all its batches alike
            self._counted["eval"].append({kind: int(n > 0) for kind, n in counts.items()})
            self._eval_losses.append((found.item(), counts["pairs"]))
        return found

    def autocast(self) -> AbstractContextManager:
        """Autocast where accelerate has not put it around the model: with a sharded base."""
        return self.accelerator.autocast() if self.is_fsdp_enabled else nullcontext()

    def evaluation_loop(self, *arguments: Any, **options: Any) -> Any:
        """Trainer's; the loss is the mean over all processes' pairs."""
        if processes.count() == 1:
            return super().evaluation_loop(*arguments, **options)
        self.gather_function = keep_local
        self._eval_losses.clear()
        output = super().evaluation_loop(*arguments, **options)
        total, pairs = processes.add(
            [sum(loss * n for loss, n in self._eval_losses), sum(n for _, n in self._eval_losses)]
        )
        output.metrics[f"{options.get('metric_key_prefix', 'eval')}_loss"] = total / pairs
        return output

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """TRL's, over the metrics of all processes."""
        mode = "train" if self.model.training else "eval"
        if processes.count() > 1:
            if "num_tokens" in self._metrics[mode]:
                self._metrics[mode]["num_tokens"] = [self._total_train_tokens]
            self._metrics[mode] = combine_metrics(self._metrics[mode], self._counted[mode])
            self._counted[mode].clear()
        super().log(logs, start_time)

    # Gradients

    def train(self, *arguments: Any, **options: Any) -> Any:
        """Trainer's; accelerate gets a model that it has prepared already, and leaves it alone."""
        if processes.count() > 1:
            gradients.spread_weights(self.list_trainable())
            if self.is_fsdp_enabled:
                # It would round log-probs to 16 bit. The base has its dtype, autocast the rest.
                self.accelerator.state.fsdp_plugin.mixed_precision_policy = None
            else:
                self.accelerator.prepare_model(self.model, evaluation_mode=True)
        return super().train(*arguments, **options)

    def _clip_grad_norm(self, model: torch.nn.Module) -> torch.Tensor:
        """Average the gradients over the processes, then clip; the norm before clipping.

        Where training parameters are known, others are not looked at.
        """
        self.average_gradients()
        if not self._trainable:
            return super()._clip_grad_norm(model)
        flat = gradients.find_flat_gradient(self._trainable)
        if flat is not None and not self.args.fp16:  # the scaler unscales each
            return gradients.clip_flat(flat, self.args.max_grad_norm)
        return self.accelerator.clip_grad_norm_(self._trainable, self.args.max_grad_norm)

    def average_gradients(self) -> None:
        """The mean gradient of all processes; once per optimizer step."""
        if processes.count() > 1:
            gradients.average_gradients(self._trainable or self.list_trainable())

    # Checkpoints: a sharded base (FSDP) is not saved, and the adapter is whole in each process

    @contextmanager
    def as_unsharded(self) -> Iterator[None]:
        """Trainer saves and loads the adapter and its optimizer as without FSDP."""
        sharded, self.is_fsdp_enabled = self.is_fsdp_enabled, False
        try:
            yield
        finally:
            self.is_fsdp_enabled = sharded

    def save_model(self, *arguments: Any, **options: Any) -> None:
        """Trainer's."""
        with self.as_unsharded():
            super().save_model(*arguments, **options)

    def _save_optimizer_and_scheduler(self, *arguments: Any) -> None:
        with self.as_unsharded():
            super()._save_optimizer_and_scheduler(*arguments)

    def _load_optimizer_and_scheduler(self, *arguments: Any) -> None:
        with self.as_unsharded():
            super()._load_optimizer_and_scheduler(*arguments)

    def _load_best_model(self) -> None:
        with self.as_unsharded():
            super()._load_best_model()

    def list_trainable(self) -> list[torch.nn.Parameter]:
        """The adapter's parameters: the same tensors in all processes, also of a sharded base."""
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]


def keep_local(value: Any) -> Any:
    """What gathers nothing."""
    return value


@contextmanager
def kept_local(accelerator: Accelerator) -> Iterator[None]:
    """Let TRL's thirteen gathers of a micro-batch return this process's own values.

    For one process accelerate returns the same, after looking for others each time: a fifth of
    what the host computes while a GPU waits for the loss.
    """
    accelerator.gather = accelerator.gather_for_metrics = keep_local
    try:
        yield
    finally:
        del accelerator.gather, accelerator.gather_for_metrics


def combine_metrics(
    metrics: dict[str, list[float]], counted: Sequence[Counts]
) -> defaultdict[str, list[float]]:
    """Means over the micro-batches of all processes, each weighted by what it is a mean over."""
    sums: dict[str, tuple[float, float]] = {}
    for name, values in metrics.items():
        kind = MEAN_OVER.get(name, "pairs")
        weights = [count[kind] for count in counted[-len(values) :]]
        total = sum(v * w for v, w in zip(values, weights, strict=True) if w)
        # A running count of this process: the processes' are added up.
        sums[name] = (values[-1], 1 / processes.count()) if name == "num_tokens" else (
            total, float(sum(weights))
        )  # fmt: skip
    found = processes.gather(sums)
    combined: defaultdict[str, list[float]] = defaultdict(list)
    for name in dict.fromkeys(name for own in found for name in own):
        totals = [own[name] for own in found if name in own]
        weight = sum(w for _, w in totals)
        if weight:
            combined[name] = [sum(total for total, _ in totals) / weight]
    return combined
