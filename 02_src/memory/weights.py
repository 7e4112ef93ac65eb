"""Bytes that stay for the whole run: base weights, adapters, their optimizer, graph copies."""

from memory.shape import ModelShape
from processes import count_shards

BLOCK = 64  # weights that share a 4-bit scale (bitsandbytes)
SCALES_BLOCK = 256  # scales that share a second scale under double quantisation
CODE_BYTES = 4 * 512  # tables and small tensors of one 4-bit layer, at the allocator's 512 bytes
STATE_BYTES = {  # optimizer state of one trainable parameter, on the device
    "sgd": 0.0,
    "adamw_8bit": 2.03,
    "adamw_bnb_8bit": 2.03,
    "paged_adamw_8bit": 0.0,  # paged: in managed memory, moved out when the card is full
    "paged_adamw_32bit": 0.0,
    "paged_adamw": 0.0,
}
ADAM_STATE = 8.0


def size_weights(
    shape: ModelShape, four_bit: bool, double_quant: bool, item: int
) -> dict[str, float]:
    """Bytes of the frozen base by tensor class; `item` bytes for a weight not in 4 bit.

    Of a sharded base (FSDP) a GPU holds its part, and for a while what it computes with: two
    layers, of which one is on its way, and the output head.
    """
    shards = count_shards()
    sizes = {
        "embedding and head": shape.embeddings * item / shards,
        "norms": shape.others * item / shards,
    }
    if shards > 1:
        layer = shape.linear_weights / shape.layers * (0.5 if four_bit else item)
        sizes["gathered weights"] = 2 * layer + shape.vocabulary * shape.hidden * item
    if not four_bit:
        return {"base, 16 bit": shape.linear_weights * item / shards, **sizes}
    scales = shape.linear_weights / BLOCK
    scale_bytes = scales * (1 + 4 / SCALES_BLOCK) if double_quant else scales * 4
    return {
        "base, 4 bit": shape.linear_weights / 2 / shards,
        "4-bit scales": scale_bytes + CODE_BYTES * len(shape.linears),
        **sizes,
    }


def size_training(
    shape: ModelShape, rank: int, optimizer: str, graphs: bool, item: int
) -> dict[str, float]:
    """Bytes of what is trained: fp32 masters, gradient, optimizer state, graph copies."""
    count = shape.count_adapter(rank)
    return {
        "adapter": 4 * count,
        "gradient": 4 * count,
        "optimizer": STATE_BYTES.get(optimizer, ADAM_STATE) * count,
        "adapter copies": item * count if graphs or item == 2 else 0,
    }
