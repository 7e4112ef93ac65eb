"""Rehearsal: on general text the policy keeps the reference's distributions of the next token.

Pairs say nothing about all else that the base knows, and training on them drifts away from it. So
some blocks of general text ride along in the rows of each micro-step, and the mean
KL(reference || policy) over their tokens is added to TRL's loss: learning without forgetting (Li
and Hoiem 2016, arXiv 1606.09282). The reference's last hidden states are computed once for all
blocks; the frozen head turns them into its distributions, over the whole vocabulary.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

BLOCK = 64  # tokens; texts are joined and cut into blocks, so none is padding
MOST_STATES = 32 * 2**20  # bytes of the reference's hidden states that are kept
DIVERGING_AT_ONCE = 1 << 23  # logits compared at once, in three buffers of 32 MB
USES = 2  # times that a run draws a block; what it would draw less often is not prepared
METRIC = "rehearsal_kl"


@dataclass(frozen=True)
class Rehearsal:
    """Blocks of general text, and how they enter the loss."""

    blocks: torch.Tensor  # [n, BLOCK] token ids
    weight: float  # of the mean KL per token, in nats
    count: int  # blocks in each micro-step

    def draw(self, ids: Sequence[int]) -> list[int]:
        """Which blocks go with a batch; they follow from its tokens, also in another process."""
        seed = zlib.crc32(np.asarray(ids, dtype=np.int64).tobytes())
        chosen = np.random.default_rng(seed).permutation(len(self.blocks))
        return chosen[: self.count].tolist()


def cut_blocks(texts: Sequence[Sequence[int]], hidden: int, item: int) -> torch.Tensor:
    """[n, BLOCK] of the texts' tokens, one behind the other; the rest of the last block is left.

    Args:
        hidden, item: size of a hidden state and bytes of its numbers; they limit n.
    """
    ids = [token for text in texts for token in text]
    count = min(len(ids) // BLOCK, MOST_STATES // (BLOCK * hidden * item))
    return torch.tensor(ids[: count * BLOCK], dtype=torch.long).view(count, BLOCK)
