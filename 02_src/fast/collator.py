"""TRL's preference collator, with the packed tensors of the fast forward added to its batch."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trl.trainer.dpo_trainer import DataCollatorForPreference

from fast.layout import PairIds, count_shared, pack_pairs
from fast.rows import choose_width

PAIRS_TRIED = 512  # for the choice of a row width


@dataclass
class PackedPreferenceCollator(DataCollatorForPreference):
    """Adds packed_* tensors (see fast.layout.pack_pairs) to TRL's padded batch.

    The padded tensors stay: TRL's loss and metrics read their masks.
    """

    few_shapes: bool = False
    share: bool = True  # whether pairs may share tokens; False with dropout
    usual_width: int | None = None  # of rows, where one suits the whole run

    def fix_width(self, rows: Sequence[dict[str, Any]], batch: int) -> None:
        """Choose one row width for a run from random batches of its pairs: few shapes."""
        draw, tried, size = random.Random(0), [], min(batch, len(rows))
        for _ in range(-(-PAIRS_TRIED // size)):
            pairs = [self.truncate(rows[i]) for i in draw.sample(range(len(rows)), size)]
            pairs = [pair for pair in pairs if pair.prompt and pair.chosen and pair.rejected]
            if pairs:
                tried.append(([pair.length for pair in pairs], count_shared(pairs, self.share)))
        self.few_shapes, self.usual_width = True, choose_width(tried) if tried else None

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """A batch of tokenised pairs; a prompt of no tokens gets TRL's path (no packed tensors)."""
        batch = super().torch_call(examples)
        pairs = [self.truncate(example) for example in examples]
        if any(not pair.prompt or not pair.chosen or not pair.rejected for pair in pairs):
            return batch
        width = batch["input_ids"].shape[1]
        how = (self.few_shapes, self.share, self.usual_width)
        return {**batch, **pack_pairs(pairs, width, self.pad_token_id, *how)}

    def truncate(self, example: dict[str, Any]) -> PairIds:
        """The pair with both answers cut at max_length, as keep_start does."""
        prompt = example["prompt_ids"]
        room = None if self.max_length is None else max(0, self.max_length - len(prompt))
        return PairIds(
            prompt[: self.max_length], example["chosen_ids"][:room], example["rejected_ids"][:room]
        )
