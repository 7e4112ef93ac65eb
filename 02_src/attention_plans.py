"""Keep cuDNN's attention away from forward passes whose shapes vary.

cuDNN builds a plan for every batch size and length it has not met (pytorch/pytorch#155958), in 30
to 400 ms as users report, and newer torch prefers it on H100 and B200 (pytorch/pytorch#169849).
Generation meets a new length with every token; scoring, with every batch. A training graph is
captured once a shape and keeps it.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def without_cudnn_plans() -> Iterator[None]:
    """torch's other attention kernels inside; nothing changes where gradients are computed.

    There a recomputed layer (gradient checkpointing) would meet another kernel than the first time.
    The switch is the whole process's: two threads must not be inside at once.
    """
    before = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(before and torch.is_grad_enabled())
    try:
        yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)
