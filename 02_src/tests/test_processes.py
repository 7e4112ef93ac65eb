"""Several processes: the same losses as one, a killed one, shares of pairs, the sharded base."""

import json
import random
import signal
from pathlib import Path

import psutil
import pytest
import torch
from launched import Launch
from small_run import PHRASINGS, SENSES, make_row, write_rows

import processes
from batch_split import join_batch, split_batch
from checkpoints import list_checkpoints
from config import Config, load_config
from errors import UserError
from fast.gradients import find_flat_gradient
from fast.parallel import combine_metrics
from fast.shares import StepBatches, spread_pairs
from fast.trainable_copies import TrainableCopies
from hardware import find_device
from preferences import load_preferences
from qlora import load_policy
from run_log import read_metrics
from train_dpo import train
from trainer_setup import build_trainer

TOLERANCE = 1e-5
NOT_COMPARED = ("seconds", "memory_gib", "epoch", "max_steps")
STAGE = "02_src/train_dpo.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("processes")


@pytest.fixture(scope="module")
def write_run(folder, tiny_model):
    """write(name, **keys): (config file, run folder, log folder) of 22 pairs, 16 a step."""
    pairs = [make_row(name, question) for question in PHRASINGS[:5] for name in SENSES]
    pairs.append(make_row("DP", "What does {} mean on a ship that has to hold its place at sea?"))
    pairs.append(make_row("ROP", "Say {}."))
    checks = [make_row(name, PHRASINGS[5]) for name in SENSES] + [make_row("DP", "And {}?")]
    files = {
        "dataset_hf": str(write_rows(folder / "train.jsonl", pairs)),
        "validation_file": str(write_rows(folder / "validation.jsonl", checks)),
        "test_files": {"seen": str(folder / "validation.jsonl")},
    }

    def write(name: str, **keys) -> tuple[Path, Path, Path]:
        run, log = folder / "runs" / name, folder / "logs" / name
        values = {
            "model_name": str(tiny_model), **files, "output_dir": str(run),
            "logging_dir": str(folder / "logs"), "merged_dir": str(folder / "merged"),
            "num_train_epochs": 2, "per_device_train_batch_size": 16, "learning_rate": 5e-3,
            "per_device_eval_batch_size": 2, "logging_steps": 1, "eval_steps": 2, "save_steps": 2,
            "max_seq_length": 128, "warmup_ratio": 0.0, "device": "cpu", "seed": 3, "bf16": False,
            "load_in_4bit": False, **keys,
        }  # fmt: skip
        file = folder / f"{name}.json"
        file.write_text(json.dumps(values), encoding="utf-8")
        return file, run, log

    return write


def train_alone(file: Path, resume: bool = False) -> None:
    """In this process, by the same steps as the stage."""
    config = load_config(file)
    device = find_device(config)
    policy = load_policy(config, device)
    assert train(
        build_trainer(config, device, *policy, load_preferences(config)), config, resume
    ).finished


def assert_same_figures(one: Path, other: Path, resumed: bool = False) -> None:
    """Every logged figure agrees; accuracy before the first update is decided by rounding.

    TRL counts tokens from zero after a resume.
    """
    first, second = (
        [record for record in read_metrics(log) if "loss" in record or "eval_loss" in record]
        for log in (one, other)
    )
    assert first and len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        for name, value in a.items():
            timed = name in NOT_COMPARED or name.endswith(("runtime", "per_second"))
            timed = timed or (resumed and name.endswith("num_tokens"))
            tied = name == "rewards/accuracies" and a["step"] == 1
            if timed or tied or not isinstance(value, int | float):
                continue
            assert abs(value - b[name]) <= TOLERANCE * max(1, abs(value)), (a["step"], name)


@pytest.fixture(scope="module")
def trained_alone(write_run) -> tuple[Path, Path]:
    """(run folder, log folder) of one process."""
    file, run, log = write_run("alone")
    train_alone(file)
    return run, log


def test_two_processes_give_the_figures_of_one(write_run, folder, trained_alone):
    file, run, log = write_run("together")
    launch = Launch(folder / "together.txt", [STAGE, "--config", str(file)])
    assert launch.finish(120) == 0, launch.output[-3000:]
    assert "2 processes: 8 pairs x 1 micro-steps each, effective batch 16" in launch.output
    assert launch.output.count("DPO loss before training") == 1
    assert_same_figures(trained_alone[1], log)
    saved = json.loads((run / "run_config.json").read_text())
    assert saved["per_device_train_batch_size"] * saved["gradient_accumulation_steps"] == 16


