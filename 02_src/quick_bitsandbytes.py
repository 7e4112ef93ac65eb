"""Imports bitsandbytes without torch's compiler: a second or two less before every first step.

bitsandbytes decorates a few fallback functions with torch.compile while it is imported, which
loads the whole of torch._inductor. On CUDA those functions are not used; on a CPU a compiled one
would wait for a C++ compiler. Uncompiled they return the same. Import this before peft and trl,
which import bitsandbytes themselves.
"""

from collections.abc import Callable
from typing import Any

import torch


def leave_alone(function: Callable | None = None, **_: Any) -> Callable:
    """Stands for torch.compile, with and without options."""
    return function if function is not None else leave_alone


_stock, torch.compile = torch.compile, leave_alone
try:
    import bitsandbytes  # noqa: F401
finally:
    torch.compile = _stock
