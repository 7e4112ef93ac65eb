"""Send an adapter, merged model or export to the Hugging Face Hub: listed first, private.

Only files on a list leave the machine: weights, tokenizer, contract, card. Training data, answers,
logs, run configs, tokens and checkpoints are on no list, and paths of this machine are taken out
of the settings that go.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from config import Config, load_run_config, log_folder, show_path, write_text
from errors import UserError
from model_card import build_card, name_publicly
from run_log import read_metrics
from secrets_file import find_token

TOKENIZER = (
    "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "merges.txt", "chat_template.jinja",
)  # fmt: skip
SHARED = ("README.md", "prompt_contract.json", *TOKENIZER)
MODEL = ("config.json", "generation_config.json", "model.safetensors.index.json")
FILES = {
    "adapter": (*SHARED, "adapter_config.json", "adapter_model.safetensors"),
    "merged": (*SHARED, *MODEL, "model*.safetensors"),
    "gguf": ("README.md", "prompt_contract.json", "config.json", "Modelfile", "*.gguf"),
}
WEIGHTS = {"adapter": "adapter_model.safetensors", "merged": "model*.safetensors", "gguf": "*.gguf"}
PATH_KEYS = ("base_model_name_or_path", "model_name", "_name_or_path", "name_or_path")
BINARY = (".safetensors", ".gguf", ".model")
SECRET = re.compile(r"\bhf_[A-Za-z0-9]{20,}|-----BEGIN [A-Z ]*PRIVATE KEY")
REPO_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


@dataclass(frozen=True)
class Item:
    """One file that would leave the machine."""

    name: str  # in the repository
    content: Path | bytes

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self.content) if isinstance(self.content, bytes) else self.content.stat().st_size


def find_kind(folder: Path) -> str:
    """adapter, merged or gguf; UserError for a folder that is none of them."""
    for kind, pattern in WEIGHTS.items():
        if any(folder.glob(pattern)):
            return kind
    raise UserError(f"{show_path(folder)}: holds no adapter, merged model or export; see 04_models")


def collect_items(folder: Path) -> list[Item]:
    """Exactly what would be sent, the card written afresh into `folder` first.

    Raises:
        UserError: not a model folder, a link in place of a file, or a file that holds a secret or
            this machine's paths.
    """
    kind = find_kind(folder)
    config = load_run_config(folder)
    write_text(folder / "README.md", build_card(config, folder, kind, read_training(config)))
    names = [path for pattern in FILES[kind] for path in sorted(folder.glob(pattern))]
    items = []
    for path in names:
        if path.is_symlink():
            raise UserError(f"{show_path(path)}: a link to another file; put the file itself there")
        binary = path.suffix in BINARY
        items.append(Item(path.name, path if binary else clean_text(path)))
    for item in items:
        check_private(item, folder)
    return items


def read_training(config: Config) -> list[dict]:
    """The run's metrics, where its logs are still there."""
    folder = log_folder(config)
    return read_metrics(folder) if folder.is_dir() else []


def clean_text(path: Path) -> bytes:
    """A text file's bytes; in JSON settings a path of this machine becomes a bare name."""
    text = path.read_bytes()
    if path.suffix != ".json" or path.name == "tokenizer.json":
        return text
    values = json.loads(text)
    changed = {k: name_publicly(values[k]) for k in PATH_KEYS if isinstance(values.get(k), str)}
    if not changed:
        return text
    return (json.dumps({**values, **changed}, indent=2, ensure_ascii=False) + "\n").encode()


def check_private(item: Item, folder: Path) -> None:
    """UserError when a text file holds a token, a key, or a path of this machine."""
    if isinstance(item.content, Path) or item.name == "tokenizer.json":
        return
    text = item.content.decode("utf-8", errors="replace")
    if SECRET.search(text):
        raise UserError(f"{show_path(folder / item.name)}: holds an access token or key; remove it")
    for place in (str(Path.home()), str(folder.resolve())):
        if len(place) > 1 and re.search(rf"{re.escape(place)}[/\\]", text):
            raise UserError(f"{show_path(folder / item.name)}: holds the path {place}; remove it")


def describe_items(items: list[Item], repo_id: str, private: bool) -> str:
    """The list a dry run prints."""
    lines = [f"{item.size:>14,} bytes  {item.name}" for item in items]
    total = sum(item.size for item in items)
    visibility = "private" if private else "PUBLIC"
    return "\n".join([*lines, f"{total:>14,} bytes  in all, to {repo_id} ({visibility})"])


def send(items: list[Item], repo_id: str, private: bool) -> str:
    """Create the repository where needed and commit the files; return its address.

    Raises:
        UserError: no token, a malformed id, the Hub refuses, or the repository exists, is public,
            and --public was not given.
    """
    from httpx import HTTPError
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    check_target(repo_id)
    api = HfApi(token=find_token())
    try:
        address = api.create_repo(repo_id, private=private, exist_ok=True)
        if private and not api.repo_info(repo_id).private:
            raise UserError(f"{repo_id}: exists and is public; give --public, or another name")
        operations = [CommitOperationAdd(item.name, to_source(item)) for item in items]
        api.create_commit(repo_id, operations, commit_message="Upload model")
    except (HfHubHTTPError, HTTPError, OfflineModeIsEnabled, ConnectionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{repo_id}: the Hub did not take it: {reason}") from None
    return str(address)


def check_target(repo_id: str) -> None:
    """UserError for a malformed id or a missing token."""
    if not REPO_ID.fullmatch(repo_id):
        raise UserError(f"--repo {repo_id}: write it as owner/name")
    if not find_token():
        raise UserError("no access token: set HF_TOKEN or 00_configs/secrets.toml (write access)")


def to_source(item: Item) -> bytes | str:
    """What huggingface_hub takes for a file's content."""
    return item.content if isinstance(item.content, bytes) else str(item.content)
