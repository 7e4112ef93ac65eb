"""A run within its memory: refused, fitted, saved and continued after running out; spilling."""

import dataclasses
import json

import pytest
import torch

from config import log_folder, resolve_path
from errors import UserError
from hardware import GIB, Device, find_device
from memory.guard import SpillWatch
from memory.speed import Rates
from memory_plan import (
    describe_verification,
    measure_lengths,
    prepare_plan,
    saved_when_out_of_memory,
    train_within,
)
from run_log import read_metrics

RATES = Rates(((64, 1e14), (1024, 5e14)), 2e12, 4e-6, 4e-6)
SHORT = [(70, 24)] * 64


@pytest.fixture(autouse=True)
def with_masks(monkeypatch):
    """Plan as on Linux with an NVIDIA card for a model whose attention reads masks: of a tiny
    model's memory they are the largest part."""
    monkeypatch.setattr("memory.plan.find_kernels", object)
    monkeypatch.setattr("memory.shape.find_layers", lambda model: [])


def make_gpu(free_gib: float) -> Device:
    return Device("cuda", "card", int(free_gib * GIB), 80 * GIB, True, 4, "580", "9.0")


@pytest.fixture
def tiny_plans(tiny_config):
    """prepare(free_gib, lengths, **keys): the tiny model's plan on a card with so much free."""

    def prepare(free_gib: float, lengths=SHORT, **keys):
        config = tiny_config("planned", **{"device": "auto", "lora_r": 4, **keys})
        return prepare_plan(config, make_gpu(free_gib), lengths, RATES)

    return prepare


def test_a_run_that_does_not_fit_is_refused_with_the_keys_that_help(tiny_plans, capsys):
    long = [(4000, 3000)] * 8
    with pytest.raises(
        UserError, match="auto_fit=true, or --set per_device_train_batch_size=[12] "
    ):
        tiny_plans(0.51, long, gradient_checkpointing=True)
    planned = tiny_plans(0.51, long, auto_fit=True, gradient_checkpointing=True)
    assert planned.config.per_device_train_batch_size < 4 and planned.config.effective_batch == 4
    assert "auto_fit:" in capsys.readouterr().out
    with pytest.raises(UserError, match="no split of the batch fits.*max_seq_length="):
        tiny_plans(0.1, long, auto_fit=True)


def test_out_of_memory_takes_the_next_smaller_plan_or_proposes_it(tiny_plans):
    long = [(4000, 3000)] * 8
    planned = tiny_plans(79, long, auto_fit=True)
    tried = []

    def attempt(planned, resume):
        tried.append((planned.plan.process, resume))
        if len(tried) < 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")
        if len(tried) < 3:
            raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate")
        return "done"

    assert train_within(planned, attempt, False) == "done"
    assert [resume for _, resume in tried] == [False, True, True]
    assert tried[0][0] > tried[1][0] > tried[2][0]
    tried.clear()
    fixed = dataclasses.replace(
        planned, config=planned.config.model_copy(update={"auto_fit": False})
    )
    with pytest.raises(UserError, match="the run is saved: go on with --resume --set per_device"):
        train_within(fixed, attempt, False)

    def fail(planned, resume):
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        train_within(planned, fail, False)


def test_a_run_that_runs_out_is_saved_and_goes_on_smaller(tiny_config, monkeypatch, capsys):
    """A real run on the CPU; only the error itself is made."""
    from preferences import load_preferences
    from qlora import load_policy
    from tokenization import tokenize_pairs
    from train_dpo import train
    from trainer_setup import build_trainer

    config = tiny_config("recovered", auto_fit=True, keep_best=False, save_steps=100)
    device, data = find_device(config), load_preferences(config)
    _, tokenizer = load_policy(config, device)
    rows = tokenize_pairs(data.train, tokenizer, config).rows
    planned = prepare_plan(config, device, measure_lengths(rows), RATES)
    batches = []

    def attempt(planned, resume):
        model, tokenizer = load_policy(planned.config, device)
        trainer = build_trainer(planned.config, device, model, tokenizer, data, planned.plan)
        batches.append(trainer.args.per_device_train_batch_size)
        stock = trainer.training_step

        def run_out(*arguments, **options):
            if len(batches) == 1 and trainer.state.global_step == 2:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return stock(*arguments, **options)

        trainer.training_step = run_out
        return train(trainer, planned.config, resume)

    smaller = dataclasses.replace(
        planned.plan, batch=2, accumulation=2, parts=planned.plan.parts, stages={"training": 1.0}
    )
    run = train_within(dataclasses.replace(planned, others=[planned.plan, smaller]), attempt, False)
    assert run.finished and run.steps == 4 and batches == [4, 2]
    assert (resolve_path(config.output_dir) / "checkpoint-2").is_dir()
    assert "out of memory" in capsys.readouterr().out
    records = read_metrics(log_folder(config))
    steps = [r["step"] for r in records if "loss" in r]
    assert steps == [1, 2, 3, 4] and all(r["memory_gib"] > 0 for r in records if "loss" in r)
    assert "planned" in (log_folder(config) / "training.log").read_text()


