# ruff: noqa: F811 (fixtures are imported by name)
"""Scripts a user runs by hand: hardware check, monitor, inference's wrong usage."""

import json
from pathlib import Path

import pytest
from tiny_run import tiny_config, train_tiny  # noqa: F401

from config import RUN_CONFIG, Config, save_config
from errors import UserError
from evaluate_dpo import check_models
from general_texts import load_texts
from run_log import RunLog, read_metrics


def test_the_hardware_check_says_what_fits(run_stage):
    done = run_stage("01_data/gpu_check.py", "--json")
    report = json.loads(done.out)
    assert done.rc == report["exit_code"] and report["quickstart_seconds"] > 40
    assert report["kind"] in ("cpu", "cuda", "mps") and report["total_bytes"] > report["free_bytes"]


@pytest.mark.parametrize(
    "arguments, problem",
    [
        (["--model", "04_models/none", "--prompt", "x"], "no such folder"),
        (["--model", "00_configs", "--prompt", "x"], "run_config.json"),
        (["--model", "04_models/none", "--prompt", "x", "--temperature", "-1"], "--temperature"),
        (["--config", "00_configs/none.json", "--prompt", "x"], "no such config file"),
    ],
)
def test_inference_refuses_wrong_usage_in_one_line(run_stage, arguments, problem):
    done = run_stage("02_src/run_inference.py", *arguments)
    assert done.rc == 2 and problem in done.err
    assert len(done.err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    "script, arguments, problem",
    [
        ("evaluate_dpo", ["--run", "04_models/none"], "run_config.json"),
        ("evaluate_dpo", ["--run", "04_models/none", "--models", "other"], "--models other"),
        ("merge_lora", ["--run", "04_models/none"], "run_config.json"),
        ("monitor_training", ["05_logs/none"], "no such log folder"),
    ],
)
def test_stages_refuse_what_is_not_a_run_in_one_line(run_stage, script, arguments, problem):
    done = run_stage(f"02_src/{script}.py", *arguments)
    assert done.rc == 2 and problem in done.err
    assert len(done.err.strip().splitlines()) == 1


def test_a_base_writes_texts_that_can_be_rehearsed(run_stage, embedded_model, tmp_path):
    file = tmp_path / "texts.jsonl"
    few = ("--output", str(file), "--questions", "6", "--tokens", "4")
    done = run_stage("03_scripts/write_general_texts.py", *few)
    assert done.rc == 0 and "6 texts: " in done.out, done.err[-500:]
    texts = load_texts(Config(rehearsal_file=str(file)))
    assert [text.prompt is None for text in texts] == [True, False] * 3


def test_a_base_that_answers_nothing_writes_nothing(run_stage, tiny_config, tmp_path):
    save_config(tiny_config("silent"), tmp_path)
    file = tmp_path / "texts.jsonl"
    few = ("--output", str(file), "--questions", "2", "--tokens", "3")
    done = run_stage(
        "03_scripts/write_general_texts.py", *few, "--config", str(tmp_path / RUN_CONFIG)
    )
    assert done.rc == 2 and "answers nothing" in done.err and not file.exists()


def test_a_half_written_last_line_of_metrics_is_left_out(tmp_path):
    log = RunLog(tmp_path)
    log.write_metrics({"step": 1, "max_steps": 4, "loss": float("nan")})
    log.write_metrics({"step": 2, "max_steps": 4, "loss": 0.5})
    with (tmp_path / "metrics.jsonl").open("a", encoding="utf-8") as stream:
        stream.write('{"step": 3, "lo')
    assert [r["loss"] for r in read_metrics(tmp_path)] == [None, 0.5]
    log.drop_after(1)
    assert [r["step"] for r in read_metrics(tmp_path)] == [1]


@pytest.mark.parametrize("key, value", [("scales", "0"), ("scales", "1.5"), ("limit", "0")])
def test_scales_and_limits_out_of_range_are_refused_in_one_line(run_stage, key, value):
    problem = f"--{key} {value}:"
    done = run_stage("03_scripts/measure_scale.py", "--run", "04_models/none", f"--{key}", value)
    assert done.rc == 2 and problem in done.err
    assert len(done.err.strip().splitlines()) == 1


def test_a_smaller_scale_forgets_less_and_the_adapter_stays_as_it_is(train_tiny, run_stage):
    files = {"drift": "01_data/dpo/test_drift.jsonl", "made_up": "01_data/dpo/test_made_up.jsonl"}
    trainer, _, _ = train_tiny("scaled", test_files=files, learning_rate=0.05)
    run = Path(trainer.args.output_dir)
    weights = (run / "adapter_model.safetensors").read_bytes()
    done = run_stage(
        "03_scripts/measure_scale.py", "--run", str(run), "--limit", "6", "--scales", "1", "0.2"
    )
    lines = [json.loads(line) for line in done.out.splitlines() if line.startswith("{")]
    ratios = [line["perplexity_ratio"] for line in lines]
    assert done.rc == 0, done.err[-2000:]
    assert [line["adapter_scale"] for line in lines] == [1, 0.2]
    assert abs(ratios[1] - 1) < abs(ratios[0] - 1)
    assert f"| perplexity / the base's | {ratios[0]:.2f} | {ratios[1]:.2f} |" in done.out
    assert "taught: right expansion" not in done.out
    assert (run / "adapter_model.safetensors").read_bytes() == weights


@pytest.mark.parametrize(
    ("models", "missing"),
    [
        (["base"], "holds no adapter_model.safetensors; the run is not finished"),
        (["base_with_glossary"], "holds no adapter_model.safetensors"),
        (["adapter"], "holds no adapter_model.safetensors"),
        (["merged"], "holds no merged model; make it with"),
    ],
)
def test_a_model_that_is_not_there_is_named_before_anything_is_measured(tmp_path, models, missing):
    config = Config(merged_dir=str(tmp_path / "merged"))
    with pytest.raises(UserError, match=missing):
        check_models(models, tmp_path / "run", config)
