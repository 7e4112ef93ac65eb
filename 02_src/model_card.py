"""The README.md of an adapter, merged model or export: base, data, recipe, figures, limits.

It names nothing of the machine: of paths outside the repository only the last part is told.
"""

import json
from pathlib import Path

from base_models import EMBEDDED, EMBEDDED_PREFIX
from config import REPOSITORY, Config, resolve_path, write_text
from statistics_of_runs import Share

KEYS = (
    "loss_type", "loss_weights", "dpo_beta", "learning_rate", "num_train_epochs", "lora_r",
    "lora_alpha", "lora_target_modules", "load_in_4bit", "bnb_4bit_quant_type", "seed",
)  # fmt: skip
REHEARSAL_KEYS = ("rehearsal_weight", "rehearsal_per_pair")
TRAINING = (
    ("loss", "training loss, last"),
    ("rewards/accuracies", "pairs ranked right"),
    ("rewards/margins", "reward margin"),
)
LIMITS = (
    "It was trained on a fixed set of question and answer pairs. Asked about what is not among "
    "them it may invent an answer, and its general knowledge is the base model's. Check what "
    "matters."
)
WHAT = {
    "adapter": "DPO + QLoRA adapter for",
    "merged": "DPO + QLoRA fine-tune (adapter merged in) of",
    "gguf": "GGUF files of a DPO + QLoRA fine-tune of",
}


def write_model_card(config: Config, folder: Path, records: list[dict]) -> None:
    """Write README.md of a run that has just been trained; `records` are the run's metrics."""
    write_text(folder / "README.md", build_card(config, folder, "adapter", records))


def build_card(
    config: Config, folder: Path, kind: str, records: list[dict], name: str | None = None
) -> str:
    """The card's text in the Hub's format.

    Args:
        config: of the run.
        folder: of the model; its evaluation.json and merge_report.json are told where they are.
        kind: adapter, merged or gguf.
        records: the run's training metrics; may be empty.
        name: the title; None takes the folder's.
    """
    if name is None:
        name = folder.parent.name if folder.name.startswith(".") else folder.name
    base, data = name_publicly(config.model_name), name_publicly(config.dataset_hf)
    lines = [
        *front_matter(config, kind),
        f"# {name}",
        "",
        f"{WHAT[kind]} `{base}`, trained on `{data}`.",
        "",
        *tell_settings(config),
        *tell_training(records),
        *tell_merge(folder),
        *tell_evaluation(folder),
        *tell_export(folder),
        "## Prompt",
        "",
        "The chat template holds the system prompt and date of training; render it with "
        "`apply_chat_template` and add no special tokens.",
        "",
        "## Limits",
        "",
        LIMITS,
        "",
    ]
    return "\n".join(lines)


def front_matter(config: Config, kind: str) -> list[str]:
    """The card's YAML head; a licence is stated only where it is known."""
    library = "peft" if kind == "adapter" else "transformers"
    tags = "dpo, qlora, trl, lora" + (", gguf" if kind == "gguf" else "")
    lines = ["---", f"library_name: {library}", f"tags: [{tags}]"]
    name = config.model_name.removeprefix(EMBEDDED_PREFIX)
    if config.model_name.startswith(EMBEDDED_PREFIX) and name in EMBEDDED:
        lines += [f"license: {EMBEDDED[name]['license']}"]
        lines += ["base_model: HuggingFaceTB/SmolLM2-135M-Instruct"]
    elif is_hub_id(config.model_name):
        lines += [f"base_model: {config.model_name}"]
    return [*lines, "---", ""]


def is_hub_id(name: str) -> bool:
    """Whether a model_name is one of the Hub's, and no path."""
    if name.endswith(".gguf") or name.startswith((".", "/", "~", EMBEDDED_PREFIX)):
        return False
    return name.count("/") == 1 and not resolve_path(name).exists()


def name_publicly(name: str) -> str:
    """A model's or file's name that tells nothing of this machine."""
    path = Path(name).expanduser()
    if path.is_absolute() and path.is_relative_to(REPOSITORY):
        return path.relative_to(REPOSITORY).as_posix()
    outside = path.is_absolute() or ".." in path.parts or name.startswith("~") or "\\" in name
    return name.replace("\\", "/").rstrip("/").rpartition("/")[2] if outside else name


def tell_settings(config: Config) -> list[str]:
    """The table of what decides what a run learns."""
    values = {key: getattr(config, key) for key in KEYS}
    if config.rehearsal_file is not None:
        values["rehearsal_file"] = name_publicly(config.rehearsal_file)
        values |= {key: getattr(config, key) for key in REHEARSAL_KEYS}
    rows = [f"| {key} | {value} |" for key, value in values.items()]
    return ["| setting | value |", "|---|---|", *rows, ""]


def tell_training(records: list[dict]) -> list[str]:
    """The last training figures."""
    last = next((r for r in reversed(records) if "loss" in r), {})
    rows = [
        f"| {label} | {last[key]:.3f} |" for key, label in TRAINING if last.get(key) is not None
    ]
    return ["| at the end of training | |", "|---|---|", *rows, ""] if rows else []


def read_json(file: Path) -> dict:
    """A report that another stage wrote; empty where there is none."""
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def tell_merge(folder: Path) -> list[str]:
    """How far the merged model is from the trained one."""
    report = read_json(folder / "merge_report.json")
    if not report:
        return []
    return [
        f"Merged with the strategy `{report['strategy']}`; mean KL from the trained model (adapter "
        f"on its {report['base_format']} base) {report['mean_kl']:.2g} nats per answer token, "
        f"top-1 agreement {report['top1_agreement']:.1%}.",
        "",
    ]


def tell_evaluation(folder: Path) -> list[str]:
    """Held-out figures per split and model, or how to get them."""
    report = read_json(folder / "evaluation.json")
    rows = [
        f"| {split} | {name_publicly(model)} | {figures['n']} | {show(figures.get('grounding'))} "
        f"| {show(figures.get('confusion'))} | {show_ratio(figures)} |"
        for model, found in report.get("models", {}).items()
        for split, figures in found["splits"].items()
    ]
    if not rows:
        return ["No held-out figures: evaluate_dpo.py has not been run on it.", ""]
    return [
        "## Evaluation",
        "",
        "Held-out questions, greedy answers; 95 % intervals (Wilson; bootstrap for the ratio).",
        "",
        "| split | model | n | right expansion | another sense | perplexity over the base's |",
        "|---|---|---|---|---|---|",
        *rows,
        "",
    ]


def tell_export(folder: Path) -> list[str]:
    """What each GGUF file keeps of the merged model."""
    report = read_json(folder / "export_report.json")
    rows = [
        f"| {name} | {found['bytes'] / 1e6:,.0f} MB | {found['mean_kl']:.2g} "
        f"| {show(found['grounding'])} |"
        for name, found in report.get("files", {}).items()
    ]
    head = "| file | size | mean KL from the merged model | right expansion |"
    return ["## Files", "", head, "|---|---|---|---|", *rows, ""] if rows else []


def show(share: dict | None) -> str:
    """A proportion, or a dash."""
    return str(Share(**share)) if share else "-"


def show_ratio(figures: dict) -> str:
    """The perplexity ratio of a split of neutral text, or a dash."""
    ratio = figures.get("perplexity_ratio")
    return f"{ratio['value']:.2f} ({ratio['low']:.2f}-{ratio['high']:.2f})" if ratio else "-"
