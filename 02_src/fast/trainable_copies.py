"""Working copies of the adapter for CUDA graphs, and one flat gradient for all of it."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


class TrainableCopies:
    """Copies of the trainable parameters for graphs to compute with, and a flat gradient."""

    def __init__(self, model: torch.nn.Module, dtype: torch.dtype) -> None:
        self.slots = [
            (module, name, parameter)
            for module in model.modules()
            for name, parameter in module.named_parameters(recurse=False)
            if parameter.requires_grad
        ]
        self.parameters = [parameter for _, _, parameter in self.slots]
        self.copies = [
            torch.empty_like(parameter, dtype=dtype).requires_grad_()
            for parameter in self.parameters
        ]
        self.gradient = torch.zeros(
            sum(parameter.numel() for parameter in self.parameters),
            device=self.parameters[0].device,
        )
        self.views = self.split(self.gradient)

    def split(self, flat: torch.Tensor) -> list[torch.Tensor]:
        """One view of a flat tensor for each parameter."""
        parts = flat.split([parameter.numel() for parameter in self.parameters])
        return [part.view_as(p) for part, p in zip(parts, self.parameters, strict=True)]

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Let the model compute with the copies."""
        self.install(self.copies)
        try:
            yield
        finally:
            self.install(self.parameters)

    def install(self, tensors: list[torch.Tensor]) -> None:
        """Put `tensors` where the modules look for their parameters."""
        for (module, name, _), tensor in zip(self.slots, tensors, strict=True):
            module._parameters[name] = tensor

    @torch.no_grad()
    def refresh(self) -> None:
        """Copy the master weights."""
        torch._foreach_copy_(self.copies, self.parameters)

    @torch.no_grad()
    def add_gradients(self, gradients: tuple[torch.Tensor, ...]) -> None:
        """Add the copies' gradients to the flat fp32 gradient."""
        scratch = torch.empty_like(self.gradient)
        torch._foreach_copy_(self.split(scratch), list(gradients))
        self.gradient.add_(scratch)

    def publish_gradient(self) -> None:
        """Make the flat gradient's views the parameters' .grad, keeping what is there already."""
        if self.parameters[0].grad is self.views[0]:
            return
        self.gradient.zero_()
        for parameter, view in zip(self.parameters, self.views, strict=True):
            if parameter.grad is not None:  # an eager micro-step came first
                view.copy_(parameter.grad)
            parameter.grad = view
