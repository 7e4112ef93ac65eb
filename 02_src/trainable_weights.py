"""What is done to the adapter's weights around training: master copies before, a scale after."""

import torch


def cast_adapter_to_fp32(model: torch.nn.Module) -> None:
    """Give the optimizer fp32 master weights, in place.

    TRL casts QLoRA adapters to bf16, where most LoRA-A entries cannot move at a learning rate of
    2e-5, and fp16's GradScaler refuses bf16 parameters.
    """
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


@torch.no_grad()
def scale_adapter(model: torch.nn.Module, factor: float) -> None:
    """Multiply what the adapter adds to every weight by `factor`, in place (B alone carries it).

    A point on the straight line between base and trained model: part of what was forgotten comes
    back before what was learned goes (WiSE-FT, Wortsman et al. 2022, arXiv 2109.01903).
    """
    for name, parameter in model.named_parameters():
        if ".lora_B." in name:
            parameter.mul_(factor)
