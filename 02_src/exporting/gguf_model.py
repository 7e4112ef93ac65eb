"""Write a merged Llama as one GGUF file, tensor by tensor.

GGUF stores query and key rows in another order: transformers rotates the two halves of a head,
llama.cpp rotates neighbours, so row i of the first half and row i of the second become neighbours.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Kind
from tqdm.auto import tqdm
from transformers import AutoTokenizer

from config import show_path
from errors import UserError
from exporting.gguf_tokenizer import read_tokenizer
from merging.tensor_files import TensorEntry, read_layout, read_tensor
from prompt_contract import eos_ids

FAMILY = "llama"
# kind -> (format of the linear layers, of the embedding and head, GGUF's name for the file)
KINDS = {
    "f16": (Kind.F16, Kind.F16, gguf.LlamaFileType.MOSTLY_F16),
    "q8_0": (Kind.Q8_0, Kind.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0),
    "q4_0": (Kind.Q4_0, Kind.Q8_0, gguf.LlamaFileType.MOSTLY_Q4_0),
    "q4_1": (Kind.Q4_1, Kind.Q8_0, gguf.LlamaFileType.MOSTLY_Q4_1),
}
ROPE_FACTORS = "rope_freqs.weight"


@dataclass(frozen=True)
class LlamaShape:
    """The hyperparameters GGUF stores, from config.json."""

    settings: dict

    @property
    def heads(self) -> int:
        """Query heads."""
        return self.settings["num_attention_heads"]

    @property
    def key_heads(self) -> int:
        """Key and value heads."""
        return self.settings.get("num_key_value_heads") or self.heads

    @property
    def head_size(self) -> int:
        """Dimensions per head."""
        return self.settings.get("head_dim") or self.settings["hidden_size"] // self.heads

    @property
    def rope(self) -> dict:
        """rope_type, rope_theta and the scaling's numbers, from either place configs keep them."""
        scaling = self.settings.get("rope_scaling") or {}
        rope = self.settings.get("rope_parameters") or scaling
        theta = rope.get("rope_theta") or self.settings.get("rope_theta") or 10000.0
        return {**rope, "rope_theta": theta}


def check_family(folder: Path) -> LlamaShape:
    """The model's shape; UserError by name for what is no Llama or scales RoPE in another way."""
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    name = (settings.get("architectures") or [settings.get("model_type")])[0]
    if settings.get("model_type") != FAMILY:
        raise UserError(
            f"{show_path(folder)}: {name} is not of the Llama family; use llama.cpp's "
            "convert_hf_to_gguf.py for it"
        )
    shape = LlamaShape(settings)
    rope_type = shape.rope.get("rope_type", "default")
    if rope_type not in ("default", "llama3"):
        raise UserError(f"{show_path(folder)}: RoPE scaling {rope_type} is not exported here")
    return shape


def write_gguf(folder: Path, file: Path, kind: str) -> None:
    """Write the model in `folder` as `kind`; read it from the finished file only.

    Args:
        folder: a merged model of the Llama family.
        file: the .gguf to write.
        kind: a name of KINDS.
    """
    shape = check_family(folder)
    tied = shape.settings.get("tie_word_embeddings", False)
    entries = [
        entry
        for entries in read_layout(folder).values()
        for entry in entries
        if not (tied and entry.name == "lm_head.weight") and "rotary_emb" not in entry.name
    ]
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, shape.settings["num_hidden_layers"])
    writer = gguf.GGUFWriter(file, FAMILY)
    add_metadata(writer, folder, shape, kind, entries)
    factors = find_rope_factors(shape)
    if factors is not None:
        writer.add_tensor_info(ROPE_FACTORS, factors.shape, factors.dtype, factors.nbytes)
    plan = [(entry, name_tensor(entry, names), choose_format(entry, kind)) for entry in entries]
    for entry, name, form in plan:
        add_tensor_info(writer, entry, name, form)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    if factors is not None:
        writer.write_tensor_data(factors)
    for entry, _, form in tqdm(plan, desc=f"writing {kind}", unit="tensor", leave=False):
        writer.write_tensor_data(gguf.quantize(reorder(entry, shape), form))
    writer.close()


