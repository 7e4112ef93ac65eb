"""Stock TRL's path (fast_forward: false), counted roughly: within a quarter.

Two padded rows a pair, PEFT's LoRA layers and the model's own norms, which keep fp32 copies.
"""

from dataclasses import replace

from memory.activations import FP32, MicroStep, Setting, size_head, size_layer
from memory.shape import ModelShape


def measure_stock(shape: ModelShape, step: MicroStep, how: Setting) -> dict[str, float]:
    """Bytes at the peak of one micro-step of TRL's own forward and backward."""
    padded = step.rows * step.width
    layer = size_layer(replace(shape, plain=False), step, how)
    adapted = [linear for linear in shape.linears if linear.adapted]
    outputs = sum(linear.outputs for linear in adapted) / shape.layers
    inputs = sum(linear.inputs for linear in adapted) / shape.layers
    lora = how.item * padded * (outputs + inputs) / 2  # scaled products and casts PEFT keeps
    one = sum(layer.values()) - layer["mask"] + lora
    stream = how.item * padded * shape.hidden
    wide = how.item * padded * shape.intermediate
    kept = shape.layers * stream + one if how.checkpointing else shape.layers * one
    head = size_head(shape, step, how)[1]
    masks = FP32 * padded * step.width
    return {"activations": kept + masks, "backward": max(head, stream + 2 * wide)}
