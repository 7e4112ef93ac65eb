"""Sending to the Hub: a local server plays it; what leaves is what was listed, and nothing else."""

import hashlib
import json
import os
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from config import REPOSITORY
from errors import UserError
from hub_push import clean_text, collect_items
from model_card import name_publicly

TOKEN = "hf_" + "x" * 30


class FakeHub(ThreadingHTTPServer):
    """Plays the Hub's calls for creating a repository, large files and a commit."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), FakeHubHandler)
        self.created, self.uploads, self.commits, self.is_private = [], {}, [], True
        self.tokens = set()
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class FakeHubHandler(BaseHTTPRequestHandler):
    """Answers as huggingface.co does; large files go to /upload/<sha256>."""

    server: FakeHub

    def read(self) -> bytes:
        self.server.tokens.add(self.headers.get("Authorization"))
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def reply(self, values: dict) -> None:
        body = json.dumps(values).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        self.reply({"id": "me/model", "private": self.server.is_private, "siblings": []})

    def do_PUT(self) -> None:
        self.server.uploads[self.path.rpartition("/")[2]] = self.read()
        self.reply({})

    def do_POST(self) -> None:
        body = self.read()
        if self.path == "/api/repos/create":
            self.server.created.append(json.loads(body))
            self.reply({"url": f"{self.server.url}/me/model"})
        elif "/preupload/" in self.path:
            files = json.loads(body)["files"]
            big = (".safetensors", ".gguf", "tokenizer.json")
            self.reply({"files": [
                {"path": f["path"], "uploadMode": "lfs" if f["path"].endswith(big) else "regular",
                 "shouldIgnore": False} for f in files]})  # fmt: skip
        elif self.path.endswith("/info/lfs/objects/batch"):
            objects = [
                {**o, "actions": {"upload": {"href": f"{self.server.url}/upload/{o['oid']}"}}}
                for o in json.loads(body)["objects"]
            ]
            self.reply({"transfer": "basic", "objects": objects})
        elif "/commit/" not in self.path:  # the card's YAML is checked first
            self.reply({"errors": [], "warnings": []})
        else:
            self.server.commits.append([json.loads(line) for line in body.splitlines()])
            self.reply({"commitUrl": f"{self.server.url}/me/model/commit/1", "commitOid": "1" * 40})

    def log_message(self, format: str, *values) -> None:
        """Silent."""


@pytest.fixture
def hub():
    server = FakeHub()
    Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


def push(hub: FakeHub, folder, *options: str) -> subprocess.CompletedProcess[str]:
    """Run push.py against the fake Hub."""
    environment = {
        **os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1",
        "HF_TOKEN": TOKEN,
    }  # fmt: skip
    command = [sys.executable, str(REPOSITORY / "03_scripts" / "push.py"), "--model", str(folder)]
    command += ["--repo", "me/model", *options]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


def add_private_files(folder) -> None:
    """What a run folder holds besides the model."""
    for name in ("train.jsonl", "evaluation_items.jsonl", "metrics.jsonl", "training.log"):
        (folder / name).write_text("private\n")
    (folder / "checkpoint-3").mkdir()
    (folder / "checkpoint-3" / "adapter_model.safetensors").write_bytes(b"private")


def test_a_dry_run_lists_what_an_upload_sends_and_sends_nothing(make_run, hub):
    run = make_run()
    add_private_files(run)
    listed = push(hub, run)
    assert listed.returncode == 0, listed.stderr
    assert "nothing was sent" in listed.stdout and not hub.created and not hub.commits
    lines = [line.split() for line in listed.stdout.splitlines() if " bytes  " in line][:-1]
    sizes = {line[2]: int(line[0].replace(",", "")) for line in lines}
    assert set(sizes) == {
        "README.md", "prompt_contract.json", "tokenizer.json", "tokenizer_config.json",
        "chat_template.jinja", "adapter_config.json", "adapter_model.safetensors",
    }  # fmt: skip
    assert (run / "README.md").read_text(encoding="utf-8").startswith("---\nlibrary_name: peft")
    sent = push(hub, run, "--upload")
    assert sent.returncode == 0, sent.stderr
    assert hub.created[0]["visibility"] == "private" and hub.tokens >= {f"Bearer {TOKEN}"}
    found = {}
    for line in hub.commits[0][1:]:
        value = line["value"]
        large = line["key"] == "lfsFile"
        found[value["path"]] = value["size"] if large else len(_decode(value["content"]))
        if large:
            assert hashlib.sha256(hub.uploads[value["oid"]]).hexdigest() == value["oid"]
    assert found == sizes
    texts = [v["value"].get("content", "") for v in hub.commits[0][1:]]
    everything = b"".join([*hub.uploads.values(), *(_decode(text) for text in texts)])
    assert b"private\n" not in everything and TOKEN.encode() not in everything
    assert str(run.parent).encode() not in everything


def _decode(text: str) -> bytes:
    from base64 import b64decode

    return b64decode(text)


def test_a_public_repository_is_not_taken_for_a_private_one(make_run, hub):
    hub.is_private = False
    refused = push(hub, make_run(), "--upload")
    assert refused.returncode == 2 and "is public" in refused.stderr
    assert not hub.commits and not hub.uploads


def test_paths_of_this_machine_are_taken_out(make_run, tiny_model):
    run = make_run()
    config = json.loads((run / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(tiny_model)
    cleaned = json.loads(clean_text(run / "adapter_config.json"))
    assert cleaned == {**config, "base_model_name_or_path": tiny_model.name}
    assert name_publicly("/home/ann/secret project/model") == "model"
    assert name_publicly("C:\\Users\\ann\\model") == "model"
    assert name_publicly("meta-llama/Llama-3.2-1B-Instruct") == "meta-llama/Llama-3.2-1B-Instruct"
    assert name_publicly(str(REPOSITORY / "01_data" / "dpo")) == "01_data/dpo"


def test_a_file_with_a_token_or_a_link_is_refused(make_run, tmp_path):
    run = make_run()
    contract = run / "prompt_contract.json"
    text = contract.read_text(encoding="utf-8")
    contract.write_text(json.dumps({**json.loads(text), "note": TOKEN}), encoding="utf-8")
    with pytest.raises(UserError, match=r"prompt_contract.json: holds an access token"):
        collect_items(run)
    contract.write_text(text, encoding="utf-8")
    (run / "tokenizer_config.json").rename(tmp_path / "elsewhere.json")
    if os.name != "nt":  # links need rights there
        (run / "tokenizer_config.json").symlink_to(tmp_path / "elsewhere.json")
        with pytest.raises(UserError, match="a link"):
            collect_items(run)
    with pytest.raises(UserError, match="no adapter, merged model or export"):
        collect_items(tmp_path)


def test_the_merged_models_card_tells_strategy_base_and_limits(tiny_merged):
    text = (tiny_merged[1] / "README.md").read_text(encoding="utf-8")
    assert "library_name: transformers" in text and "# tiny" in text
    assert "Merged with the strategy" in text and "## Limits" in text
    names = {item.name for item in collect_items(tiny_merged[1])}
    assert "merge_report.json" not in names and "run_config.json" not in names
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= names