def test_overwriting_never_goes_on_from_the_old_run(tiny_config, train_tiny, monkeypatch):
    """Memory runs out while the base is loaded, before the old run is deleted."""
    import argparse

    import qlora
    from preferences import load_preferences
    from tokenization import tokenize_pairs
    from train_dpo import run_planned

    keys = {"auto_fit": True, "save_steps": 1, "max_steps": 2}
    train_tiny("replaced", **keys)
    config = tiny_config("replaced", **keys)
    folder = resolve_path(config.output_dir)
    old = (folder / "checkpoint-2" / "optimizer.pt").stat().st_mtime_ns
    device, data = find_device(config), load_preferences(config)
    _, tokenizer = qlora.load_policy(config, device)
    rows = tokenize_pairs(data.train, tokenizer, config).rows
    planned = prepare_plan(config, device, measure_lengths(rows), RATES)
    smaller = dataclasses.replace(planned.plan, batch=2, accumulation=2, stages={"training": 1.0})
    stock, calls = qlora.load_policy, []

    def run_out_once(*rest):
        calls.append(rest)
        if len(calls) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return stock(*rest)

    monkeypatch.setattr(qlora, "load_policy", run_out_once)
    arguments = argparse.Namespace(overwrite=True, resume=False)
    planned = dataclasses.replace(planned, others=[planned.plan, smaller])
    run = run_planned(arguments, device, data, planned, tokenizer)
    assert run.finished and len(calls) == 2
    assert (folder / "checkpoint-2" / "optimizer.pt").stat().st_mtime_ns > old
    assert [r["step"] for r in read_metrics(log_folder(config)) if "loss" in r] == [1, 2]


def test_nothing_is_saved_before_the_first_step():
    class Trainer:
        """What the context looks at; saving would fail."""

        model = torch.nn.Linear(1, 1)
        state = type("State", (), {"global_step": 0})

    with pytest.raises(torch.OutOfMemoryError), saved_when_out_of_memory(Trainer()):
        raise torch.OutOfMemoryError("out")


def test_spilling_is_said_once_and_only_when_memory_is_nearly_full():
    watch = SpillWatch("cuda")
    assert not any(watch.add(0.1, 0.99) for _ in range(20))
    assert not any(watch.add(1.0, 0.5) for _ in range(5)), "slow, and memory is free: not spilling"
    texts = [watch.add(1.0, 0.97) for _ in range(5)]
    assert [bool(text) for text in texts] == [False, False, True, False, False]
    assert "spilling" in texts[2] and "memory_budget_gib" in texts[2]
    swapping = SpillWatch("cpu", seconds=[0.1] * 9)
    assert "swapping" in [swapping.add(2.0, 0.99) for _ in range(3)][-1]


def test_verification_compares_without_the_optimizer(tiny_plans):
    plan = tiny_plans(79).plan
    text = describe_verification(plan.peak, plan)
    planned = (plan.peak - plan.parts["optimizer"]) / GIB
    assert text.endswith(f"{plan.peak / GIB:.2f} GiB, {planned:.2f} planned")


def test_profile_names_every_part(tiny_config, run_stage, tmp_path):
    config = tiny_config("profiled", max_steps=1)
    file = tmp_path / "profiled.json"
    file.write_text(json.dumps(config.model_dump()), encoding="utf-8")
    done = run_stage("02_src/train_dpo.py", "--config", file, "--profile-startup")
    assert done.rc == 0, done.err
    for part in ("imports", "tokenizer", "memory plan", "base model", "first step", "all"):
        assert f"  {part}" in done.out
    assert "memory plan (system memory)" in done.out
    assert (log_folder(config) / "memory_plan.png").is_file()
