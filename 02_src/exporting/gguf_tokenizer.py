"""A byte-level BPE tokenizer as GGUF metadata: tokens, types, merges, and how text is split.

llama.cpp has no regex in the file, only the name of a splitting rule it knows. A tokenizer whose
rule is none of those below is refused: the model would see other tokens than in training.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import gguf

from config import show_path
from errors import UserError

LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class GgufTokenizer:
    """What GGUF stores of a tokenizer."""

    splitting: str  # llama.cpp's name of the rule
    tokens: list[str]
    types: list[int]
    merges: list[str]

    def add_to(self, writer: gguf.GGUFWriter, template: str, ids: dict[str, int | None]) -> None:
        """Write the tokenizer's keys; `ids` are bos, eos and pad."""
        writer.add_tokenizer_model("gpt2")  # byte-level BPE
        writer.add_tokenizer_pre(self.splitting)
        writer.add_token_list(self.tokens)
        writer.add_token_types(self.types)
        writer.add_token_merges(self.merges)
        writer.add_chat_template(template)
        # The rendered prompt holds every special token itself, BOS included.
        writer.add_add_bos_token(False)
        for name, write in (
            ("bos", writer.add_bos_token_id),
            ("eos", writer.add_eos_token_id),
            ("eot", writer.add_eot_token_id),
            ("pad", writer.add_pad_token_id),
        ):
            if ids[name] is not None:
                write(ids[name])


def read_tokenizer(folder: Path, rows: int) -> GgufTokenizer:
    """The tokenizer of a merged folder.

    Args:
        folder: holds tokenizer.json.
        rows: of the embedding; ids beyond the vocabulary are filled with unused tokens.

    Raises:
        UserError: no byte-level BPE, or split by a rule that llama.cpp has no name for.
    """
    settings = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    model = settings["model"]
    if model["type"] != "BPE" or model.get("byte_fallback"):
        raise UserError(
            f"{show_path(folder / 'tokenizer.json')}: {model['type']} with byte fallback "
            f"{bool(model.get('byte_fallback'))}; only byte-level BPE is exported; use llama.cpp's "
            "convert_hf_to_gguf.py"
        )
    names = {index: token for token, index in model["vocab"].items()}
    normal, control, own = (int(gguf.TokenType[n]) for n in ("NORMAL", "CONTROL", "USER_DEFINED"))
    types = dict.fromkeys(names, normal)
    for token in settings.get("added_tokens", ()):
        names[token["id"]] = token["content"]
        types[token["id"]] = control if token["special"] else own
    unused = int(gguf.TokenType.UNUSED)
    return GgufTokenizer(
        splitting=name_splitting(settings.get("pre_tokenizer"), folder),
        tokens=[names.get(i, f"[PAD{i}]") for i in range(rows)],
        types=[types.get(i, unused) for i in range(rows)],
        merges=[m if isinstance(m, str) else " ".join(m) for m in model["merges"]],
    )


def name_splitting(rule: dict | None, folder: Path) -> str:
    """llama.cpp's name of a pre_tokenizer of tokenizer.json; UserError where it has none."""
    parts = (rule or {}).get("pretokenizers", [rule] if rule else [])
    kinds = [part["type"] for part in parts]
    if kinds == ["ByteLevel"] and parts[0]["use_regex"]:
        return "gpt-2"
    if kinds == ["Digits", "ByteLevel"] and parts[0]["individual_digits"] and parts[1]["use_regex"]:
        return "smollm"
    if kinds == ["Split", "ByteLevel"] and parts[0]["pattern"].get("Regex") == LLAMA3_SPLIT:
        return "llama-bpe"
    raise UserError(
        f"{show_path(folder / 'tokenizer.json')}: splits text by {'+'.join(kinds) or 'no rule'}, "
        "which has no name in llama.cpp here (known: gpt-2, smollm, llama-bpe); use llama.cpp's "
        "convert_hf_to_gguf.py"
    )
