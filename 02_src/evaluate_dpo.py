"""Evaluate a run on held-out questions: base against adapter, or the merged model.

    python 02_src/evaluate_dpo.py --run 04_models/adapters/quickstart
    python 02_src/evaluate_dpo.py --run 04_models/adapters/quickstart --models merged

Writes evaluation.json and evaluation_items.jsonl into the run's folder (into the merged model's
folder for --models merged). Metrics: 02_src/grounding.py.
"""

import argparse
import json
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from config import (
    Config,
    load_run_config,
    merged_folder,
    resolve_path,
    show_path,
    write_text,
)
from errors import UserError, run_main
from grounding import judge_answer, summarize_judgements
from hardware import find_device
from preferences import Pair, load_pairs
from statistics_of_runs import Share, wilson

REPORT_FILE = "evaluation.json"
ITEMS_FILE = "evaluation_items.jsonl"
MODELS = ("base", "adapter", "merged")


@dataclass(frozen=True)
class Loaded:
    """A model to evaluate, with what it was trained under."""

    model: object
    tokenizer: object
    config: Config


def evaluate(
    run_folder: str | Path, models: Sequence[str] = ("base", "adapter"), limit: int | None = None
) -> dict:
    """Score `models` on every test split of the run's config; write and return the report.

    Args:
        run_folder: a finished run.
        models: any of base, adapter, merged.
        limit: items per split; None takes the config's eval_limit.

    Raises:
        UserError: the run is not finished, a test file is missing, or the contract is broken.
    """
    from trained_models import load_adapter, load_merged

    run_folder = resolve_path(run_folder)
    config = load_run_config(run_folder)
    splits = load_splits(config, limit)
    device = find_device(config)
    report: dict = {"run": show_path(run_folder), "device": device.name, "models": {}}
    items: list[dict] = []
    shared = None  # base and adapter are one model, with the adapter off or on
    for name in models:
        if name == "merged":
            loaded = Loaded(*load_merged(merged_folder(config, run_folder), device), config)
        else:
            loaded = shared = shared or Loaded(*load_adapter(run_folder, device))
        print(f"evaluating {name} on {sum(map(len, splits.values()))} items")
        report["models"][name] = {"splits": {}}
        for split, pairs in splits.items():
            figures, rows = evaluate_split(loaded, name, split, pairs)
            report["models"][name]["splits"][split] = figures
            items += rows
    target = merged_folder(config, run_folder) if tuple(models) == ("merged",) else run_folder
    write_text(
        target / ITEMS_FILE, "".join(json.dumps(i, ensure_ascii=False) + "\n" for i in items)
    )
    write_text(target / REPORT_FILE, json.dumps(report, indent=2) + "\n")
    return report


def load_splits(config: Config, limit: int | None) -> dict[str, list[Pair]]:
    """Test pairs of each split, at most `limit` each; UserError where a file is missing."""
    limit = limit or config.eval_limit
    return {name: load_pairs(file, config)[0][:limit] for name, file in config.test_files.items()}


def evaluate_split(
    loaded: Loaded, name: str, split: str, pairs: list[Pair]
) -> tuple[dict, list[dict]]:
    """(figures, per-item rows) of one model on one split."""
    adapter_off = loaded.model.disable_adapter() if name == "base" else nullcontext()
    with adapter_off:
        rows = ask_all(loaded, split, name, pairs)
        figures = {"n": len(pairs), **summarize_items(rows)}
        ranking = rank_pairs(loaded, pairs, f"{name} {split}")
    figures["ranking_accuracy"] = share_of(ranking["margins"]).to_dict()
    if name == "adapter":
        figures |= compare_with_reference(loaded, pairs, ranking)
    return figures, rows


