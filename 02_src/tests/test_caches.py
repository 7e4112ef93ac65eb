"""Caches of a cold start: the 4-bit base is bit for bit the quantised one; tokens; cached hub."""

import os
import shutil
import subprocess
import sys

import pytest
import torch

import base_cache
import token_cache
import tokenization
from base_models import resolve_model
from config import REPOSITORY, Config
from hardware import find_device
from preferences import Pair
from qlora import load_base


def read_tensors(model) -> dict[str, torch.Tensor]:
    """Every tensor of a model, 4-bit scales included."""
    found = dict(model.named_buffers())
    for name, parameter in model.named_parameters():
        found[name] = parameter.data
        state = getattr(parameter, "quant_state", None)
        if state is not None:
            found |= {f"{name}.{k}": v for k, v in state.as_dict(packed=True).items()}
    return found


@pytest.mark.parametrize("double", [True, False])
def test_a_cached_base_is_the_quantised_one_bit_for_bit(
    embedded_model, tmp_path, monkeypatch, double
):
    monkeypatch.setattr(base_cache, "CACHE_FOLDER", tmp_path)
    config = Config(
        model_name="embedded:smollm2-135m-instruct", device="cpu", bnb_4bit_use_double_quant=double
    )
    device = find_device(config)
    first = load_base(config, device)
    (folder,) = tmp_path.iterdir()
    monkeypatch.setattr(base_cache, "write_quantised", None)  # a second quantisation would call it
    second = load_base(config, device)
    before, after = read_tensors(first), read_tensors(second)
    assert before.keys() == after.keys() and len(before) > 900
    for name, tensor in before.items():
        assert tensor.dtype == after[name].dtype and torch.equal(tensor, after[name]), name
    assert second.lm_head.weight.data_ptr() == second.model.embed_tokens.weight.data_ptr()
    assert not any(p.requires_grad for p in second.parameters()) and not second.config.use_cache
    assert list(folder.glob("*.safetensors"))


def test_the_cache_follows_weights_and_quantisation(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr(base_cache, "CACHE_FOLDER", tmp_path / "cache")
    monkeypatch.setattr(base_cache, "SMALLEST", 0)
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    config = Config(model_name=str(model), device="cpu")
    device = find_device(config)
    load_base(config, device)
    load_base(config, device)
    assert len(list((tmp_path / "cache").iterdir())) == 1
    load_base(config.model_copy(update={"bnb_4bit_quant_type": "fp4"}), device)
    assert len(list((tmp_path / "cache").iterdir())) == 2
    weights = model / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    load_base(config, device)
    assert len(list((tmp_path / "cache").iterdir())) == 3


def test_a_damaged_cache_is_said_and_made_again(tiny_model, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(base_cache, "CACHE_FOLDER", tmp_path)
    monkeypatch.setattr(base_cache, "SMALLEST", 0)
    config = Config(model_name=str(tiny_model), device="cpu")
    device = find_device(config)
    good = read_tensors(load_base(config, device))
    (folder,) = tmp_path.iterdir()
    os.truncate(folder / "model.safetensors", 1000)
    again = read_tensors(load_base(config, device))
    assert "damaged" in capsys.readouterr().err
    assert all(torch.equal(good[name], again[name]) for name in good)
    assert (folder / "model.safetensors").stat().st_size > 1000


def test_a_cached_hub_model_is_taken_from_disk(tiny_model, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    commit = "0123456789abcdef0123456789abcdef01234567"
    home = tmp_path / "models--someone--tiny"
    shutil.copytree(tiny_model, home / "snapshots" / commit)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(commit)
    source = resolve_model(Config(model_name="someone/tiny"))
    assert source.is_local and source.location.endswith(commit)
    assert source.load_options()["local_files_only"]
    (home / "snapshots" / commit / "model.safetensors").unlink()
    assert not resolve_model(Config(model_name="someone/tiny")).is_local, "half a download"


def test_tokens_are_the_same_from_the_cache(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(token_cache, "CACHE_FOLDER", tmp_path)
    monkeypatch.setattr(tokenization, "SMALLEST_CACHED", 0)
    pairs = [
        Pair([{"role": "user", "content": f"What is {i}? " * i}], f"It is {i}.", "No.", f"f:{i}")
        for i in range(1, 30)
    ]
    config = Config(max_seq_length=64)
    tokenizer(["a", "two words"], padding=True)  # as asking leaves it; the name is the same
    first = tokenization.tokenize_pairs(pairs, tokenizer, config)
    (file,) = tmp_path.iterdir()
    with monkeypatch.context() as patch:
        patch.setattr(tokenization, "tokenize_afresh", None)
        second = tokenization.tokenize_pairs(pairs, tokenizer, config)
    assert second == first and first.notices and len(first.rows) < len(pairs)
    assert token_cache.name_tokens(pairs, tokenizer, Config(max_seq_length=65)) != file
    file.write_bytes(b"damaged")
    assert tokenization.tokenize_pairs(pairs, tokenizer, config) == first


@pytest.mark.parametrize("module", ["trainer_setup", "trained_models"])
def test_imports_leave_torchs_compiler_alone(module):
    code = (
        f"import sys, torch; stock = torch.compile; import {module}, bitsandbytes; "
        "print('torch._inductor.compile_fx' in sys.modules, torch.compile is stock)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY / "02_src"
    )
    assert done.stdout.split() == ["False", "True"], done.stderr[-300:]
