"""A LoRA adapter's weights, matched to the base's tensors.

LoRA: W + scale B A (Hu et al. 2021, arXiv 2106.09685, section 4.1), scale = alpha / r, or
alpha / sqrt(r) for rsLoRA.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file

from config import show_path
from errors import UserError
from merging.tensor_files import Layout

PREFIX = "base_model.model."
SIMILAR = 1e-5  # the largest relative error of the merge's own arithmetic, fp32
# adapter_config.json keys that change what has to be added, and the value that adds nothing
PLAIN = {
    "use_dora": False, "bias": "none", "modules_to_save": None, "alpha_pattern": {},
    "fan_in_fan_out": False, "lora_bias": False, "layer_replication": None,
    "trainable_token_indices": None, "target_parameters": None,
}  # fmt: skip


@dataclass(frozen=True)
class Update:
    """What LoRA adds to one weight: scale * up @ down."""

    down: torch.Tensor  # A [r, in], fp32
    up: torch.Tensor  # B [out, r], fp32
    scale: float

    def add_to(self, weight: torch.Tensor) -> torch.Tensor:
        """weight + scale B A, [out, in] in fp32."""
        return torch.addmm(weight.float(), self.up, self.down, alpha=self.scale)

    def measure_error(self, weight: torch.Tensor, merged: torch.Tensor) -> float:
        """Largest relative difference, on one probe, between the adapter beside the weight and
        the merged weight, both fp32."""
        probe = torch.linspace(-1.0, 1.0, weight.shape[1])
        beside = weight.float() @ probe + self.scale * (self.up @ (self.down @ probe))
        return ((merged @ probe - beside).abs().max() / beside.abs().max().clamp_min(1e-30)).item()


def load_updates(run_folder: Path, layout: Layout) -> dict[str, Update]:
    """Updates by the base's tensor name.

    Raises:
        UserError: the adapter is no plain LoRA, or the base lacks a tensor it adapts, or has it in
            another shape.
    """
    settings = json.loads((run_folder / "adapter_config.json").read_text(encoding="utf-8"))
    check_plain(settings, run_folder)
    shapes = {e.name: e.shape for entries in layout.values() for e in entries}
    halves: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in load_file(run_folder / "adapter_model.safetensors").items():
        module, dot, kind = name.removeprefix(PREFIX).rpartition(".lora_")
        if not dot or kind not in ("A.weight", "B.weight"):
            raise UserError(f"{show_path(run_folder)}: {name}: not a weight of a plain LoRA layer")
        halves.setdefault(f"{module}.weight", {})[kind[0]] = tensor.float()
    updates = {}
    for name, pair in halves.items():
        rank = pair["A"].shape[0]
        divisor = math.sqrt(rank) if settings.get("use_rslora") else rank
        updates[name] = Update(pair["A"], pair["B"], settings["lora_alpha"] / divisor)
        check_shape(name, updates[name], shapes.get(name), run_folder)
    return updates


def check_plain(settings: dict, run_folder: Path) -> None:
    """UserError unless adapter_config.json describes LoRA and nothing more."""
    odd = [key for key, plain in PLAIN.items() if (settings.get(key) or plain) != plain]
    if settings.get("peft_type") != "LORA":
        odd.insert(0, "peft_type")
    if odd:
        raise UserError(
            f"{show_path(run_folder / 'adapter_config.json')}: {odd[0]} is "
            f"{settings.get(odd[0])!r}; only plain LoRA is merged here; use peft's own "
            "merge_and_unload for others"
        )


def check_shape(name: str, update: Update, shape: tuple[int, ...] | None, run_folder: Path) -> None:
    """UserError when the base's tensor is absent or has another shape than the update."""
    wanted = (update.up.shape[0], update.down.shape[1])
    if shape != wanted:
        found = "no such tensor" if shape is None else f"the shape {list(shape)}"
        raise UserError(
            f"{show_path(run_folder)}: the adapter changes {name} {list(wanted)}, the base has "
            f"{found}; it was trained on another base: check model_name"
        )
