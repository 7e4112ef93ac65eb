"""A trainer that adds rehearsal (see fast.rehearsal) to TRL's loss, in training only."""

import dataclasses
import functools
from typing import Any

import torch
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

import processes
from fast.collator import PackedPreferenceCollator
from fast.head import measure_divergence
from fast.parallel import ParallelTrainer
from fast.reference import (
    STATES,
    fingerprint_weights,
    read_cached,
    states_key,
    write_cached,
)
from fast.rehearsal import BLOCK, METRIC, Rehearsal

BLOCKS_AT_ONCE = 16  # of the pass that computes the reference's hidden states


class RehearsingTrainer(ParallelTrainer):
    """DPOTrainer whose policy rehearses general text beside its pairs."""

    def __init__(self, *, rehearsal: Rehearsal | None, **arguments: Any) -> None:
        self.rehearsal = rehearsal
        self._states: torch.Tensor | None = None  # [T, H] the reference's, of all blocks' tokens
        super().__init__(**arguments)

    def get_train_dataloader(self) -> DataLoader:
        """Trainer's, over batches that bring their blocks along."""
        usual, self.data_collator = self.data_collator, self.training_collator()
        try:
            return super().get_train_dataloader()
        finally:
            self.data_collator = usual

    def training_collator(self) -> Any:
        """The collator of training batches; TRL's own knows no blocks (see rehearse_apart)."""
        if not isinstance(self.data_collator, PackedPreferenceCollator):
            return self.data_collator
        return dataclasses.replace(self.data_collator, rehearsal=self.rehearsal)

    def compute_loss(self, model: Any, inputs: dict[str, Any], *rest: Any, **options: Any) -> Any:
        """TRL's loss, and in training the weighted divergence on the blocks."""
        loss = super().compute_loss(model, inputs, *rest, **options)
        if self.rehearsal is None or not (self.model.training and torch.is_grad_enabled()):
            return loss
        divergence = self.take_divergence(inputs)
        self._metrics["train"][METRIC].append(divergence.item())
        return loss + self.rehearsal.weight * divergence.to(loss.device)

    def take_divergence(self, inputs: dict[str, Any]) -> torch.Tensor:
        """Mean KL per token of the batch's blocks: of its packed rows, or computed on its own."""
        if "packed_ids" in inputs:
            return self.packed_scorer.divergence
        return self.rehearse_apart(self.rehearsal.draw(inputs))

    def rehearse_apart(self, numbers: list[int]) -> torch.Tensor:
        """Mean KL per token of some blocks, by a forward of their own."""
        blocks = self.rehearsal.blocks[numbers]
        lessons = torch.tensor(numbers)[:, None] * BLOCK + torch.arange(BLOCK)
        model = self.accelerator.unwrap_model(self.model).get_base_model()
        with self.accelerator.autocast():
            hidden = self.run_blocks(model, blocks)
            states = self._states[lessons.flatten().to(self._states.device)]
            return measure_divergence(model, hidden, states).mean()

    def run_blocks(self, model: torch.nn.Module, blocks: torch.Tensor) -> torch.Tensor:
        """Last hidden states [n * BLOCK, H] of blocks [n, BLOCK]."""
        found = model.base_model(input_ids=blocks.to(model.device), use_cache=False)
        return found.last_hidden_state.flatten(0, 1)

    @functools.cached_property
    def weights_fingerprint(self) -> str:
        """Of the frozen base; read once, since it holds gigabytes."""
        return fingerprint_weights(self.model)

    @torch.no_grad()
    def learn_states(self) -> None:
        """Fetch the reference's hidden states of all blocks from the cache, or compute them."""
        model = self.accelerator.unwrap_model(self.model).get_base_model()
        blocks = self.rehearsal.blocks
        settings = {
            "autocast": [self.args.bf16, self.args.fp16],
            "device": model.device.type,
        }
        key = states_key(self.weights_fingerprint, blocks, settings)
        found = read_cached(self.reference_cache, key, [STATES], blocks.numel())
        if processes.agree(found is None):
            found = [self.compute_states(model, blocks)]
            if processes.is_main():
                write_cached(self.reference_cache, key, {STATES: found[0]})
        self._states = found[0].to(model.device)

    def compute_states(self, model: torch.nn.Module, blocks: torch.Tensor) -> torch.Tensor:
        """[T, H] last hidden states with the adapter off, in the dtype of training."""
        policy = self.accelerator.unwrap_model(self.model)
        found, training = [], policy.training
        policy.eval()
        with policy.disable_adapter(), self.accelerator.autocast():
            bar = tqdm(total=len(blocks), desc="reference pass, general text", unit="block")
            for part in blocks.split(BLOCKS_AT_ONCE):
                found.append(self.run_blocks(model, part).cpu())
                bar.update(len(part))
            bar.close()
        policy.train(training)
        half = torch.bfloat16 if self.args.bf16 else torch.float16 if self.args.fp16 else None
        return torch.cat(found).to(half) if half else torch.cat(found)