def add_metadata(
    writer: gguf.GGUFWriter, folder: Path, shape: LlamaShape, kind: str, entries: list[TensorEntry]
) -> None:
    """Hyperparameters, tokenizer, template and token ids."""
    settings = shape.settings
    writer.add_name(folder.name)
    writer.add_file_type(KINDS[kind][2])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_context_length(settings["max_position_embeddings"])
    writer.add_embedding_length(settings["hidden_size"])
    writer.add_block_count(settings["num_hidden_layers"])
    writer.add_feed_forward_length(settings["intermediate_size"])
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.key_heads)
    writer.add_key_length(shape.head_size)
    writer.add_value_length(shape.head_size)
    writer.add_rope_dimension_count(shape.head_size)
    writer.add_rope_freq_base(shape.rope["rope_theta"])
    writer.add_layer_norm_rms_eps(settings["rms_norm_eps"])
    rows = next(e.shape[0] for e in entries if e.name.endswith("embed_tokens.weight"))
    writer.add_vocab_size(rows)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    end = eos_ids(tokenizer)[0]
    ids = {"bos": tokenizer.bos_token_id, "eos": end, "eot": end, "pad": tokenizer.pad_token_id}
    read_tokenizer(folder, rows).add_to(writer, tokenizer.chat_template, ids)


def name_tensor(entry: TensorEntry, names: gguf.TensorNameMap) -> str:
    """GGUF's name of a tensor; UserError for one that a GGUF Llama has no place for."""
    name = names.get_name(entry.name, try_suffixes=(".weight", ".bias"))
    if name is None:
        raise UserError(f"{show_path(entry.file)}: {entry.name} has no place in a GGUF Llama")
    return name


def choose_format(entry: TensorEntry, kind: str) -> Kind:
    """F32 for vectors; F16 where a row does not divide into blocks; else what `kind` says."""
    if len(entry.shape) == 1:
        return Kind.F32
    ends = entry.name.startswith("lm_head") or entry.name.endswith("embed_tokens.weight")
    form = KINDS[kind][1 if ends else 0]
    block = gguf.GGML_QUANT_SIZES[form][0]
    return form if entry.shape[-1] % block == 0 else Kind.F16


def add_tensor_info(writer: gguf.GGUFWriter, entry: TensorEntry, name: str, form: Kind) -> None:
    """Announce a tensor before the file is opened."""
    plain = {Kind.F16: np.float16, Kind.F32: np.float32}
    if form in plain:
        dtype, shape = np.dtype(plain[form]), entry.shape
        size = math.prod(shape) * dtype.itemsize
    else:
        dtype, shape = np.dtype(np.uint8), gguf.quant_shape_to_byte_shape(entry.shape, form)
        size = math.prod(shape)
    writer.add_tensor_info(name, shape, dtype, size, raw_dtype=form)


def reorder(entry: TensorEntry, shape: LlamaShape) -> np.ndarray:
    """The tensor in fp32, query and key rows in GGUF's order."""
    values = read_tensor(entry).float().numpy()
    for part, heads in ((".q_proj.", shape.heads), (".k_proj.", shape.key_heads)):
        if part in entry.name:
            return interleave_halves(values, heads)
    return values


def interleave_halves(rows: np.ndarray, heads: int) -> np.ndarray:
    """Rows of each head from (first half, second half) to pairs, one of each half."""
    half = rows.shape[0] // heads // 2
    split = rows.reshape(heads, 2, half, *rows.shape[1:])
    return np.ascontiguousarray(split.swapaxes(1, 2)).reshape(rows.shape)


def find_rope_factors(shape: LlamaShape) -> np.ndarray | None:
    """What llama.cpp divides each RoPE frequency by, for Llama-3.1's scaling; None without any.

    Waves that fit often into the original context stay (1), long ones are slowed by `factor`,
    those between are blended.
    """
    rope = shape.rope
    if rope.get("rope_type", "default") == "default":
        return None
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    exponents = np.arange(0, shape.head_size, 2, dtype=np.float32) / shape.head_size
    waves = 2 * math.pi * rope["rope_theta"] ** exponents  # tokens per turn
    turns = rope["original_max_position_embeddings"] / waves  # turns in the original context
    blend = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return (1.0 / ((1 - blend) / rope["factor"] + blend)).astype(np.float32)
