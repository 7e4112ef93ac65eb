"""What is fuzzed: a strategy for broken input, and what must hold for every reader."""

import json
import struct
from collections.abc import Callable
from pathlib import Path

from hypothesis import strategies as st

from checkpoints import check_adapter_config, check_safetensors
from config import Config, load_config
from errors import UserError, escape_controls
from general_texts import load_texts
from gguf_header import check_gguf
from preferences import load_preferences
from prompt_contract import read_contract
from run_log import read_metrics
from safe_files import find_damage

TEXT = st.text(max_size=30)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | TEXT
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4)
)
KEYS = st.sampled_from(sorted(Config.model_fields)) | TEXT
FIELDS = st.sampled_from(
    [
        "instruction",
        "prompt",
        "chosen",
        "rejected",
        "context",
        "system",
        "accepted",
        "role",
        "text",
        "answer",
    ]
)
MESSAGES = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "system"]) | TEXT,
                           "content": TEXT | VALUES}), max_size=3,
)  # fmt: skip
ROWS = st.dictionaries(FIELDS | TEXT, TEXT | MESSAGES | VALUES, max_size=6)
GOOD_LINE = '{"instruction": "What is DP?", "chosen": "Dynamic Positioning", "rejected": "Data"}'


@st.composite
def broken_bytes(draw: st.DrawFn, good: bytes) -> bytes:
    """`good` with pieces cut out, repeated or replaced."""
    raw = bytearray(good)
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(raw)))
        end = min(len(raw), start + draw(st.integers(0, 20)))
        raw[start:end] = draw(st.binary(max_size=20))
    return bytes(raw)


def text_of(value: object) -> bytes:
    """JSON as people's programs write it, with NaN and lone surrogates where they come up."""
    return json.dumps(value).encode("utf-8", "surrogatepass")


def expect(run: Callable[[], object]) -> None:
    """A result, or a UserError of one line that a terminal shows as it is."""
    try:
        run()
    except UserError as error:
        line = escape_controls(" ".join(str(error).split()))
        assert line and "Traceback" not in line and "\x1b" not in line


def check_config(folder: Path, raw: bytes) -> None:
    """load_config, and what it loads is a Config that survives being saved."""
    file = folder / "fuzz.json"
    file.write_bytes(raw)

    def run() -> None:
        config = load_config(file)
        assert Config(**config.model_dump()) == config

    expect(run)


def check_data(suffix: str) -> Callable[[Path, bytes], None]:
    """load_preferences of a file with this suffix; every pair it gives can be trained on."""

    def check(folder: Path, raw: bytes) -> None:
        file = folder / f"fuzz{suffix}"
        file.write_bytes(raw)

        def run() -> None:
            data = load_preferences(Config(dataset_hf=str(file)))
            for pair in (*data.train, *data.validation):
                assert pair.chosen.strip() and pair.rejected.strip()
                assert pair.prompt[-1]["role"] == "user" and pair.source.startswith(str(file))
                "".join(m["content"] for m in pair.prompt).encode()  # no half characters

        expect(run)

    return check


def check_general(folder: Path, raw: bytes) -> None:
    """load_texts; every text it gives can be rendered."""
    file = folder / "general.jsonl"
    file.write_bytes(raw)

    def run() -> None:
        for text in load_texts(Config(rehearsal_file=str(file))):
            assert text.text.strip()
            "".join([text.text, *(m["content"] for m in text.prompt or ())]).encode()

    expect(run)


def check_file(name: str, read: Callable[[Path], object]) -> Callable[[Path, bytes], None]:
    """A reader of one file, or of the folder that holds it."""

    def check(folder: Path, raw: bytes) -> None:
        (folder / name).write_bytes(raw)
        expect(lambda: read(folder))

    return check


def header(raw: bytes) -> bytes:
    """`raw` behind its length, as safetensors begins."""
    return struct.pack("<Q", len(raw)) + raw


CONFIGS = st.dictionaries(KEYS, VALUES, max_size=6).map(text_of)
GOOD_CONFIG = text_of({name: Config().model_dump()[name] for name in Config.model_fields})
LINES = st.lists(ROWS.map(text_of) | st.binary(max_size=40), max_size=5).map(b"\n".join)
GOOD_GGUF = struct.pack("<4sIQQQ1sIQ3s", b"GGUF", 3, 1, 1, 1, b"k", 8, 3, b"abc")
GOOD_GGUF += struct.pack("<Q1sIQIQ", 1, b"t", 1, 8, 0, 0)
GOOD_TENSORS = header(text_of({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}))
GOOD_CONTRACT = b'{"canaries": [{"messages": [{"content": "a"}], "ids": [1]}], "eos_ids": [2]}'
TARGETS = {
    "config": (CONFIGS | broken_bytes(GOOD_CONFIG), check_config),
    "jsonl": (LINES | broken_bytes((GOOD_LINE + "\n").encode() * 3), check_data(".jsonl")),
    "json": (st.lists(ROWS, max_size=4).map(text_of) | broken_bytes(f"[{GOOD_LINE}]".encode()),
             check_data(".json")),
    "csv": (st.binary(max_size=80) | broken_bytes(b'instruction,chosen,rejected\n"a, b",c,d\n'),
            check_data(".csv")),
    "general": (LINES | broken_bytes(b'{"text": "a"}\n{"instruction": "b", "answer": "c"}\n' * 2),
                check_general),
    "safetensors": (broken_bytes(GOOD_TENSORS + bytes(4)) | VALUES.map(text_of).map(header),
                    check_file("w.safetensors", lambda f: check_safetensors(f / "w.safetensors"))),
    "gguf": (broken_bytes(GOOD_GGUF), check_file("m.gguf", lambda f: check_gguf(f / "m.gguf"))),
    "adapter": (VALUES.map(text_of) | broken_bytes(b'{"peft_type": "LORA"}'),
                check_file("a.json", lambda f: check_adapter_config(f / "a.json"))),
    "checksums": (VALUES.map(text_of) | broken_bytes(b'{"w": [3, "abc"]}'),
                  check_file("checksums.json", find_damage)),
    "contract": (VALUES.map(text_of) | broken_bytes(GOOD_CONTRACT),
                 check_file("prompt_contract.json", read_contract)),
    "metrics": (LINES, check_file("metrics.jsonl", read_metrics)),
}  # fmt: skip
