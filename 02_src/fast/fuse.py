"""Fewer, larger kernels in place of a model's own layers; installed and taken back as a whole."""

import torch

from fast.attention import undo_dense_attention, use_dense_attention
from fast.frozen_weights import keep_weights
from fast.fused_layers import fuse_layers
from fast.lora_linear import fuse_lora_layers, is_fused
from fast.lora_stack import list_weights
from fast.tree_attention import fuse_attention, list_projections


def fuse_model(model: torch.nn.Module) -> list[torch.nn.Module]:
    """Change a model in place; the changed modules. The caller compares results."""
    linear, layers = fuse_lora_layers(model), fuse_layers(model)
    attention = fuse_attention(model)
    together = [list_projections(module) for module in attention]
    together += [[m.gate_proj, m.up_proj] for m in layers if hasattr(m, "gate_proj")]
    groups = [group for group in together if all(is_fused(layer) for layer in group)]
    grouped = {layer for group in groups for layer in group}
    groups += [[layer] for layer in linear if layer not in grouped]
    keep_weights([list_weights(group) for group in groups])
    if model.device.type == "cpu":
        use_dense_attention(model)
    return linear + layers + attention


def undo_fusion(model: torch.nn.Module, changed: list[torch.nn.Module]) -> None:
    """Back to each class's own forward; the weights stay where they are."""
    for module in changed:
        del module.forward
    undo_dense_attention(model)
    model.attends_trees = False
