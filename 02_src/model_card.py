"""The README.md of an adapter or merged model: base, data, recipe, figures, limits."""

from pathlib import Path

from base_models import EMBEDDED, EMBEDDED_PREFIX
from config import Config, write_text

KEYS = (
    "loss_type", "loss_weights", "dpo_beta", "learning_rate", "num_train_epochs", "lora_r",
    "lora_alpha", "lora_target_modules", "load_in_4bit", "bnb_4bit_quant_type", "seed",
)  # fmt: skip
LIMITS = (
    "It was taught a fixed list of abbreviations. It may invent an expansion for one it was not "
    "taught, and its general knowledge is that of a small base model. Check what matters."
)


def write_model_card(config: Config, folder: Path, records: list[dict]) -> None:
    """Write README.md in the Hub's card format; `records` are the run's metrics."""
    last = next((r for r in reversed(records) if "loss" in r), {})
    rows = [f"| {name} | {getattr(config, name)} |" for name in KEYS]
    figures = [
        f"| {label} | {last[name]:.3f} |"
        for name, label in (
            ("loss", "training loss, last"),
            ("rewards/accuracies", "pairs ranked right"),
            ("rewards/margins", "reward margin"),
        )
        if last.get(name) is not None
    ]
    text = "\n".join(
        [
            *front_matter(config),
            f"# {folder.parent.name if folder.name.startswith('.') else folder.name}",
            "",
            f"DPO + QLoRA adapter for `{config.model_name}`, trained on `{config.dataset_hf}`.",
            "Held-out figures are in evaluation.json once evaluate_dpo.py has run.",
            "",
            "| setting | value |",
            "|---|---|",
            *rows,
            "",
            "| at the end of training | |",
            "|---|---|",
            *figures,
            "",
            "## Limits",
            "",
            LIMITS,
            "",
        ]
    )
    write_text(folder / "README.md", text)


def front_matter(config: Config) -> list[str]:
    """The card's YAML head; a licence is stated only where it is known."""
    lines = ["---", "library_name: peft", "tags: [dpo, qlora, trl, lora]"]
    name = config.model_name.removeprefix(EMBEDDED_PREFIX)
    if config.model_name.startswith(EMBEDDED_PREFIX) and name in EMBEDDED:
        lines += [f"license: {EMBEDDED[name]['license']}"]
        lines += ["base_model: HuggingFaceTB/SmolLM2-135M-Instruct"]
    elif "/" in config.model_name and not config.model_name.endswith(".gguf"):
        lines += [f"base_model: {config.model_name}"]
    return [*lines, "---", ""]
