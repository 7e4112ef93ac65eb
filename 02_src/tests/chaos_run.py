"""Kill a pipeline at seeded random moments, go on each time, compare with an unbroken run.

    figures = run_chaos(folder, model, kills={"train": 5, "merge": 2}, seed=1)

03_scripts/chaos.py is the long form, tests/test_chaos.py the short one. Everything happens in a
copy of 02_src under `folder`, with its own caches.
"""

import hashlib
import json
import random
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from chaos_launch import Launcher, Started
from small_run import PHRASINGS, SENSES, make_row, write_rows

SOURCE = Path(__file__).resolve().parent.parent
PHASES = ("load", "precompute", "train", "checkpoint", "evaluate", "merge")
SCRIPTS = {"evaluate": "evaluate_dpo.py", "merge": "merge_lora.py"}
SCRATCH = ".saving-checkpoint"  # safe_trainer's, which importing would load torch for
SIGNS = {"precompute": "reference pass", "train": "training:"}
GENERAL = (
    "Rain falls on the hills, and the river carries it past the town to the sea. "  # rehearsed
)
PATIENCE = 600.0  # seconds until a stage that shows no sign counts as hung
TRIES = 8  # shorter and shorter delays until a kill hits a running process


@dataclass
class Chaos:
    """A pipeline under fire."""

    folder: Path
    launcher: Launcher
    random: random.Random
    spans: dict[str, float] = field(default_factory=dict)  # seconds each phase takes
    wanted: dict[str, str] = field(default_factory=dict)  # hashes of the unbroken run's results
    kills: list[str] = field(default_factory=list)
    late: int = 0  # kills that came after the end
    resumed: int = 0  # runs that said they went on from a checkpoint

    @property
    def run(self) -> Path:
        """The run folder."""
        return self.folder / "04_models" / "adapters" / "chaos"

    @property
    def merged(self) -> Path:
        """The merged model's folder."""
        return self.folder / "04_models" / "merged" / "chaos"


def run_chaos(
    folder: Path, model: Path, kills: dict[str, int], seed: int, forked: bool = False,
    say: Callable[[str], None] = print,
) -> dict:  # fmt: skip
    """Figures: kills per phase, whether adapter, answers and merged weights came out the same.

    Args:
        folder: an empty folder to work in.
        model: a base model folder.
        kills: phase -> number of kills that must hit it.
        forked: start stages by fork from one process (Linux).
    """
    prepare(folder, model)
    chaos = Chaos(folder, Launcher(folder, forked), random.Random(seed))
    with chaos.launcher:
        measure_unbroken(chaos)
        say("unbroken run: " + ", ".join(f"{k} {v:.1f} s" for k, v in chaos.spans.items()))
        forget(chaos)
        training = [p for p in PHASES[:4] for _ in range(kills.get(p, 0))]
        chaos.random.shuffle(training)
        later = [p for p in PHASES[4:] for _ in range(kills.get(p, 0))]
        for number, phase in enumerate([*training, *later], 1):
            finish_before(chaos, phase)
            say(f"kill {number} of {len(training + later)}: {phase}, {kill_once(chaos, phase)}")
        for phase in ("train", "evaluate", "merge"):
            finish(chaos, phase)
    found = read_results(chaos)
    return {
        "kills": len(chaos.kills),
        "phases": {phase: chaos.kills.count(phase) for phase in PHASES},
        "late": chaos.late,
        "resumed_from_checkpoint": chaos.resumed,
        "same": {name: found[name] == chaos.wanted[name] for name in chaos.wanted},
    }


def prepare(folder: Path, model: Path) -> None:
    """Copy the sources, write data and config."""
    skipped = shutil.ignore_patterns("tests", "__pycache__")
    shutil.copytree(SOURCE, folder / "02_src", ignore=skipped)
    rows = [make_row(name, question) for question in PHRASINGS[:4] for name in SENSES]
    test = [make_row(name, PHRASINGS[5]) for name in SENSES]
    write_rows(folder / "train.jsonl", rows)
    write_rows(folder / "validation.jsonl", [make_row(n, PHRASINGS[4]) for n in SENSES][:2])
    write_rows(folder / "test.jsonl", test)
    write_rows(folder / "general.jsonl", [{"text": GENERAL * 20}])
    config = {
        "model_name": str(model), "dataset_hf": "train.jsonl",
        "validation_file": "validation.jsonl", "test_files": {"seen": "test.jsonl"},
        "rehearsal_file": "general.jsonl", "output_dir": "04_models/adapters/chaos",
        "num_train_epochs": 3, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2,
        "learning_rate": 1e-3, "warmup_ratio": 0.2, "weight_decay": 0.01, "lora_r": 8,
        "lora_dropout": 0.1, "bf16": False, "load_in_4bit": False, "save_steps": 1,
        "eval_steps": 4, "validation_answers": 2, "logging_steps": 1, "max_seq_length": 64,
        "max_new_tokens": 8, "device": "cpu", "seed": 5,
    }  # fmt: skip
    (folder / "chaos.json").write_text(json.dumps(config), encoding="utf-8")


