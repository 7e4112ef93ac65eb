"""TRL's preference collator, with the packed tensors of the fast forward added to its batch."""

from dataclasses import dataclass
from typing import Any

from trl.trainer.dpo_trainer import DataCollatorForPreference

from fast.layout import PairIds, pack_pairs


@dataclass
class PackedPreferenceCollator(DataCollatorForPreference):
    """Adds packed_* tensors (see fast.layout.pack_pairs) to TRL's padded batch.

    The padded tensors stay: TRL's loss and metrics read their masks.
    """

    few_shapes: bool = False
    share: bool = True  # whether pairs may share tokens; False with dropout

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """A batch of tokenised pairs; a prompt of no tokens gets TRL's path (no packed tensors)."""
        batch = super().torch_call(examples)
        pairs = [self.truncate(example) for example in examples]
        if any(not pair.prompt or not pair.chosen or not pair.rejected for pair in pairs):
            return batch
        width = batch["input_ids"].shape[1]
        packed = pack_pairs(pairs, width, self.pad_token_id, self.few_shapes, self.share)
        return {**batch, **packed}

    def truncate(self, example: dict[str, Any]) -> PairIds:
        """The pair with both answers cut at max_length, as keep_start does."""
        prompt = example["prompt_ids"]
        room = None if self.max_length is None else max(0, self.max_length - len(prompt))
        return PairIds(
            prompt[: self.max_length], example["chosen_ids"][:room], example["rejected_ids"][:room]
        )
