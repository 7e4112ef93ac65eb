"""Evaluate a run on held-out questions: base against adapter, the merged model, or a control.

    python 02_src/evaluate_dpo.py --run 04_models/adapters/quickstart
    python 02_src/evaluate_dpo.py --run 04_models/adapters/quickstart --models merged
    python 02_src/evaluate_dpo.py --run RUN --models base,base_with_glossary,adapter
    python 02_src/evaluate_dpo.py --run RUN --splits seen,drift --limit 100
    python 02_src/evaluate_dpo.py --run RUN --compare OTHER_RUN
    torchrun --nproc_per_node 2 -- 02_src/evaluate_dpo.py --run RUN

Writes into the run's folder (into the merged model's for --models merged): evaluation.html, the
report to read; evaluation.md; evaluation.json, all figures with n and intervals;
evaluation_items.jsonl, the judged answers; evaluation_scores.jsonl, items without an answer. An
interrupted evaluation goes on with the splits it has not finished. Several processes share the
questions of each split. Metrics: 02_src/evaluation/.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import errors  # first: from here on Ctrl-C is one line
import processes
from checkpoints import check_adapter_files, check_merged
from config import Config, load_run_config, resolve_path, show_path
from errors import UserError
from evaluation.comparison import compare_models
from evaluation.console import print_report
from evaluation.figures import summarize_set
from evaluation.model_names import CONTROLS, MODELS, choose_tuned, find_folder, order_models
from evaluation.parts import Parts, hash_model, part_key
from evaluation.question_sets import (
    QuestionSet,
    check_limit,
    load_question_sets,
    read_glossary,
    require_glossary,
)
from evaluation.report import HTML_FILE, REPORT_FILE, read_evaluation, save_evaluation
from hardware import Device, find_device

Records = dict[tuple[str, str], list[dict]]  # (model, split) -> a record per item


def evaluate(
    run_folder: str | Path,
    models: Sequence[str] = ("base", "adapter"),
    limit: int | None = None,
    splits: Sequence[str] | None = None,
) -> dict:
    """Score `models` on the test splits of the run's config; write and return the report.

    Args:
        run_folder: a finished run.
        models: any of base, base_with_glossary, adapter, merged, or folders of other models.
        limit: items per split; None takes the config's eval_limit.
        splits: names from test_files; None is all.

    Raises:
        UserError: the run is not finished, a test file is missing, or the contract is broken.
    """
    started = time.monotonic()
    run_folder = resolve_path(run_folder)
    config = load_run_config(run_folder)
    names = order_models(models)
    check_models(names, run_folder, config)
    sets = load_question_sets(config, limit, splits)
    device = find_device(config)
    processes.join(device.kind)
    target = find_folder("merged", run_folder, config) if names == ["merged"] else run_folder
    parts = Parts(target)
    records = measure_models((run_folder, config, device), names, sets, parts)
    report = {
        "run": show_path(run_folder),
        "device": device.name,
        "limit": limit or config.eval_limit,
        **summarize_all(names, records, sets, config),
        "seconds": round(time.monotonic() - started, 1),
    }
    if processes.is_main():
        save_evaluation(target, report, join(records, names))
        parts.clear()
    return report


def check_models(names: Sequence[str], run_folder: Path, config: Config) -> None:
    """Refuse what cannot be measured (UserError) before libraries and models are loaded."""
    if {*CONTROLS, "adapter"} & set(names):  # the base is the run's, its adapter switched off
        check_adapter_files(run_folder)
    if "merged" in names:
        check_merged(find_folder("merged", run_folder, config))
    if "base_with_glossary" in names:
        require_glossary()


def measure_models(
    run: tuple[Path, Config, Device],
    names: Sequence[str],
    sets: Sequence[QuestionSet],
    parts: Parts,
) -> Records:
    """Records of every model on every split, finished ones from `parts`.

    An adapter without the base gets the base's log-probs too, as its reference.

    Args:
        run: the run's folder, its config, and the device to measure on.
    """
    from evaluation.measure import measure_set
    from evaluation.subjects import Models

    run_folder, config, _ = run
    models = Models(*run)
    glossary = read_glossary()
    reference_only = "adapter" in names and "base" not in names
    records: Records = {}
    for name in ("base", *names) if reference_only else names:
        ask = name in names
        model_hash = hash_model(find_folder(name, run_folder, config))
        print(f"evaluating {name} on {sum(map(len, sets))} items")
        for questions in sets:
            key = part_key(name, model_hash, config, questions, ask)
            found = processes.take_from_main(parts.read(key))
            if found is not None:
                print(f"  {questions.name}: finished before")
            else:
                mine = questions.take(processes.cut_share(len(questions)))
                with processes.main_first():
                    subject = models.load(name)
                shares = processes.gather(measure_set(subject, mine, glossary, ask))
                found = [record for share in shares for record in share]
                if processes.is_main():
                    parts.write(key, found)
            records[name, questions.name] = found
    return records


def summarize_all(
    names: Sequence[str], records: Records, sets: Sequence[QuestionSet], config: Config
) -> dict:
    """The report's figures: what was asked, every model's splits, comparisons with the controls."""
    return {
        "test_files": {questions.name: questions.file for questions in sets},
        "models": {name: summarize_model(name, records, sets, config) for name in names},
        "comparisons": compare_with_controls(names, records),
    }


def summarize_model(
    name: str, records: Records, sets: Sequence[QuestionSet], config: Config
) -> dict:
    """{"splits": {split: figures}} of one model."""
    figures = {}
    for questions in sets:
        if found := records[name, questions.name]:
            base = records.get(("base", questions.name), ())
            seen = records.get((name, "seen"), ())
            figures[questions.name] = summarize_set(found, base, seen, config.dpo_beta)
    return {"splits": figures}


def join(records: Records, names: Sequence[str]) -> list[dict]:
    """All records of the named models."""
    return [
        r for name in names for (model, _), rows in records.items() if model == name for r in rows
    ]


def compare_with_controls(names: Sequence[str], records: Records) -> list[dict]:
    """Paired comparisons of base and base_with_glossary with every model after them."""
    pairs = [(a, b) for i, a in enumerate(names) if a in CONTROLS for b in names[i + 1 :]]
    rows = {name: join(records, [name]) for name in names}
    return [c for a, b in pairs for c in compare_models(rows[a], rows[b], (a, b))]


def compare(run_folder: str | Path, other_folder: str | Path) -> dict:
    """Add a paired comparison with another evaluated run to this run's report.

    Raises:
        UserError: the other run has no evaluation, or the two share no item.
    """
    run_folder, other_folder = resolve_path(run_folder), resolve_path(other_folder)
    report, records = read_evaluation(run_folder)
    other, before = read_evaluation(other_folder)
    names = choose_tuned(other), choose_tuned(report)
    first = [record for record in before if record["model"] == names[0]]
    second = [record for record in records if record["model"] == names[1]]
    labels = f"{show_path(other_folder)} {names[0]}", f"{show_path(run_folder)} {names[1]}"
    found = compare_models(first, second, labels)
    if not found:
        raise UserError(f"--compare {show_path(other_folder)}: the two runs share no test item")
    kept = [c for c in report["comparisons"] if (c["first"], c["second"]) != labels]
    report["comparisons"] = kept + found
    save_evaluation(run_folder, report, records)
    return report


def split_names(text: str) -> list[str]:
    """ "a,b" as ["a", "b"]."""
    return [name.strip() for name in text.split(",") if name.strip()]


def parse_arguments() -> argparse.Namespace:
    """The command line, checked."""
    parser = argparse.ArgumentParser(description="Evaluate a run on held-out questions.")
    parser.add_argument("--run", required=True, help="run folder")
    parser.add_argument(
        "--models", type=split_names, default=["base", "adapter"],
        help=f"of {', '.join(MODELS)}, or folders of other models",
    )  # fmt: skip
    parser.add_argument("--splits", type=split_names, help="names from test_files; all without it")
    parser.add_argument("--limit", type=int, help="items per split")
    parser.add_argument("--compare", metavar="RUN", help="compare with this evaluated run")
    arguments = parser.parse_args()
    for name in arguments.models:
        if name not in MODELS and not resolve_path(name).is_dir():
            raise UserError(f"--models {name}: choose from {', '.join(MODELS)}, or a model folder")
    check_limit(arguments.limit)
    return arguments


def main() -> int:
    """Parse, evaluate (or compare what was evaluated), print."""
    arguments = parse_arguments()
    processes.silence_others()
    folder = resolve_path(arguments.run)
    if not arguments.compare or not (folder / REPORT_FILE).is_file():
        report = evaluate(folder, arguments.models, arguments.limit, arguments.splits)
    processes.leave()
    if not processes.is_main():
        return 0
    if arguments.compare:
        report = compare(folder, arguments.compare)
    print_report(report)
    print(f"to read: {HTML_FILE} beside {REPORT_FILE}, in the folder that was evaluated")
    return 0


if __name__ == "__main__":
    errors.run_main(main)
