"""Rehearsal: on general text the policy keeps the reference's distributions of the next token.

Pairs say nothing about all else that the base knows, and training on them drifts away from it. So
some blocks of general text ride along in the rows of each micro-step, and the mean
KL(reference || policy) over their tokens is added to TRL's loss: learning without forgetting (Li
and Hoiem 2016, arXiv 1606.09282). The reference's last hidden states are computed once for all
blocks; the frozen head turns them into its distributions, over the whole vocabulary.
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch

BLOCK = 64  # tokens; texts are joined and cut into blocks, so none is padding
MOST_STATES = 32 * 2**20  # bytes of the reference's hidden states that are kept
DIVERGING_AT_ONCE = 1 << 23  # logits compared at once, in three buffers of 32 MB
USES = 2  # times that a run draws a block, about; what it would draw less often is not prepared
METRIC = "rehearsal_kl"


@dataclass(frozen=True)
class Rehearsal:
    """Blocks of general text, and how they enter the loss."""

    blocks: torch.Tensor  # [n, BLOCK] token ids
    weight: float  # of the mean KL per token, in nats
    count: int  # blocks in each micro-step

    def draw(self, batch: Mapping[str, torch.Tensor]) -> list[int]:
        """Which blocks go with a padded batch of pairs.

        They follow from its tokens alone: in another process, and when a run is resumed, it meets
        the same ones.
        """
        ids = batch["input_ids"][batch["attention_mask"].bool()]
        seed = zlib.crc32(ids.cpu().numpy().tobytes())
        chosen = np.random.default_rng(seed).permutation(len(self.blocks))
        return chosen[: self.count].tolist()


def cut_blocks(texts: Sequence[Sequence[int]], opening: Sequence[int] = ()) -> torch.Tensor:
    """[n, BLOCK] of the texts' tokens, one behind the other; the rest of the last block is left.

    Args:
        opening: what every block begins with: the BOS of a model that never goes without.
    """
    first = list(opening)
    bare = (text[len(first) :] if text[: len(first)] == first else text for text in texts)
    ids, size = list(chain.from_iterable(bare)), BLOCK - len(first)
    blocks = torch.tensor(ids[: len(ids) // size * size], dtype=torch.long).view(-1, size)
    return torch.cat([torch.tensor(first, dtype=torch.long).expand(len(blocks), -1), blocks], 1)


def spread_blocks(blocks: torch.Tensor, most: int) -> torch.Tensor:
    """At most `most` of the blocks, from all parts of the texts alike."""
    if len(blocks) <= most:
        return blocks
    return blocks[torch.linspace(0, len(blocks) - 1, most, dtype=torch.float64).round().long()]
