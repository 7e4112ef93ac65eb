"""More of the table of bad input: secrets, base models, run folders, adapters, checkpoints.

Each case damages a copy of a good thing, made once by the test.
"""

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

from bad_input import Case, write_config

PAYLOADS = (
    "adapter_model.bin", "pytorch_model.bin", "training_args.bin", "model.pt", "model.pth",
    "weights.pkl", "state.pickle", "model.ckpt", "payload.npy", "modeling_evil.py", "lib.so",
)  # fmt: skip
HEADERS = {
    "header longer than the file": struct.pack("<Q", 2**40) + b"{}",
    "header that is not JSON": struct.pack("<Q", 8) + b"notjson!",
    "offsets beyond the file": struct.pack("<Q", 66)
    + b'{"w": {"dtype": "F32", "shape": [9], "data_offsets": [0, 1000000]}}'[:66],
    "empty file": b"",
    "text": b"hello",
}


def run_case(name: str, damage: Callable[[Path], object], words: str, stage: str) -> Case:
    """A copy of a finished run with one thing broken, given to a later stage."""

    def prepare(folder: Path) -> list[str]:
        run = folder / "run"
        shutil.copytree(folder / "good_run", run)
        damage(run)
        return ["--run", str(run)]

    return Case(f"adapter: {name}", stage, prepare, words)


def checkpoint_case(name: str, damage: Callable[[Path], object], words: str) -> Case:
    """A stopped run whose only checkpoint holds something it should not."""

    def prepare(folder: Path) -> list[str]:
        shutil.copytree(folder / "good_stopped", folder / "out")
        damage(folder / "out" / "checkpoint-2")
        values = json.loads((folder / "out" / "run_config.json").read_text())
        values |= {"output_dir": str(folder / "out"), "logging_dir": str(folder / "logs")}
        (folder / "again.json").write_text(json.dumps(values))
        return ["--config", str(folder / "again.json"), "--resume"]

    return Case(f"checkpoint: {name}", "train_dpo", prepare, words)


def model_case(name: str, damage: Callable[[Path], object], words: str) -> Case:
    """A copy of a good model folder with one thing broken."""

    def prepare(folder: Path) -> list[str]:
        shutil.copytree(folder / "good_model", folder / "model")
        damage(folder / "model")
        return write_config(folder)

    return Case(f"model: {name}", "train_dpo", prepare, words)


def template_case(name: str, template: str, words: str) -> Case:
    """A good model with a chat template that must not be used."""

    def prepare(folder: Path) -> list[str]:
        shutil.copytree(folder / "good_model", folder / "model")
        (folder / "t.jinja").write_text(template, encoding="utf-8")
        return write_config(folder, chat_template=str(folder / "t.jinja"))

    return Case(f"model: template {name}", "train_dpo", prepare, words)


def secrets_case(name: str, content: str, words: str) -> Case:
    """A secrets.toml with one mistake, read for a hub model."""

    def prepare(folder: Path) -> list[str]:
        (folder / "secrets.toml").write_text(content)
        return write_config(folder, model_name="nobody/no-such-model")

    return Case(f"secrets: {name}", "train_dpo", prepare, words)


def write(name: str, content: bytes | str) -> Callable[[Path], object]:
    """Put a file into a folder."""
    raw = content if isinstance(content, bytes) else content.encode()
    return lambda folder: (folder / name).write_bytes(raw)


def cut(name: str, keep: float) -> Callable[[Path], object]:
    """Leave a share of a file."""

    def damage(folder: Path) -> None:
        raw = (folder / name).read_bytes()
        (folder / name).write_bytes(raw[: int(len(raw) * keep)])

    return damage


def remove(name: str) -> Callable[[Path], object]:
    """Take a file away."""
    return lambda folder: (folder / name).unlink()


def flip(name: str) -> Callable[[Path], object]:
    """Change the last byte of a file."""

    def damage(folder: Path) -> None:
        raw = bytearray((folder / name).read_bytes())
        raw[-1] ^= 1
        (folder / name).write_bytes(raw)

    return damage


