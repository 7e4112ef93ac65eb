"""A GGUF file against the merged model it was made from: read back, asked, compared."""

from pathlib import Path

from config import Config
from hardware import Device
from merging.measure import (
    Comparison,
    Trained,
    compare_model,
    free_memory,
    measure_grounding,
    measure_perplexity,
    read_logits,
)
from merging.sample import Sample
from trained_models import load_gguf, load_merged


def measure_merged(folder: Path, device: Device, config: Config, sample: Sample) -> Trained:
    """The yardstick of an export: the merged model."""
    model, tokenizer = load_merged(folder, device)
    found = Trained(
        logits=list(read_logits(model, tokenizer, config, sample, "merged model")),
        grounding=measure_grounding(model, tokenizer, config, sample, "merged model"),
        drift=1.0 if sample.passages else None,
        base_perplexity=measure_perplexity(model, tokenizer, sample, "merged model"),
    )
    del model
    free_memory()
    return found


def measure_gguf(
    file: Path, device: Device, config: Config, sample: Sample, merged: Trained
) -> Comparison:
    """The file, dequantised by transformers' reader, against the merged model."""
    model, tokenizer = load_gguf(file, device)
    found = compare_model(model, tokenizer, config, sample, merged, file.stem)
    del model
    free_memory()
    return found


def render_table(report: dict) -> str:
    """export_report.md: a row per file under the merged model's own figures."""
    lines = [
        f"# Export of {report['model']}",
        "",
        f"Against the merged model, on {report['sample']['pairs']} items of "
        f"{report['sample']['source']}, read back by transformers, {report['device']}. KL in nats "
        "per answer token; perplexity on neutral text as a multiple of the merged model's.",
        "",
        "| file | mean KL | top-1 agreement | grounding | kept | perplexity | size |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, found in report["files"].items():
        share, kept = found["grounding"], found["grounding_kept"]
        value = "-" if share["value"] is None else f"{share['value']:.1%}"
        lines.append(
            f"| {name} | {found['mean_kl']:.2g} | {found['top1_agreement']:.1%} | {value} "
            f"| {'-' if kept is None else f'{kept:.1%}'} "
            f"| {'-' if found['drift'] is None else format(found['drift'], '.3f')} "
            f"| {found['bytes'] / 1e6:,.0f} MB |"
        )
    merged = report["merged_grounding"]["value"]
    if merged is not None:
        lines += ["", f"The merged model grounds {merged:.1%}; kept is a file's share of that."]
    best = find_best_4bit(report["files"])
    lines += ["", f"Better 4-bit file: {best}."] if best else []
    return "\n".join([*lines, ""])


def find_best_4bit(files: dict[str, dict]) -> str | None:
    """The 4-bit file that grounds best, then is nearest to the merged model.

    Which of q4_0 and q4_1 that is depends on the base. Weights that once were q4_1 lie on its
    grid, and a fine-tune smaller than half a step of the grid is rounded away again.
    """
    four = [name for name in files if "-q4_" in name]
    return min(
        four,
        key=lambda name: (-(files[name]["grounding"]["value"] or 0), files[name]["mean_kl"]),
        default=None,
    )
