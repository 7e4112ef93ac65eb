"""Scripts a user runs by hand: hardware check, monitor, inference's wrong usage."""

import json

import pytest

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


def test_a_half_written_last_line_of_metrics_is_left_out(tmp_path):
    log = RunLog(tmp_path)
    log.write_metrics({"step": 1, "max_steps": 4, "loss": float("nan")})
    log.write_metrics({"step": 2, "max_steps": 4, "loss": 0.5})
    with (tmp_path / "metrics.jsonl").open("a", encoding="utf-8") as stream:
        stream.write('{"step": 3, "lo')
    assert [r["loss"] for r in read_metrics(tmp_path)] == [None, 0.5]
    log.drop_after(1)
    assert [r["step"] for r in read_metrics(tmp_path)] == [1]
