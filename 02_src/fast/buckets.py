"""One captured shape: its static tensors, its two graphs, and how a batch is written into it."""

from dataclasses import dataclass
from typing import Any

import torch

Packed = dict[str, torch.Tensor]
GRIDS, LISTS = ("ids", "positions", "ends"), ("sources", "lessons", "targets")


@dataclass
class Bucket:
    """The static tensors and the two graphs of one shape."""

    rows: int
    width: int
    count: int  # of hidden states used; the first `recited` are of rehearsed tokens
    recited: int
    flat: torch.Tensor  # [3 * rows * width + 2 * count] all inputs, one host-to-device copy
    grad_logps: torch.Tensor  # [count] gradient of the log-probs and divergences
    stats: torch.Tensor | None = None  # [4, count] results
    live: torch.Tensor | None = None  # stats with its autograd graph, while recording
    forward_graph: Any = None
    backward_graph: Any = None

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(rows, width, count, recited)."""
        return self.rows, self.width, self.count, self.recited

    @property
    def cost(self) -> int:
        """A rough count of the work: tokens, with the head's share."""
        return self.rows * self.width + self.count

    def holds(self, rows: int, width: int, count: int, recited: int) -> bool:
        """Whether a batch of this shape finds room."""
        fits = self.rows >= rows and self.width >= width and self.count >= count
        return fits and self.recited == recited


def split_inputs(flat: torch.Tensor, rows: int, width: int, count: int, recited: int) -> Packed:
    """Views of a flat input buffer, named as in a packed batch."""
    grid = rows * width
    sizes = [grid] * len(GRIDS) + [count, recited, count - recited]
    parts = dict(zip((*GRIDS, *LISTS), flat.split(sizes), strict=True))
    return {k: v.view(rows, width) if k in GRIDS else v for k, v in parts.items()}


def fill_inputs(flat: torch.Tensor, shape: tuple[int, int, int, int], packed: Packed) -> None:
    """Write a batch into a flat buffer of a bucket's shape; what is left over is zero."""
    views = split_inputs(flat.zero_(), *shape)
    rows, width = packed["ids"].shape
    for name in GRIDS:
        views[name][:rows, :width].copy_(packed[name])
    row = torch.div(packed["sources"], width, rounding_mode="floor")
    moved = {**packed, "sources": packed["sources"] + row * (shape[1] - width)}
    for name in LISTS:
        views[name][: moved[name].shape[0]].copy_(moved[name])
