"""The main job on the real embedded model: train, stop, resume, evaluate, merge, ask."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_run import PHRASINGS, SENSES, UNSEEN, make_row

from config import REPOSITORY

# The config of the original project, as it was written; only the model's name differs.
ORIGINAL = {
    "model_name": "embedded:smollm2-135m-instruct",
    "dataset_hf": "01_data/dpo/train.jsonl", "dataset_split": "train", "max_train_samples": None,
    "dataset_shuffle": True, "output_dir": "04_models/adapters/output_dpo", "max_seq_length": 512,
    "max_prompt_length": 256, "max_target_length": 256, "num_train_epochs": 3,
    "per_device_train_batch_size": 1, "gradient_accumulation_steps": 8, "learning_rate": 2e-05,
    "lr_scheduler_type": "cosine", "warmup_ratio": 0.02, "weight_decay": 0.01,
    "dataloader_num_workers": 2, "logging_steps": 5, "save_steps": 20, "save_total_limit": 2,
    "fp16": True, "bf16": False, "optim": "paged_adamw_8bit", "gradient_checkpointing": True,
    "lora_r": 8, "lora_alpha": 16, "lora_dropout": 0.05,
    "lora_target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj",
                            "down_proj"],
    "load_in_4bit": True, "bnb_4bit_use_double_quant": True, "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_compute_dtype": "float16", "dpo_beta": 0.1, "seed": 42, "num_proc": None,
}  # fmt: skip


@pytest.fixture(scope="session")
def trained(small_config, tmp_path_factory) -> dict:
    """A run that was stopped with Ctrl-C once, resumed, and finished."""
    config = json.loads(small_config.read_text())
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    stopped = stop_after_checkpoint(small_config, Path(config["output_dir"]), elsewhere)
    command = [sys.executable, str(REPOSITORY / "02_src/train_dpo.py"), "--config", small_config]
    again = subprocess.run(command, capture_output=True, text=True, cwd=elsewhere)
    resumed = subprocess.run([*command, "--resume"], capture_output=True, text=True, cwd=elsewhere)
    return {"config": config, "stopped": stopped, "again": again, "resumed": resumed}


def stop_after_checkpoint(
    config: Path, output: Path, cwd: Path
) -> subprocess.CompletedProcess[str]:
    """Start training in its own process and send SIGINT once a checkpoint exists."""
    command = [sys.executable, str(REPOSITORY / "02_src/train_dpo.py"), "--config", str(config)]
    command += ["--set", "gpu=null"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=cwd
    )
    deadline = time.monotonic() + 300
    while not (output / "checkpoint-3" / "trainer_state.json").is_file():
        assert process.poll() is None and time.monotonic() < deadline, process.stdout.read()
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=300)
    return subprocess.CompletedProcess(command, process.returncode, out, "")


def test_ctrl_c_saves_a_checkpoint_and_says_how_to_go_on(trained):
    stopped = trained["stopped"]
    assert stopped.returncode == 130, stopped.stdout
    assert " --set gpu=null --resume" in stopped.stdout
    assert "Traceback" not in stopped.stdout


def test_an_unfinished_run_is_not_written_over(trained):
    assert trained["again"].returncode == 2
    assert "--resume" in trained["again"].stderr


def test_a_resumed_run_finishes_with_everything_that_belongs_to_it(trained):
    resumed, folder = trained["resumed"], Path(trained["config"]["output_dir"])
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert "resuming from" in resumed.stdout
    (counted,) = re.findall(r"trained 18 steps, the last (\d+) of them in", resumed.stdout)
    names = {path.name for path in folder.iterdir()}
    assert names >= {
        "adapter_model.safetensors", "adapter_config.json", "run_config.json", "tokenizer.json",
        "prompt_contract.json", "training_summary.json", "README.md",
    }  # fmt: skip
    logs = Path(trained["config"]["logging_dir"]) / "small"
    assert (logs / "training_curves.png").stat().st_size > 10_000
    assert list(logs.glob("events.out.tfevents*"))
    said = (logs / "training.log").read_text()
    stopped_at = 18 - int(counted)
    assert said.index(f"stopped at step {stopped_at} of 18") < said.index(
        f"goes on at step {stopped_at} of 18"
    )
    records = [json.loads(line) for line in (logs / "metrics.jsonl").read_text().splitlines()]
    steps = [r["step"] for r in records if "loss" in r]
    assert steps == sorted(set(steps)) and steps[-1] == 18
    assert any("eval_loss" in r for r in records)


def test_the_trained_model_says_the_right_expansion_on_unseen_questions(trained, run_stage):
    run = trained["config"]["output_dir"]
    done = run_stage("02_src/evaluate_dpo.py", "--run", run, threads=2)
    assert done.rc == 0, done.err
    report = json.loads((Path(run) / "evaluation.json").read_text())
    base, adapter = (report["models"][name]["splits"]["seen"] for name in ("base", "adapter"))
    assert base["grounding"]["value"] <= 0.25
    assert adapter["grounding"]["value"] >= 0.75
    assert adapter["reward_accuracy"]["value"] == 1.0
    items = (Path(run) / "evaluation_items.jsonl").read_text().splitlines()
    assert len(items) == 8


def test_the_merged_model_answers_through_plain_transformers_and_the_scripts(trained, run_stage):
    config = trained["config"]
    done = run_stage("02_src/merge_lora.py", "--run", config["output_dir"], threads=2)
    assert done.rc == 0, done.err
    merged = Path(config["merged_dir"]) / "small"
    report = json.loads((merged / "merge_report.json").read_text())
    assert report["top1_agreement"] >= 0.9 and len(report["strategies"]) == 2
    assert report["strategies"][report["strategy"]]["grounding"]["value"] >= 0.75
    again = run_stage("02_src/merge_lora.py", "--run", config["output_dir"], threads=2)
    assert "already merged" in again.out
    assert "Dynamic Positioning" in ask_plainly(merged, UNSEEN.format("DP"))
    asked = run_stage(
        "02_src/run_inference.py", "--model", merged, "--prompt", UNSEEN.format("DP"), threads=2
    )
    assert asked.rc == 0 and "Dynamic Positioning" in asked.out
    piped = run_stage(
        "02_src/run_inference.py", "--model", config["output_dir"], "--base", threads=2,
        stdin="What does DP stand for?\n\nWhat does ROP stand for?\n",
    )  # fmt: skip
    assert piped.rc == 0 and "Dynamic Positioning" not in piped.out
    report = run_stage(
        "02_src/evaluate_dpo.py", "--run", config["output_dir"], "--models", "merged", threads=2
    )
    assert report.rc == 0, report.err
    figures = json.loads((merged / "evaluation.json").read_text())["models"]["merged"]
    assert figures["splits"]["seen"]["grounding"]["value"] >= 0.75


def ask_plainly(folder: Path, question: str) -> str:
    """A greedy answer with transformers alone, as someone without this toolkit would ask."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    messages = [{"role": "user", "content": question}]
    inputs = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    output = model.generate(**inputs, max_new_tokens=24, do_sample=False)
    return tokenizer.decode(output[0, inputs["input_ids"].shape[1] :])