def ask_all(loaded: Loaded, split: str, name: str, pairs: list[Pair]) -> list[dict]:
    """Ask every question that names its accepted expansions; judge the answers."""
    from generation import generate_answers

    asked = [pair for pair in pairs if pair.row.get("accepted") is not None]
    answers = generate_answers(
        loaded.model,
        loaded.tokenizer,
        [pair.prompt for pair in asked],
        loaded.config.max_new_tokens,
        loaded.config.generation_batch_size,
        label=f"{name} {split}: answers",
    )
    return [
        describe_item(name, split, pair, answer)
        for pair, answer in zip(asked, answers, strict=True)
    ]


def describe_item(name: str, split: str, pair: Pair, answer: str) -> dict:
    """One line of evaluation_items.jsonl."""
    question = pair.prompt[-1]["content"]
    accepted, competing = pair.row["accepted"], pair.row.get("competing") or []
    judgement = judge_answer(answer, accepted, competing, question)
    return {
        "model": name,
        "split": split,
        "id": pair.row.get("id") or pair.source,
        "abbreviation": pair.row.get("abbreviation"),
        "instruction": question,
        "answer": answer,
        **judgement.to_dict(),
        "accepted": accepted,
    }


def summarize_items(rows: list[dict]) -> dict:
    """Outcome shares of judged answers, as plain dictionaries."""
    from grounding import Judgement

    judgements = [Judgement(row["outcome"], row["strict"], row["matched"]) for row in rows]
    return {name: share.to_dict() for name, share in summarize_judgements(judgements).items()}


def rank_pairs(loaded: Loaded, pairs: list[Pair], label: str) -> dict:
    """Summed log-probs of chosen and rejected answers, and their differences."""
    from scoring import score_pairs
    from tokenization import tokenize_pairs

    rows = tokenize_pairs(pairs, loaded.tokenizer, loaded.config).rows
    chosen, rejected = score_pairs(
        loaded.model, loaded.tokenizer.pad_token_id, rows, label=f"{label}: log-probs"
    )
    return {"chosen": chosen, "rejected": rejected, "margins": (chosen - rejected).tolist()}


def compare_with_reference(loaded: Loaded, pairs: list[Pair], policy: dict) -> dict:
    """Reward accuracy, margin and displacement of the adapter against the adapter switched off."""
    with loaded.model.disable_adapter():
        reference = rank_pairs(loaded, pairs, "reference")
    beta = loaded.config.dpo_beta
    chosen = beta * (policy["chosen"] - reference["chosen"])
    rejected = beta * (policy["rejected"] - reference["rejected"])
    margins = chosen - rejected
    return {
        "reward_accuracy": share_of(margins.tolist()).to_dict(),
        "reward_margin": margins.mean().item(),
        "displaced": share_of((-chosen).tolist()).to_dict(),
        "chosen_logp_change": chosen.mean().item() / beta,
    }


def share_of(values: list[float]) -> Share:
    """Share of values above zero."""
    return wilson(sum(value > 0 for value in values), len(values))


def print_report(report: dict) -> None:
    """The headline figures as a table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="held-out questions (95 % intervals)")
    for column in ("model", "split", "n", "says the right expansion", "names another field's"):
        table.add_column(column)
    for name, model in report["models"].items():
        for split, figures in model["splits"].items():
            shares = (Share(**figures["grounding"]), Share(**figures["confusion"]))
            table.add_row(name, split, str(figures["n"]), *map(str, shares))
    Console().print(table)


def main() -> int:
    """Parse, evaluate, print."""
    parser = argparse.ArgumentParser(description="Evaluate a run on held-out questions.")
    parser.add_argument("--run", required=True, help="run folder")
    parser.add_argument("--models", default="base,adapter", help="of base, adapter, merged")
    parser.add_argument("--limit", type=int, help="items per split")
    arguments = parser.parse_args()
    models = arguments.models.split(",")
    for name in models:
        if name not in MODELS:
            raise UserError(f"--models {name}: choose from {', '.join(MODELS)}")
    if arguments.limit is not None and arguments.limit < 1:
        raise UserError(f"--limit {arguments.limit}: must be 1 or more")
    print_report(evaluate(arguments.run, models, arguments.limit))
    return 0


if __name__ == "__main__":
    run_main(main)
