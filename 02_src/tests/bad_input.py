"""The table of bad input: what a user can get wrong, and a word that the one line must hold."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

GOOD_ROW = {"instruction": "What is DP?", "chosen": "Dynamic Positioning.", "rejected": "Data."}
CONTRADICTION = {**GOOD_ROW, "chosen": "Data.", "rejected": "Dynamic Positioning."}


@dataclass(frozen=True)
class Case:
    """One mistake."""

    name: str
    stage: str  # script of 02_src
    prepare: Callable[[Path], list[str]]  # folder -> command line
    words: str  # what the error line must hold


def config_case(name: str, content: dict | str | bytes, words: str) -> Case:
    """A config file with one mistake."""

    def prepare(folder: Path) -> list[str]:
        raw = json.dumps(content) if isinstance(content, dict) else content
        file = folder / "c.json"
        file.write_bytes(raw if isinstance(raw, bytes) else raw.encode())
        return ["--config", str(file)]

    return Case(f"config: {name}", "train_dpo", prepare, words)


def data_case(name: str, content: str | bytes | list, words: str, file: str = "d.jsonl") -> Case:
    """A data file with one mistake."""

    def prepare(folder: Path) -> list[str]:
        raw = content
        if isinstance(raw, list):
            lines = [row if isinstance(row, str) else json.dumps(row) for row in raw]
            raw = "\n".join(lines) + "\n"
        path = folder / file
        path.write_bytes(raw if isinstance(raw, bytes) else raw.encode())
        return write_config(folder, dataset_hf=str(path))

    return Case(f"data: {name}", "train_dpo", prepare, words)


def row_case(name: str, changes: dict, words: str) -> Case:
    """A second row with one mistake."""
    row = {k: v for k, v in {**GOOD_ROW, **changes}.items() if v != "-"}
    return data_case(name, [GOOD_ROW, row], words)


def command_case(name: str, stage: str, arguments: list[str], words: str) -> Case:
    """A command line with one mistake."""
    return Case(f"command: {name}", stage, lambda folder: list(arguments), words)


def write_config(folder: Path, **keys) -> list[str]:
    """A config that would be fine; the command line that uses it."""
    data = folder / "good.jsonl"
    data.write_text(json.dumps(GOOD_ROW) + "\n", encoding="utf-8")
    values = {
        "model_name": str(folder / "model"), "dataset_hf": str(data), "device": "cpu",
        "output_dir": str(folder / "out"), "logging_dir": str(folder / "logs"),
        "merged_dir": str(folder / "merged"), "loss_type": "sigmoid", **keys,
    }  # fmt: skip
    file = folder / "good.json"
    file.write_text(json.dumps(values), encoding="utf-8")
    return ["--config", str(file)]


CONFIG = (
    config_case("empty", "", "c.json:1: not valid JSON"),
    config_case("comma missing", '{\n"seed": 1\n"lora_r": 2}', "c.json:3: not valid JSON"),
    config_case("trailing comma", '{"seed": 1,}', "c.json:1: not valid JSON: a comma before"),
    config_case("a list", "[]", "one JSON object"),
    config_case("null", "null", "one JSON object"),
    config_case("latin-1", b'{"model_name": "caf\xe9"}', "UTF-8"),
    config_case("UTF-16", '{"seed": 1}'.encode("utf-16"), "UTF-8"),
    config_case("a picture", b"\x89PNG\r\n\x1a\n\x00\x00", "c.json"),
    config_case("deep nesting", '{"test_files": ' + "[" * 9000, "c.json"),
    config_case("key twice", '{"seed": 1, "seed": 2}', "seed: given twice"),
    config_case("unknown key", {"lerning_rate": 1}, "did you mean learning_rate?"),
    config_case("strange key", {"\x1b[2Jzzzz": 1}, r"\x1b[2Jzzzz: unknown key"),
    config_case("negative rate", {"learning_rate": -1}, "learning_rate: must be > 0"),
    config_case("rate as text", {"learning_rate": "1e-4"}, "learning_rate: must be"),
    config_case("rate is NaN", '{"learning_rate": NaN}', "learning_rate: must be"),
    config_case("rate is infinite", '{"learning_rate": Infinity}', "learning_rate: must be"),
    config_case("rank zero", {"lora_r": 0}, "lora_r: must be > 0"),
    config_case("rank is a fraction", {"lora_r": 8.5}, "lora_r: must be"),
    config_case("huge integer", '{"seed": ' + "9" * 4000 + "}", "seed: must be"),
    config_case("flag as text", {"bf16": "yes"}, "bf16: must be"),
    config_case("flag as number", {"bf16": 1}, "bf16: must be"),
    config_case("both halves", {"fp16": True, "bf16": True}, "fp16: cannot be true"),
    config_case("no such loss", {"loss_type": "cpo"}, "loss_type: must be"),
    config_case("weights do not fit", {"loss_weights": [1, 1, 1]}, "loss_weights: has 3"),
    config_case("no such optimizer", {"optim": "adam"}, "optim: must be"),
    config_case("no such schedule", {"lr_scheduler_type": "warm"}, "lr_scheduler_type: must be"),
    config_case("no targets", {"lora_target_modules": []}, "lora_target_modules: is empty"),
    config_case("empty model name", {"model_name": ""}, "model_name: "),
    config_case("model is a number", {"model_name": 3}, "model_name: must be"),
    config_case("no data", {"dataset_hf": None}, "dataset_hf: must be"),
    config_case("test files a list", {"test_files": ["a"]}, "test_files: must be"),
    config_case("device", {"device": "gpu"}, "device: must be"),
    config_case("prompt beyond row", {"max_prompt_length": 512}, "max_prompt_length: must be"),
    config_case("batch that no memory holds", {"per_device_train_batch_size": 4096,
                "max_seq_length": 65536}, "per_device_train_batch_size: "),
)  # fmt: skip
DATA = (
    data_case("empty file", "", "holds no pairs"),
    data_case("blank lines only", "\n\n", "holds no pairs"),
    data_case("not JSON", "hello\n", "d.jsonl:1: not valid JSON"),
    data_case("cut in the middle", json.dumps(GOOD_ROW)[:-9], "d.jsonl:1: not valid JSON"),
    data_case("a list", "[1]\n", "d.jsonl:1: must be a JSON object"),
    data_case("NUL bytes", b"\x00" * 64, "d.jsonl:1: not valid JSON"),
    data_case("latin-1", b'{"instruction": "\xe9"}', "not UTF-8 text at byte"),
    data_case("gzip named jsonl", b"\x1f\x8b\x08\x00\x00", "not UTF-8"),
    data_case("deep nesting", '{"chosen": ' + "[" * 100_000, "d.jsonl:1: not valid JSON"),
    data_case("contradiction", [GOOD_ROW, CONTRADICTION], "d.jsonl:2: contradicts"),
    row_case("no chosen", {"chosen": "-"}, "d.jsonl:2: field chosen is missing"),
    row_case("no rejected", {"rejected": "-"}, "d.jsonl:2: field rejected is missing"),
    row_case("no question", {"instruction": "-"}, "d.jsonl:2: field instruction is missing"),
    row_case("null", {"chosen": None}, "d.jsonl:2: field chosen is missing"),
    row_case("empty answer", {"chosen": "  "}, "d.jsonl:2: field chosen is empty"),
    row_case("a number", {"rejected": 3}, "d.jsonl:2: field rejected must be text"),
    row_case("an object", {"instruction": {}}, "d.jsonl:2: field instruction must be text"),
    row_case("same answers", {"rejected": "Dynamic Positioning. "}, "d.jsonl:2: chosen and"),
    row_case("half a character", {"chosen": "\ud800"}, "d.jsonl:2: field chosen holds half"),
    row_case("context a list", {"context": ["a"]}, "d.jsonl:2: field context must be text"),
    row_case("system a number", {"system": 1}, "d.jsonl:2: field system must be text"),
    row_case("accepted a text", {"accepted": "DP"}, "d.jsonl:2: field accepted must be a list"),
    row_case("competing numbers", {"competing": [1]}, "d.jsonl:2: field competing must be a list"),
    row_case("messages without content", {"chosen": [{"role": "assistant"}]}, "d.jsonl:2: chosen"),
    row_case("messages with a strange role",
             {"chosen": [{"role": "\x1b[31mroot", "content": "a"}]}, "d.jsonl:2: chosen has"),
    row_case("escape in a field name", {"chosen": "-", "\x1b[2J": 1}, r"\x1b[2J"),
    data_case("wrong csv header", "a,b\n1,2\n", "field instruction is missing", "d.csv"),
    data_case("json with a syntax error", "[{]\n", "d.json:1: not valid JSON", "d.json"),
    data_case("text named parquet", "hello", "d.parquet", "d.parquet"),
    data_case("cut parquet", b"PAR1" + b"\x00" * 40, "d.parquet", "d.parquet"),
    data_case("an archive", b"PK\x03\x04" + b"\x00" * 99, "not a data file", "d.zip"),
    data_case("a text file", "hello", "not a data file", "d.txt"),
    Case("data: no such test file", "train_dpo",
         lambda f: write_config(f, test_files={"seen": str(f / "none.jsonl")}), "no such file"),
    Case("data: a path that is no data file", "train_dpo",
         lambda f: write_config(f, dataset_hf="my/own/pairs"), "no such file"),
    Case("data: no such file", "train_dpo",
         lambda f: write_config(f, dataset_hf=str(f / "none.jsonl")), "no such file"),
    Case("data: a folder", "train_dpo",
         lambda f: write_config(f, dataset_hf=str(f)), "not a data file"),
    Case("data: validation file is missing", "train_dpo",
         lambda f: write_config(f, validation_file=str(f / "none.jsonl")), "no such file"),
    Case("data: path that climbs out", "train_dpo",
         lambda f: write_config(f, dataset_hf="../../../../etc/none.jsonl"), "no such file"),
)  # fmt: skip
COMMANDS = (
    command_case("no such config", "train_dpo", ["--config", "none.json"], "no such config file"),
    command_case("set without value", "train_dpo", ["--set", "lora_r"], "write it as key=value"),
    command_case("set of no key", "train_dpo", ["--set", "lora_rank=1"], "did you mean lora_r?"),
    command_case("set out of bounds", "train_dpo", ["--set", "lora_r=0"], "lora_r: must be > 0"),
    command_case("not a run", "evaluate_dpo", ["--run", "04_models/none"], "run_config.json"),
    command_case("no such model", "evaluate_dpo", ["--run", "x", "--models", "y"], "--models y"),
    command_case("limit zero", "evaluate_dpo", ["--run", "x", "--limit", "0"], "--limit 0"),
    command_case("merge not a run", "merge_lora", ["--run", "04_models/none"], "run_config.json"),
    command_case("ask no folder", "run_inference", ["--model", "none", "--prompt", "x"], "no such"),
    command_case("ask nothing", "run_inference", ["--model", "00_configs", "--prompt", "x"],
                 "run_config.json"),
    command_case("negative temperature", "run_inference",
                 ["--model", "x", "--prompt", "x", "--temperature", "-1"], "--temperature"),
    command_case("monitor no folder", "monitor_training", ["05_logs/none"], "no such log folder"),
)  # fmt: skip