def test_a_finished_run_is_refused_and_the_monitor_shows_it(trained, run_stage, small_config):
    assert trained["resumed"].returncode == 0
    refused = run_stage("02_src/train_dpo.py", "--config", small_config)
    assert refused.rc == 2 and "--overwrite" in refused.err
    logs = Path(trained["config"]["logging_dir"]) / "small"
    shown = run_stage("02_src/monitor_training.py", logs)
    assert shown.rc == 0 and "step 18 of 18" in shown.out and "reward margin" in shown.out


def test_a_changed_contract_is_refused_by_every_later_stage(trained, run_stage, tmp_path):
    folder = tmp_path / "changed"
    shutil.copytree(trained["config"]["output_dir"], folder)
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text().replace("assistant", "helper"), encoding="utf-8")
    for script, option in (("evaluate_dpo", "--run"), ("merge_lora", "--run"),
                           ("run_inference", "--model")):  # fmt: skip
        done = run_stage(f"02_src/{script}.py", option, folder, stdin="DP?\n")
        assert done.rc == 2, done.out + done.err
        assert "chat template changed" in done.err and "Traceback" not in done.err


def test_the_original_projects_config_trains_unchanged(embedded_model, tmp_path):
    for name in ("02_src", "00_configs"):
        shutil.copytree(REPOSITORY / name, tmp_path / name)
    base = tmp_path / "04_models" / "base"
    base.mkdir(parents=True)
    shutil.copytree(embedded_model, base / embedded_model.name)
    rows = [json.dumps(make_row(name, PHRASINGS[i])) for i in range(2) for name in SENSES]
    data = tmp_path / "01_data" / "dpo" / "train.jsonl"
    data.parent.mkdir(parents=True)
    plain = [{k: json.loads(r)[k] for k in ("instruction", "chosen", "rejected")} for r in rows]
    lines = [json.dumps(row) for row in plain]
    data.write_text("\n".join([*lines[:3], "", *lines[3:]]) + "\n", encoding="utf-8")
    (tmp_path / "00_configs" / "dpo.json").write_text(json.dumps(ORIGINAL), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(tmp_path / "02_src" / "train_dpo.py")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for note in ("fp16 needs", "paged_adamw_8bit needs", "loss_type is not given"):
        assert note in done.stdout
    assert (tmp_path / "04_models/adapters/output_dpo/adapter_model.safetensors").is_file()


def test_dry_run_goes_up_to_the_first_step_and_writes_no_run(small_config, run_stage, tmp_path):
    done = run_stage(
        "02_src/train_dpo.py", "--config", small_config, "--dry_run", "--set",
        f"output_dir={tmp_path / 'dry'}", "--set", f"logging_dir={tmp_path / 'logs'}", threads=2,
    )  # fmt: skip
    assert done.rc == 0, done.err
    assert "dry run" in done.out and "ln 2" in done.out
    assert not (tmp_path / "dry").exists() and not (tmp_path / "logs").exists()
