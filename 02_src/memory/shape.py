"""A model's dimensions, read from its config on torch's meta device: no weights are loaded."""

from dataclasses import dataclass

import torch

from config import Config
from fast.tree_attention import find_layers

NOT_PLAIN = ("gemma",)  # model types whose norms and activations have no fused forward


@dataclass(frozen=True)
class Linear:
    """A linear layer of one decoder layer or outside of them."""

    name: str
    inputs: int
    outputs: int
    adapted: bool  # carries a LoRA adapter


@dataclass(frozen=True)
class ModelShape:
    """What memory and time depend on; sizes in elements."""

    layers: int
    hidden: int
    intermediate: int
    query: int  # attention heads times their width
    key: int  # key-value heads times their width
    heads: int
    head_width: int
    vocabulary: int
    embeddings: int  # parameters of embedding and output head, counted once where tied
    linears: tuple[Linear, ...]  # all of them, the output head left out
    others: int  # norms and biases
    norms_per_layer: int
    head_norms: bool  # norms on queries and keys
    plain: bool  # the fused norm and gated product apply
    trees: bool = False  # so does attention over token trees

    @property
    def linear_weights(self) -> int:
        """Weights that 4-bit quantisation packs."""
        return sum(linear.inputs * linear.outputs for linear in self.linears)

    @property
    def largest_linear(self) -> int:
        """Weights of the largest linear layer, which is dequantised as a whole."""
        return max(linear.inputs * linear.outputs for linear in self.linears)

    def count_adapter(self, rank: int) -> int:
        """Trainable parameters at a LoRA rank."""
        return sum(rank * (x.inputs + x.outputs) for x in self.linears if x.adapted)


def read_shape(config: Config) -> ModelShape:
    """The shape of the config's base model; reads (or downloads) its config.json only."""
    from transformers import AutoConfig

    from base_models import readable_hub_errors, resolve_model

    source = resolve_model(config)
    with readable_hub_errors(source):
        found = AutoConfig.from_pretrained(source.location, **source.load_options())
    return describe_model(found, config.lora_target_modules)


def describe_model(model_config, targets: str | list[str] = "all-linear") -> ModelShape:
    """The shape of a transformers config, LoRA on `targets`."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(model_config)
    text = model.config.get_text_config()
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    linears = [
        Linear(name, module.in_features, module.out_features, is_target(name, targets))
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not head
    ]
    embeddings = sum(p.numel() for p in {head.weight, embedding.weight})
    counted = embeddings + sum(x.inputs * x.outputs for x in linears)
    names = [name for name, _ in model.named_modules() if ".layers.0." in name and "norm" in name]
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return ModelShape(
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        intermediate=text.intermediate_size,
        query=text.num_attention_heads * width,
        key=text.num_key_value_heads * width,
        heads=text.num_attention_heads,
        head_width=width,
        vocabulary=head.weight.shape[0],
        embeddings=embeddings,
        linears=tuple(linears),
        others=sum(p.numel() for p in model.parameters()) - counted,
        norms_per_layer=sum(name.endswith("layernorm") for name in names),
        head_norms=any(name.endswith("q_norm") for name in names),
        plain=not any(part in text.model_type for part in NOT_PLAIN),
        trees=bool(find_layers(model)),
    )


def is_target(name: str, targets: str | list[str]) -> bool:
    """Whether LoRA goes on the linear layer called `name`."""
    if targets == "all-linear":
        return True
    wanted = [targets] if isinstance(targets, str) else targets
    return any(name == target or name.endswith(f".{target}") for target in wanted)
