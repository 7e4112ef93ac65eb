"""Batches that shrink where a GPU's memory runs out, for work whose result does not depend on them.

for_batches(order, 256, score)      # score(order[:256]), then the next 256, ...
"""

from collections.abc import Callable, Sequence

import torch
from tqdm.auto import tqdm

from errors import ran_out_of_memory


def for_batches(items: Sequence, size: int, run: Callable[[Sequence], None]) -> None:
    """Call `run` on `size` items after another; on half as many from where memory runs out.

    Args:
        run: works on a batch and keeps its results; a batch that failed is split and run again.

    Raises:
        RuntimeError: one item alone is too much, or something else is wrong.
    """
    start = 0
    while start < len(items):
        batch = items[start : start + size]
        try:
            run(batch)
        except RuntimeError as error:
            if len(batch) == 1 or not ran_out_of_memory(error):
                raise
            size = len(batch) // 2
        else:
            start += len(batch)
            continue
        # Here, since the error, while it is handled, holds what the batch took.
        torch.cuda.empty_cache()
        tqdm.write(f"note: out of memory with {len(batch)} at a time; going on with {size}")