def edit(name: str, **keys) -> Callable[[Path], object]:
    """Change keys of a JSON file."""

    def damage(folder: Path) -> None:
        values = json.loads((folder / name).read_text(encoding="utf-8"))
        (folder / name).write_text(json.dumps({**values, **keys}), encoding="utf-8")

    return damage


WEIGHTS, SETTINGS = "adapter_model.safetensors", "adapter_config.json"
ADAPTERS = (
    *(run_case(f"a {name} beside it", write(name, b"\x80\x04."), name, "merge_lora")
      for name in PAYLOADS),
    *(run_case(name, write(WEIGHTS, raw), "not a whole safetensors", "evaluate_dpo")
      for name, raw in HEADERS.items()),
    run_case("cut weights", cut(WEIGHTS, 0.5), "not a whole safetensors file", "merge_lora"),
    run_case("flipped byte", flip(WEIGHTS), "sha256 differs", "merge_lora"),
    run_case("no weights", remove(WEIGHTS), f"holds no {WEIGHTS}", "merge_lora"),
    run_case("no settings", remove(SETTINGS), f"holds no {SETTINGS}", "evaluate_dpo"),
    run_case("settings not JSON", write(SETTINGS, "{"), SETTINGS, "merge_lora"),
    run_case("settings of another kind", edit(SETTINGS, peft_type="IA3"), SETTINGS, "merge_lora"),
    run_case("settings with code", edit(SETTINGS, auto_mapping={"base_model_class": "os"}),
             SETTINGS, "merge_lora"),
    run_case("no config", remove("run_config.json"), "run_config.json", "evaluate_dpo"),
    run_case("config damaged", cut("run_config.json", 0.5), "run_config.json", "merge_lora"),
    run_case("no contract", remove("prompt_contract.json"), "missing", "merge_lora"),
    run_case("contract damaged", cut("prompt_contract.json", 0.5), "damaged", "merge_lora"),
)  # fmt: skip
CHECKPOINTS = (
    *(checkpoint_case(f"a {name} in it", write(name, b"\x80\x04."), name) for name in PAYLOADS),
    checkpoint_case("payload in a subfolder",
                    lambda f: ((f / "sub").mkdir(), (f / "sub" / "optimizer.pt").write_bytes(b"x")),
                    "optimizer.pt"),
)  # fmt: skip
MODELS = (
    model_case("no config.json", remove("config.json"), "holds no config.json"),
    model_case("config not JSON", write("config.json", "{"), "cannot be loaded"),
    model_case("an adapter", write(SETTINGS, "{}"), "holds an adapter"),
    model_case("cut weights", cut("model.safetensors", 0.5), "model_name"),
    model_case("pickled weights only",
               lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"), "model_name"),
    model_case("code of its own",
               edit("config.json", model_type="evil", auto_map={"AutoModelForCausalLM": "x.Y",
                                                                "AutoConfig": "x.C"}),
               "trust_remote_code"),
)  # fmt: skip
MODELS += (
    template_case("with a syntax error", "{% for %}", "chat_template"),
    template_case("that reaches for Python", "{{ ''.__class__.__mro__[1].__subclasses__() }}",
                  "chat_template"),
    template_case("that loops for ever", "{% for i in range(10**9) %}x{% endfor %}",
                  "chat_template"),
    template_case("of a megabyte", "x" * 1_000_000, "chat_template: 1,000,000 characters"),
    template_case("without the user's text", "hello", "chat_template"),
)  # fmt: skip
SECRETS = (
    secrets_case("not TOML", "[huggingface\n", "secrets.toml:1: not valid TOML"),
    secrets_case("token is a number", "[huggingface]\ntoken = 3\n", "token must be text"),
    secrets_case("no quotes", "[huggingface]\ntoken = abc\n", "secrets.toml:2: not valid TOML"),
)  # fmt: skip
