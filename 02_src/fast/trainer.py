"""TRL's DPOTrainer with our tokens, our reference cache and the packed forward.

Losses and metrics stay TRL's. Seams used: the collator, `_prepare_dataset`,
`_precompute_ref_logps` and the causal LM's forward.
"""

import math
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch.utils.data import DataLoader, Sampler
from tqdm.auto import tqdm

import processes
from fast.collator import PackedPreferenceCollator
from fast.columns import REFERENCE_COLUMNS, measure_pairs
from fast.forward import find_obstacle, install_packed_forward
from fast.fuse import fuse_model, undo_fusion
from fast.host_work import (
    leave_on_host,
    light_host_work,
    limit_primitive_cache,
    with_reference,
    without_weight_hash,
)
from fast.reference import LOGPS, read_cached, reference_key, split_by_tokens, write_cached
from fast.rehearsal import Rehearsal
from fast.rehearsing import RehearsingTrainer
from fast.rows import count_reference_tokens
from fast.sampling import group_long_pairs

# Mean difference per token above which packed rows are not trusted; bf16 noise is about 0.01.
TRUSTED_DIFFERENCE = {torch.float32: 1e-3}
TRUSTED_DIFFERENCE_16BIT = 0.1


class PreferenceTrainer(RehearsingTrainer):
    """DPOTrainer over tokenised pairs; its reference is the adapter switched off."""

    def __init__(
        self,
        *,
        fast_forward: bool,
        reference_cache: Path,
        cuda_graphs: bool = True,
        rehearsal: Rehearsal | None = None,
        **arguments: Any,
    ) -> None:
        """As DPOTrainer; data sets hold prompt_ids, chosen_ids, rejected_ids.

        Args:
            fast_forward: pack pairs and compute each prompt once; False is stock TRL.
            reference_cache: folder of what the reference says: log-probs, and states (rehearsal).
            cuda_graphs: replay training steps as CUDA graphs where there is a CUDA device.
            rehearsal: general text whose predictions stay those of the reference.
        """
        self.cuda_graphs = cuda_graphs
        self.reference_cache = reference_cache
        self.fast_obstacle = None if fast_forward else "fast_forward is off in the config"
        self._fast_ready = False
        limit_primitive_cache()
        if fast_forward:
            arguments["data_collator"] = PackedPreferenceCollator(
                pad_token_id=arguments["processing_class"].pad_token_id,
                max_length=arguments["args"].max_length,
                share=arguments["args"].disable_dropout,
            )
        with without_weight_hash():
            super().__init__(rehearsal=rehearsal, **arguments)
        self.prepare_rehearsal()

    def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
        """The pairs are tokens already: tokenization.tokenize_pairs follows the contract."""
        return dataset

    def _precompute_ref_logps(self, dataset: Dataset, name: str, batch_size: int) -> Dataset:
        """Add ref_chosen_logps and ref_rejected_logps, from the cache where it has them."""
        if REFERENCE_COLUMNS[0] in dataset.column_names:
            return dataset
        self.prepare_fast_forward(dataset)
        settings = {
            "ld_alpha": self.ld_alpha,
            "autocast": [self.args.bf16, self.args.fp16],
            "max_length": self.args.max_length,
            "packed": self.fast_obstacle is None,
            "device": self.accelerator.device.type,
        }
        key = reference_key(self.weights_fingerprint, dataset, settings)
        logps = read_cached(self.reference_cache, key, LOGPS, len(dataset))
        if processes.agree(logps is None):
            logps = self.compute_reference(dataset, name, batch_size)
            if processes.is_main():
                write_cached(self.reference_cache, key, dict(zip(LOGPS, logps, strict=True)))
        for column, values in zip(REFERENCE_COLUMNS, logps, strict=True):
            fingerprint = f"{key}-{column}"  # or datasets hashes every value
            dataset = dataset.add_column(column, values.tolist(), new_fingerprint=fingerprint)
        return dataset

    def prepare_rehearsal(self) -> None:
        """Have what the blocks are compared with, where the packed forward finds it."""
        if self.rehearsal is None:
            return
        self.prepare_fast_forward(self.train_dataset)
        self.learn_states()
        if self.fast_obstacle is None:
            self.packed_scorer.states = self._states

    def compute_reference(
        self, dataset: Dataset, name: str, batch_size: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Reference log-probs (chosen [n], rejected [n]); pairs of like length share a batch.

        Several processes take turns with the batches.
        """
        lengths = measure_pairs(dataset)
        logps = torch.zeros(2, len(dataset))
        hidden = self.model.config.get_text_config().hidden_size
        pairs = self.args.train_batch_size if name == "train" else self.args.eval_batch_size
        tokens = count_reference_tokens(lengths, pairs, hidden, self.accelerator.device.type)
        batches = split_by_tokens(lengths, tokens, batch_size)
        mine = batches[processes.rank() :: processes.count()]
        bar = tqdm(total=sum(map(len, mine)), desc=f"reference pass, {name}", unit="pair")
        with bar, with_reference(self.accelerator.unwrap_model(self.model)):
            for chosen in mine:
                batch = self.collate([dataset[i] for i in chosen])
                found = self.compute_ref_log_probs(self.model, batch)
                logps[:, chosen] = torch.stack(found).float().cpu()
                bar.update(len(chosen))
        chosen, rejected = processes.add_tensor(logps)  # zeros where another process was at work
        return chosen, rejected

    def _get_train_sampler(self, *arguments: Any) -> Sampler | None:
        """Trainer's; where pairs are long, batches hold pairs of like length."""
        return group_long_pairs(self) or super()._get_train_sampler(*arguments)

    def get_train_dataloader(self) -> DataLoader:
        """TRL's, with batches left on the host (see keeps_on_host)."""
        return leave_on_host(super().get_train_dataloader())

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        """TRL's, with batches left on the host (see keeps_on_host)."""
        return leave_on_host(super().get_eval_dataloader(eval_dataset))

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Move a batch to the training device, unless TRL's loss is better off on the host."""
        return inputs if self.keeps_on_host(inputs) else super()._prepare_inputs(inputs)

    def keeps_on_host(self, inputs: dict[str, Any]) -> bool:
        """Whether loss and metrics of this batch are computed on the CPU.

        They are a hundred tiny operations and thirteen synchronisations: one copy of the
        per-token results to the host replaces them all. Not for what TRL itself ties to the
        device: the fp16 scaler, ld_alpha and exo_pair.
        """
        return (
            "packed_ids" in inputs
            and self.accelerator.device.type == "cuda"
            and not self.args.fp16
            and self.ld_alpha is None
            and "exo_pair" not in self.loss_types
        )

    def training_step(self, *arguments: Any, **options: Any) -> torch.Tensor:
        """The detached loss, on the training device: Trainer sums it there."""
        return super().training_step(*arguments, **options).to(self.args.device, non_blocking=True)

    def collate(self, rows: list[dict], training: bool = False) -> dict[str, torch.Tensor]:
        """A batch on the training device; for training, with its blocks."""
        collator = self.training_collator() if training else self.data_collator
        return self._prepare_inputs(collator(rows))

    def prepare_fast_forward(self, dataset: Dataset) -> None:
        """Install the packed forward once; fall back to TRL's path where it is not exact."""
        if self._fast_ready:
            return
        self._fast_ready = True
        model = self.accelerator.unwrap_model(self.model).get_base_model()
        self.fast_obstacle = self.fast_obstacle or find_obstacle(model)
        if self.fast_obstacle is None:
            self.fast_obstacle = self.install_fast_forward(model, dataset)
        if self.fast_obstacle and isinstance(self.data_collator, PackedPreferenceCollator):
            print(f"fast forward is off: {self.fast_obstacle}; using TRL's own path")
            self.data_collator = PackedPreferenceCollator.__base__(
                pad_token_id=self.data_collator.pad_token_id,
                max_length=self.data_collator.max_length,
            )

    def install_fast_forward(self, model: torch.nn.Module, dataset: Dataset) -> str | None:
        """Change the model in place; undone, with the reason, when its results change.

        Two pairs are scored before and after.
        """
        rows = [dataset[i] for i in range(min(2, len(dataset)))]
        batch = super()._prepare_inputs(self.data_collator(rows))
        stock = self.score({k: v for k, v in batch.items() if not k.startswith("packed_")})
        graphs = self.cuda_graphs and self.accelerator.device.type == "cuda"
        self.packed_scorer = install_packed_forward(model, graphs)
        if graphs:
            blocks = self.rehearsal.count if self.rehearsal else 0
            self.data_collator.fix_width(dataset, self.args.train_batch_size, blocks)
        changed = fuse_model(model)
        mask = batch["completion_mask"][:, 1:].bool()
        difference = (self.score(batch) - stock)[mask].abs().mean().item()
        difference = processes.add([difference])[0] / processes.count()  # all decide alike
        full = not (self.args.bf16 or self.args.fp16) and self.model.dtype == torch.float32
        limit = TRUSTED_DIFFERENCE[torch.float32] if full else TRUSTED_DIFFERENCE_16BIT
        if math.isfinite(difference) and difference <= limit:
            return None
        undo_fusion(model, changed)
        return f"packed rows differ from TRL's by {difference:.3g} per token on this model"

    @torch.no_grad()
    def score(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Log-probs of a batch in TRL's layout [2B, L - 1], packed if it has packed tensors."""
        kwargs = {k: v for k, v in inputs.items() if k != "completion_mask"}
        labels = inputs["input_ids"].masked_fill(inputs["completion_mask"] == 0, -100)
        with self.accelerator.autocast():
            return self.model(**kwargs, labels=labels, fused_lm_head=True).log_probs

    def train(self, *arguments: Any, **options: Any) -> Any:
        """Trainer's, without its walks over all modules; stock TRL when the fast forward is off."""
        if self.fast_obstacle is not None:
            return super().train(*arguments, **options)
        self._trainable = self.list_trainable()
        self._model_size = self.model.num_parameters(exclude_embeddings=True)
        with light_host_work(self.model, self.accelerator.device.type == "cuda"):
            return super().train(*arguments, **options)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Trainer's estimate, 6 per parameter and token; the parameters are counted once."""
        if not self._trainable:
            return super().floating_point_ops(inputs)
        return 6 * inputs["input_ids"].numel() * self._model_size

    @torch.no_grad()
    def measure_initial_loss(self) -> float:
        """TRL's sigmoid loss on the first pairs: ln 2 while policy and reference agree."""
        count = min(self.args.per_device_train_batch_size, len(self.train_dataset))
        batch = self.collate([self.train_dataset[i] for i in range(count)])
        configured = self.loss_types, self.loss_weights
        self.loss_types, self.loss_weights = ["sigmoid"], [1.0]
        self.model.eval()
        with self.compute_loss_context_manager():
            loss = self.compute_loss(self.model, batch).item()
        self.loss_types, self.loss_weights = configured
        self._metrics["eval"].clear()
        return loss