def test_embedded_model_in_two_processes_gives_the_losses_of_one(write_run, folder, embedded_model):
    keys = {
        "model_name": "embedded:smollm2-135m-instruct", "lora_r": 4, "learning_rate": 1e-3,
        "per_device_train_batch_size": 4, "max_train_samples": 6, "num_train_epochs": 1,
        "validation_file": None, "validation_fraction": 0.0,
    }  # fmt: skip
    alone, together = (write_run(f"embedded-{name}", **keys) for name in ("alone", "together"))
    train_alone(alone[0])
    launch = Launch(folder / "embedded.txt", [STAGE, "--config", str(together[0])])
    assert launch.finish(120) == 0, launch.output[-3000:]
    assert_same_figures(alone[2], together[2])


def test_two_processes_rehearse_each_for_its_own_pairs(write_run, folder):
    keys = {"rehearsal_file": "01_data/general/texts.jsonl", "validation_answers": 0}
    file, _, log = write_run("rehearsing", **keys, max_steps=3)
    launch = Launch(folder / "rehearsing.txt", [STAGE, "--config", str(file)])
    assert launch.finish(120) == 0, launch.output[-3000:]
    assert launch.output.count("reference pass, general text: 100%") <= 1  # none: it is cached
    figures = [r["rehearsal_kl"] for r in read_metrics(log) if "loss" in r]
    assert abs(figures[0]) < 1e-6 < figures[2]


def test_a_killed_process_ends_the_run_and_it_resumes_to_the_same_result(write_run, folder):
    keys = {"lr_scheduler_type": "constant", "validation_answers": 0, "eval_steps": 1000}
    file, run, log = write_run("killed", **keys, num_train_epochs=500)
    launch = Launch(folder / "killed.txt", [STAGE, "--config", str(file)])
    launch.wait_for(lambda: list_checkpoints(run), 90)
    workers = psutil.Process(launch.process.pid).children()
    assert len(workers) == 2
    workers[1].send_signal(signal.SIGKILL)
    assert launch.finish(60) != 0
    assert not any(worker.is_running() for worker in workers)
    done = int(list_checkpoints(run)[-1].name.removeprefix("checkpoint-"))
    whole = write_run("undisturbed", **keys, max_steps=done + 3)
    again = write_run("killed", **keys, max_steps=done + 3)[0]
    resumed = Launch(folder / "resumed.txt", [STAGE, "--config", str(again), "--resume"])
    train_alone(whole[0])
    assert resumed.finish(120) == 0, resumed.output[-3000:]
    assert "resuming from" in resumed.output
    assert_same_figures(whole[2], log, resumed=True)


def test_a_run_of_two_processes_goes_on_in_one(write_run, folder, trained_alone):
    file, run, log = write_run("smaller", max_steps=2, lr_scheduler_type="constant")
    launch = Launch(folder / "smaller.txt", [STAGE, "--config", str(file)])
    assert launch.finish(120) == 0, launch.output[-3000:]
    (run / "training_summary.json").unlink()
    keys = {"max_steps": 4, "lr_scheduler_type": "constant"}
    train_alone(write_run("smaller", **keys)[0], resume=True)
    whole = write_run("never-stopped", **keys)
    train_alone(whole[0])
    losses = [
        [record["loss"] for record in read_metrics(place) if "loss" in record]
        for place in (log, whole[2])
    ]
    assert losses[0] == pytest.approx(losses[1], rel=TOLERANCE) and len(losses[0]) == 4


def test_sharded_4_bit_base_learns_as_a_whole_one_and_leaves_an_ordinary_adapter(write_run, folder):
    keys = {
        "load_in_4bit": True, "fast_forward": False, "lr_scheduler_type": "constant",
        "validation_answers": 0, "per_device_train_batch_size": 8,
    }  # fmt: skip
    whole, (_, run, log) = (
        write_run(name, **keys, max_steps=3) for name in ("whole-4bit", "sharded")
    )
    train_alone(whole[0])
    for steps in (2, 3):
        file = write_run("sharded", **keys, max_steps=steps)[0]
        stage = [STAGE, "--config", str(file), *(["--resume"] if steps == 3 else [])]
        launch = Launch(folder / f"sharded-{steps}.txt", stage, sharded=True)
        assert launch.finish(120) == 0, launch.output[-3000:]
        (run / "training_summary.json").unlink()
    assert "note: the base is sharded (FSDP)" in launch.output
    assert "resuming from" in launch.output
    assert_same_figures(whole[2], log, resumed=True)
    assert {"adapter_model.safetensors", "adapter_config.json"} <= {p.name for p in run.iterdir()}


def test_two_processes_share_an_evaluation(folder, trained_alone):
    stage = ["02_src/evaluate_dpo.py", "--run", str(trained_alone[0])]
    launch = Launch(folder / "evaluation.txt", stage)
    assert launch.finish(120) == 0, launch.output[-3000:]
    text = (trained_alone[0] / "evaluation_items.jsonl").read_text()
    items = [json.loads(line) for line in text.splitlines()]
    asked = [item["instruction"] for item in items if item["model"] == "adapter"]
    rows = [json.loads(line) for line in (folder / "validation.jsonl").read_text().splitlines()]
    assert asked == [row["instruction"] for row in rows]


