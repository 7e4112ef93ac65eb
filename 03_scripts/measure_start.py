"""Two starts of train_dpo.py on a random model: the second finds every cache filled."""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
TIMEOUT_S = 120


def measure_start(model: Path, tokenizer: Path) -> dict:
    """Seconds from process start to the first step, by part, of a first and a second start."""
    for file in tokenizer.iterdir():
        if "token" in file.name or file.suffix == ".jinja":
            shutil.copy(file, model / file.name)
    found: dict = {"combination": {"kind": "start", "shape": model.name}}
    with tempfile.TemporaryDirectory() as folder:
        keys = {
            "model_name": str(model), "dataset_hf": "01_data/dpo/mini/train.jsonl",
            "validation_file": "01_data/dpo/mini/validation.jsonl", "max_steps": 1,
            "max_seq_length": 256, "validation_answers": 0, "output_dir": f"{folder}/run",
            "logging_dir": f"{folder}/logs", "auto_fit": "true",
        }  # fmt: skip
        command = [sys.executable, str(REPOSITORY / "02_src" / "train_dpo.py"), "--overwrite"]
        command += ["--config", str(REPOSITORY / "00_configs" / "dpo.json"), "--profile-startup"]
        for name, value in keys.items():
            command += ["--set", f"{name}={value}"]
        for start in ("first", "second"):
            done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
            parts = read_profile(done.stdout)
            if not parts:
                return {**found, "error": (done.stderr or done.stdout).strip()[-600:]}
            found[start] = parts
    return found


def read_profile(text: str) -> dict[str, float]:
    """The lines of startup_profile.format_profile as a dict."""
    parts = {}
    for line in text.partition("from process start")[2].splitlines()[1:]:
        words = line.split()
        if len(words) < 3 or words[-1] != "s":
            break
        parts[" ".join(words[:-2])] = float(words[-2])
    return parts
