"""Merge an adapter into its base: a model that plain transformers loads, and a report on the cost.

    python 02_src/merge_lora.py --run 04_models/adapters/quickstart
    python 02_src/merge_lora.py --run RUN --strategy original --max_kl 0.05

The adapter was trained on 4-bit weights; merged into 16-bit ones it is another model.
`original` adds it to the 16-bit base, `dequantized` to the 4-bit weights it was trained on, and
`auto` measures both and keeps the better one. Weights are merged shard by shard on the CPU.
Writes 04_models/merged/<run>/ with model, tokenizer, contract, merge_report.json and
merge_report.md; the folder is complete or absent, and an interrupted merge goes on.
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
from errors import UserError
from hardware import find_device
from merging.choice import choose_strategy, describe_run, list_strategies, render_report
from model_card import build_card

REPORT_FILE, TABLE_FILE = "merge_report.json", "merge_report.md"
PLAN_FILE = "plan.json"
FORMAT = 2  # of the merge; raise it when the same inputs would give other weights


def merge(
    run_folder: str | Path,
    output: str | Path | None = None,
    strategy: str | None = None,
    max_kl: float | None = None,
) -> Path:
    """Merge a finished run; return the merged model's folder. A merged run is left as it is.

    Args:
        run_folder: a finished run.
        output: folder of the merged model; None: merged_dir/<run>.
        strategy: auto, original or dequantized; None takes the config's merge_strategy.
        max_kl: nats per token; None takes the config's merge_max_kl.

    Raises:
        UserError: the run is unfinished, its contract or base is not the one of training, the
            merged model is further from the trained one than max_kl, or the disk is full.
    """
    run_folder = resolve_path(run_folder)
    config = load_run_config(run_folder)
    given = {"merge_strategy": strategy, "merge_max_kl": max_kl}
    config = config.model_copy(update={k: v for k, v in given.items() if v is not None})
    target = resolve_path(output) if output else merged_folder(config, run_folder)
    check_adapter_files(run_folder)
    plan = describe_plan(config, run_folder)
    if read_plan(target / REPORT_FILE) == plan:
        print(f"already merged: {show_path(target)}")
        return target
    refuse_foreign(target)
    return carry_out(config, run_folder, target, plan)


def carry_out(config: Config, run_folder: Path, target: Path, plan: dict) -> Path:
    """Merge, measure, and put the chosen model with its reports in place of `target`."""
    from merging.candidates import Candidates

    strategies = list_strategies(config, config.merge_strategy)
    scratch = target.with_name(f".{target.name}.merging")
    candidates = Candidates(config, run_folder, scratch, len(strategies))
    open_scratch(scratch, target, {**plan, "base": candidates.fingerprint})
    report = {**plan, **compete(candidates, strategies)}
    winner = scratch / report["strategy"]
    write_text(winner / TABLE_FILE, render_report(report))
    write_text(winner / REPORT_FILE, json.dumps(report, indent=2) + "\n")
    write_text(winner / "README.md", build_card(config, winner, "merged", [], target.name))
    replace_folder(winner, target)
    shutil.rmtree(scratch)
    return target


def describe_plan(config: Config, run_folder: Path) -> dict:
    """What decides a merge's outcome; the same plan is not carried out twice."""
    return {
        "format": FORMAT,
        "adapter_sha256": hash_file(run_folder / "adapter_model.safetensors"),
        "contract_sha256": hash_file(run_folder / "prompt_contract.json"),
        "wanted_strategy": config.merge_strategy,
        "merge_max_kl": config.merge_max_kl,
        "merge_samples": config.merge_samples,
    }


def hash_file(file: Path) -> str:
    """sha256 of a file of the run; UserError when it is missing."""
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except FileNotFoundError:
        raise UserError(f"{show_path(file)}: missing; train again, or copy it back") from None


def read_plan(file: Path) -> dict | None:
    """The plan that a merge report holds; None where there is none."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        names = ("format", "adapter_sha256", "contract_sha256", "wanted_strategy")
        return {name: found[name] for name in (*names, "merge_max_kl", "merge_samples")}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def refuse_foreign(target: Path) -> None:
    """UserError when the target is a folder that no merge has written: it would be replaced."""
    if target.is_dir() and any(target.iterdir()) and not (target / REPORT_FILE).is_file():
        raise UserError(
            f"{show_path(target)}: holds files that no merge wrote; give another --output"
        )


def open_scratch(scratch: Path, target: Path, plan: dict) -> None:
    """Prepare the working folder; shards of an interrupted merge of the same plan stay.

    A folder set aside by a merge that was killed between its last two renames is put back.
    """
    old = set_aside(target)
    if old.is_dir() and not target.exists():
        old.rename(target)
    shutil.rmtree(old, ignore_errors=True)
    file, text = scratch / PLAN_FILE, json.dumps(plan) + "\n"
    if file.is_file() and file.read_text(encoding="utf-8") == text:
        print(f"going on with {show_path(scratch)}")
        return
    shutil.rmtree(scratch, ignore_errors=True)
    write_text(file, text)


def set_aside(target: Path) -> Path:
    """Where the target's earlier folder waits while the new one takes its place."""
    return target.with_name(f".{target.name}.replaced")


def replace_folder(folder: Path, target: Path) -> None:
    """Rename `folder` to `target`; an earlier target is deleted after that, never before."""
    if target.is_dir():
        target.rename(set_aside(target))
    folder.rename(target)
    shutil.rmtree(set_aside(target), ignore_errors=True)


def compete(candidates, strategies: list[str]) -> dict:
    """Merge every strategy to try, measure them, choose; return the report's figures.

    Raises:
        UserError: none is close enough to the trained model; the working folder is gone then.
    """
    config, scratch = candidates.config, candidates.scratch
    for strategy in strategies:
        candidates.write(strategy)
        save_config(config, scratch / strategy)
    measured, rest = candidates.measure(strategies)
    try:
        best, reason = choose_strategy(measured, config.merge_max_kl)
    except UserError:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    shown = ("mean_kl", "top1_agreement", "largest_logit_difference")
    return {
        "strategy": best,
        "reason": reason,
        **describe_run(candidates.run_folder, config),
        **{name: measured[best][name] for name in shown},
        **rest,
        "device": find_device(config).name,
        "strategies": measured,
    }


def main() -> int:
    """Parse, merge, print."""
    parser = argparse.ArgumentParser(description="Merge an adapter into its base.")
    parser.add_argument("--run", required=True, help="run folder")
    parser.add_argument("--output", help="folder of the merged model")
    parser.add_argument("--strategy", choices=("auto", "original", "dequantized"))
    parser.add_argument("--max_kl", type=float, help="instead of the config's merge_max_kl")
    arguments = parser.parse_args()
    if arguments.max_kl is not None and not arguments.max_kl > 0:
        raise UserError(f"--max_kl {arguments.max_kl}: must be > 0")
    folder = merge(arguments.run, arguments.output, arguments.strategy, arguments.max_kl)
    print((folder / TABLE_FILE).read_text(encoding="utf-8"))
    print(f"merged model: {show_path(folder)}")
    return 0


if __name__ == "__main__":
    errors.run_main(main)
