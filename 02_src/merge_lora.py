"""Merge an adapter into its 16-bit base: a model that plain transformers loads. Runs on CPU.

    python 02_src/merge_lora.py --run 04_models/adapters/quickstart

Writes 04_models/merged/<run>/ with model, tokenizer, contract and merge_report.json; the folder
is complete or absent.
"""

import argparse
import hashlib
import json
import shutil
from pathlib import Path

import errors  # first: from here on Ctrl-C is one line
from checkpoints import check_adapter_files
from config import (
    Config,
    load_run_config,
    merged_folder,
    resolve_path,
    save_config,
    show_path,
    write_text,
)

REPORT_FILE = "merge_report.json"
PROBES = ("DP", "ROP", "BOP", "ESP")


def merge(run_folder: str | Path, output: str | Path | None = None) -> Path:
    """Merge a finished run; return the merged model's folder. A merged run is left as it is.

    Raises:
        UserError: the run is unfinished, its contract is broken, or the adapter does not fit.
    """
    run_folder = resolve_path(run_folder)
    config = load_run_config(run_folder)
    target = resolve_path(output) if output else merged_folder(config, run_folder)
    check_adapter_files(run_folder)
    adapter = hash_adapter(run_folder)
    if read_merged_adapter(target) == adapter:
        print(f"already merged: {show_path(target)}")
        return target
    scratch = target.with_name(f".{target.name}.merging")
    shutil.rmtree(scratch, ignore_errors=True)
    report = {"adapter_sha256": adapter, **write_merged(config, run_folder, scratch)}
    write_text(scratch / REPORT_FILE, json.dumps(report, indent=2) + "\n")
    shutil.rmtree(target, ignore_errors=True)
    scratch.rename(target)
    return target


def hash_adapter(run_folder: Path) -> str:
    """sha256 of the adapter's weights."""
    with (run_folder / "adapter_model.safetensors").open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_merged_adapter(target: Path) -> str | None:
    """Hash of the adapter a complete merged folder was made from; None where there is none."""
    try:
        report = json.loads((target / REPORT_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return report.get("adapter_sha256")


def write_merged(config: Config, run_folder: Path, folder: Path) -> dict:
    """Merge into `folder`; return what was measured: merged against adapter on the same base."""
    import torch
    from peft import PeftModel
    from transformers import AutoTokenizer

    from prompt_contract import check_contract, render_ids, write_contract
    from trained_models import load_16bit_base, set_generation_tokens
    from utils.formatting import format_prompt

    tokenizer = AutoTokenizer.from_pretrained(run_folder, local_files_only=True)
    check_contract(tokenizer, run_folder)
    base = load_16bit_base(config)
    model = PeftModel.from_pretrained(base, run_folder).eval()
    questions = [f"What does {name} stand for in oil and gas?" for name in PROBES]
    prompts = [render_ids(tokenizer, format_prompt(q)) for q in questions]
    before = read_next_tokens(model, prompts)
    merged = model.merge_and_unload()
    after = read_next_tokens(merged, prompts)
    set_generation_tokens(merged, tokenizer)
    merged.config.use_cache = True
    merged.save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)
    write_contract(tokenizer, config, folder)
    save_config(config, folder)
    shutil.copyfile(run_folder / "README.md", folder / "README.md")
    return {
        "strategy": "original",
        "dtype": str(merged.dtype).removeprefix("torch."),
        "adapter": show_path(run_folder),
        "top1_agreement": (before.argmax(-1) == after.argmax(-1)).float().mean().item(),
        "largest_logit_difference": (before - after).abs().max().item(),
        "mean_kl": torch.nn.functional.kl_div(
            after.log_softmax(-1), before.log_softmax(-1), log_target=True, reduction="batchmean"
        ).item(),
    }


def read_next_tokens(model, prompts: list[list[int]]):
    """Next-token logits [prompts, V] in fp32."""
    import torch

    with torch.inference_mode():
        rows = [model(input_ids=torch.tensor([ids])).logits[0, -1].float() for ids in prompts]
    return torch.stack(rows)


def main() -> int:
    """Parse, merge, print."""
    parser = argparse.ArgumentParser(description="Merge an adapter into its 16-bit base.")
    parser.add_argument("--run", required=True, help="run folder")
    parser.add_argument("--output", help="folder of the merged model")
    arguments = parser.parse_args()
    folder = merge(arguments.run, arguments.output)
    report = json.loads((folder / REPORT_FILE).read_text(encoding="utf-8"))
    print(
        f"merged model: {show_path(folder)} ({report['dtype']}); against the adapter on the same "
        f"base: mean KL {report['mean_kl']:.2g}, top-1 agreement {report['top1_agreement']:.0%}"
    )
    return 0


if __name__ == "__main__":
    errors.run_main(main)