# Shares


def test_pairs_are_spread_evenly_by_tokens():
    draw = random.Random(5)
    lengths = [draw.randrange(20, 600) for _ in range(64)]
    bins = spread_pairs(lengths, 8, 8)
    assert sorted(index for members in bins for index in members) == list(range(64))
    assert all(len(members) == 8 for members in bins)
    tokens = [sum(lengths[i] for i in members) for members in bins]
    dealt = [sum(lengths[i] for i in range(start, 64, 8)) for start in range(8)]
    assert max(tokens) - min(tokens) < 0.25 * (max(dealt) - min(dealt))


@pytest.mark.parametrize(
    ("rows", "batch", "steps", "count"),
    [(22, 4, 2, 2), (16, 4, 2, 2), (5, 2, 3, 4), (1, 1, 1, 3), (9, 1, 2, 4)],
)
def test_every_pair_of_a_step_goes_to_one_process_and_all_take_as_many_micro_steps(
    rows, batch, steps, count
):
    lengths = [10 + row % 7 for row in range(rows)]
    shares = [StepBatches(range(rows), lengths, batch, steps, i, count) for i in range(count)]
    dealt = [list(share) for share in shares]
    assert {len(batches) for batches in dealt} == {len(shares[0])}
    whole = batch * steps * count
    at = 0
    for start in range(0, rows, whole):
        wanted = list(range(start, min(start + whole, rows)))
        taken = min(steps, shares[0].count_micro_steps(len(wanted)))
        found = [row for own in dealt for part in own[at : at + taken] for row in part]
        assert sorted(found) == wanted
        assert all(len(part) <= batch for own in dealt for part in own)
        at += taken


def test_unbalanced_batches_are_those_of_one_process():
    alone = list(StepBatches(range(7), [1] * 7, 2, 1, 0, 1, balanced=False))
    both = [list(StepBatches(range(7), [1] * 7, 2, 1, i, 2, balanced=False)) for i in range(2)]
    turns = [part for step in zip(*both, strict=True) for part in step]
    assert turns == alone == [[0, 1], [2, 3], [4, 5], [6]]


@pytest.mark.parametrize(
    ("batch", "steps", "count", "expected"),
    [(8, 2, 2, (8, 1)), (8, 1, 2, (4, 1)), (8, 3, 2, (6, 2)), (1, 8, 4, (1, 2)), (8, 4, 1, (8, 4))],
)
def test_effective_batch_is_kept(batch, steps, count, expected):
    keys = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": steps}
    config = Config(**keys)
    mine = split_batch(config, count)
    assert (mine.per_device_train_batch_size, mine.gradient_accumulation_steps) == expected
    assert mine.effective_batch * count == config.effective_batch
    assert join_batch(mine, count).effective_batch == config.effective_batch
    assert mine.eval_batch == config.eval_batch


def test_an_effective_batch_that_cannot_be_divided_is_one_line():
    with pytest.raises(UserError) as error:
        split_batch(Config(per_device_train_batch_size=8), 3)
    assert "8 pairs per optimizer step" in str(error.value) and "make them 9" in str(error.value)
    assert "\n" not in str(error.value)


def test_metrics_are_weighted_by_what_they_are_means_over():
    counts = [
        {"pairs": 4, "chosen": 10, "rejected": 30, "tokens": 40},
        {"pairs": 2, "chosen": 30, "rejected": 10, "tokens": 40},
        {"pairs": 0, "chosen": 0, "rejected": 0, "tokens": 0},
    ]
    values = {"rewards/chosen": [1.0, 4.0, 99.0], "mean_token_accuracy": [0.0, 1.0, 0.5]}
    found = combine_metrics({**values, "num_tokens": [80]}, counts)
    assert found == {
        "rewards/chosen": [2.0], "mean_token_accuracy": [0.75], "num_tokens": [80.0]
    }  # fmt: skip


def test_flat_gradient_is_found_where_graphs_left_one():
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 1))
    copies = TrainableCopies(model, torch.float32)
    parameters = list(model.parameters())
    assert find_flat_gradient(parameters) is None
    copies.publish_gradient()
    assert find_flat_gradient(parameters) is copies.gradient
    parameters[0].grad = parameters[0].grad.clone()
    assert find_flat_gradient(parameters) is None


def test_items_are_cut_into_parts_that_follow_one_another(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    parts = []
    for rank in range(3):
        monkeypatch.setenv("RANK", str(rank))
        parts += list(range(7))[processes.cut_share(7)]
    assert parts == list(range(7))


def test_one_process_exchanges_nothing():
    assert processes.gather("a") == ["a"] and processes.take_from_main(3) == 3
    assert processes.agree(True) and not processes.agree(False)
    assert processes.is_main() and not processes.shards_base()
