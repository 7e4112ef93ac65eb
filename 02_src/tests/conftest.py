"""Fixtures every test file shares: a tiny model, its tokenizer, pair files, and running a script.

Environment variables are set before the hub library is imported: tests use no network and leave
the user's caches alone.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

SCRATCH = tempfile.TemporaryDirectory(prefix="dpo-tests-")
TEST_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_CACHE": str(Path(SCRATCH.name) / "datasets"),
    "PYTHONUTF8": "1",
}
os.environ.update(TEST_ENVIRONMENT)

import pytest  # noqa: E402
from merge_run import make_run, tiny_merged  # noqa: E402, F401
from small_run import small_config  # noqa: E402, F401
from tiny_run import tiny_config, train_tiny  # noqa: E402, F401

from base_models import fetch_embedded  # noqa: E402
from config import REPOSITORY  # noqa: E402

EMBEDDED_NAME = "smollm2-135m-instruct"


@dataclass(frozen=True)
class Finished:
    """A script that ended."""

    rc: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def use_one_thread() -> None:
    """Tiny matmuls get slower with more threads; a script gets its own number from run_stage."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


@pytest.fixture(scope="session")
def embedded_model() -> Path:
    """Folder of the embedded model; fetched where it is missing (run_tests.py does so first)."""
    return fetch_embedded(EMBEDDED_NAME)


@pytest.fixture(scope="session")
def tiny_model(embedded_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random two-layer Llama (hidden 64, 4 heads) with the embedded tokenizer."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(embedded_model, local_files_only=True)
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    folder = tmp_path_factory.mktemp("models") / "tiny-llama"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def loaded_tokenizer(embedded_model: Path):
    """The embedded model's tokenizer as the toolkit loads it; tests take `tokenizer`."""
    from base_models import ModelSource, load_tokenizer

    return load_tokenizer(ModelSource("embedded", str(embedded_model)))


@pytest.fixture
def tokenizer(loaded_tokenizer) -> Iterator:
    """The embedded model's tokenizer; its chat template may be changed and is put back."""
    template = loaded_tokenizer.chat_template
    yield loaded_tokenizer
    loaded_tokenizer.chat_template = template


@pytest.fixture
def write_pairs(tmp_path: Path) -> Callable[..., Path]:
    """write_pairs(rows, name="pairs.jsonl"): a JSON Lines file; text rows are written as given."""

    def write(rows: list[dict | str], name: str = "pairs.jsonl") -> Path:
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        file = tmp_path / name
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return file

    return write


@pytest.fixture
def run_stage() -> Callable[..., Finished]:
    """run_stage(script, *arguments, stdin, cwd, threads): run a script as a user would."""

    def run(
        script: str,
        *arguments: str | Path,
        stdin: str = "",
        cwd: Path = REPOSITORY,
        threads: int = 1,
    ) -> Finished:
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        done = subprocess.run(
            [sys.executable, str(REPOSITORY / script), *map(str, arguments)],
            input=stdin,
            capture_output=True,
            text=True,
            encoding="utf-8",
            cwd=cwd,
            env=environment,
            timeout=600,
        )
        return Finished(done.returncode, done.stdout, done.stderr)

    return run