def start(chaos: Chaos, phase: str) -> Started:
    """Start the stage of a phase."""
    if phase in SCRIPTS:
        return chaos.launcher.start(SCRIPTS[phase], ["--run", str(chaos.run)])
    options = ["--config", str(chaos.folder / "chaos.json"), "--resume"]
    return chaos.launcher.start("train_dpo.py", options)


def measure_unbroken(chaos: Chaos) -> None:
    """Run everything once without a kill; note how long each phase takes and what comes out."""
    began = time.monotonic()
    stage = start(chaos, "train")
    times = [began]
    for sign in SIGNS.values():
        await_sign(stage, lambda text=sign: text in stage.read())
        times.append(time.monotonic())
    check_ended(stage)
    times.append(time.monotonic())
    for phase, first, last in zip(("load", "precompute", "train"), times, times[1:], strict=False):
        chaos.spans[phase] = last - first
    chaos.spans["checkpoint"] = 0.05
    for phase in ("evaluate", "merge"):
        began = time.monotonic()
        check_ended(start(chaos, phase))
        chaos.spans[phase] = time.monotonic() - began
    chaos.wanted = read_results(chaos)


def await_sign(stage: Started, shows: Callable[[], bool]) -> bool:
    """Wait until `shows()`; False when the stage ended first."""
    deadline = time.monotonic() + PATIENCE
    while not shows():
        if stage.poll() is not None:
            return False
        assert time.monotonic() < deadline, stage.read()
        time.sleep(0.002)
    return True


def kill_once(chaos: Chaos, phase: str) -> str:
    """Kill a stage within `phase`; where it ended first, undo its result and try again sooner."""
    share = chaos.random.random()
    for attempt in range(TRIES):
        if phase == "precompute":
            shutil.rmtree(chaos.folder / "04_models" / "cache", ignore_errors=True)
        shutil.rmtree(chaos.run / SCRATCH, ignore_errors=True)  # of an earlier kill: the sign
        stage = start(chaos, phase)
        await_phase(chaos, stage, phase)
        delay = chaos.spans[phase] * share / 2**attempt
        time.sleep(delay)
        if stage.kill():
            chaos.kills.append(phase)
            check_damage(chaos, stage)
            return f"{delay:.3f} s after its sign"
        chaos.late += 1
        assert stage.code == 0, stage.read()
        undo(chaos, phase)
    raise AssertionError(f"no kill hit {phase}")


def await_phase(chaos: Chaos, stage: Started, phase: str) -> None:
    """Wait until a stage is in `phase`, or has ended."""
    if phase in SIGNS:
        await_sign(stage, lambda: SIGNS[phase] in stage.read())
    elif phase == "checkpoint":
        await_sign(stage, (chaos.run / SCRATCH).exists)


def undo(chaos: Chaos, phase: str) -> None:
    """Check what a stage that ended too early has made, and take it away."""
    name = phase if phase in SCRIPTS else "train"
    assert read_results(chaos)[name] == chaos.wanted[name], f"{name} came out different"
    if name == "train":
        shutil.rmtree(chaos.run)
    elif name == "merge":
        shutil.rmtree(chaos.merged)
    else:
        (chaos.run / "evaluation.json").unlink()


def check_damage(chaos: Chaos, stage: Started) -> None:
    """After a kill: no traceback, every checkpoint whole, a merged folder complete or absent."""
    from safe_files import find_damage

    text = stage.read()
    assert "Traceback" not in text, text
    chaos.resumed += "resuming from" in text
    for folder in chaos.run.glob("checkpoint-*"):
        assert find_damage(folder) is None, (folder, find_damage(folder))
    if chaos.merged.exists():
        assert (chaos.merged / "merge_report.json").is_file()
    if (chaos.run / "training_summary.json").is_file():
        assert read_results(chaos)["train"] == chaos.wanted["train"]


def finish_before(chaos: Chaos, phase: str) -> None:
    """Complete the stages that `phase` needs."""
    if phase in SCRIPTS:
        finish(chaos, "train")
    elif (chaos.run / "training_summary.json").is_file():
        undo(chaos, phase)


def finish(chaos: Chaos, phase: str) -> None:
    """Let a stage run to its end, if it has not yet."""
    done = {"train": chaos.run / "training_summary.json", "merge": chaos.merged}
    if phase not in done or not done[phase].exists():
        stage = start(chaos, phase)
        check_ended(stage)
        chaos.resumed += "resuming from" in stage.read()


def check_ended(stage: Started) -> None:
    """Wait for a stage that must succeed."""
    assert stage.wait(PATIENCE) == 0, stage.read()
    assert "Traceback" not in stage.read()


def forget(chaos: Chaos) -> None:
    """Remove everything the unbroken run has written."""
    for name in ("04_models", "05_logs"):
        shutil.rmtree(chaos.folder / name)


def read_results(chaos: Chaos) -> dict[str, str]:
    """sha256 of the adapter's weights, of the judged answers and of the merged weights."""
    files = {
        "train": chaos.run / "adapter_model.safetensors",
        "evaluate": chaos.run / "evaluation_items.jsonl",
        "merge": chaos.merged / "model.safetensors",
    }
    return {
        name: hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else "absent"
        for name, file in files.items()
    }
