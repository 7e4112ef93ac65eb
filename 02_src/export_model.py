"""Export a merged model: GGUF files for llama.cpp and Ollama, a Modelfile, and what was lost.

    python 02_src/export_model.py --model 04_models/merged/quickstart
    python 02_src/export_model.py --model 04_models/merged/quickstart --kinds q8_0 --no_score

Llama family only; others are refused by name. Writes 04_models/exported/<run>/: a .gguf per kind
(f16, q8_0, q4_0, q4_1), Modelfile, contract, export_report.json and export_report.md. The gguf
package writes no K-quants; make them from the f16 file with llama.cpp's own tool:
    llama-quantize MODEL-f16.gguf MODEL-q4_k_m.gguf Q4_K_M
ONNX and OpenVINO are not offered: they need an exporter package of their own.
"""

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import errors  # first: from here on Ctrl-C is one line
from config import Config, load_run_config, resolve_path, show_path, write_text
from errors import UserError
from hardware import find_device
from model_card import build_card

EXPORTED_FOLDER = "04_models/exported"
KIND_NAMES = ("f16", "q8_0", "q4_0", "q4_1")
DEFAULT_KINDS = KIND_NAMES
OLLAMA_KIND = "q8_0"  # keeps what was learned; see export_report.md
REPORT_FILE, TABLE_FILE = "export_report.json", "export_report.md"
CARRIED = ("prompt_contract.json", "run_config.json", "config.json")


def export(
    model_folder: str | Path,
    output: str | Path | None = None,
    kinds: Sequence[str] = DEFAULT_KINDS,
    modelfile: bool = True,
    score: bool = True,
) -> Path:
    """Write GGUF files of a merged model; return their folder, complete or absent.

    Args:
        model_folder: a merged model.
        output: the folder to write; None: 04_models/exported/<run>.
        kinds: names of KIND_NAMES; Ollama is pointed at q8_0, or else at the last.
        modelfile: whether to write the Modelfile.
        score: whether to read every file back and measure it on the sample.

    Raises:
        UserError: not a merged Llama, a tokenizer GGUF cannot name, or a broken contract.
    """
    from exporting.gguf_model import check_family

    folder = resolve_path(model_folder)
    config = load_run_config(folder)
    if (folder / "adapter_config.json").is_file():
        raise UserError(
            f"{show_path(folder)}: an adapter; merge it first: "
            f"python 02_src/merge_lora.py --run {show_path(folder)}"
        )
    check_family(folder)
    target = resolve_path(output) if output else resolve_path(EXPORTED_FOLDER) / folder.name
    refuse_foreign(target)
    scratch = target.with_name(f".{target.name}.exporting")
    fill(scratch, folder, config, kinds, modelfile)
    if score:
        write_report(measure(folder, scratch, config), scratch)
    write_text(scratch / "README.md", build_card(config, scratch, "gguf", [], target.name))
    shutil.rmtree(target, ignore_errors=True)
    scratch.rename(target)
    return target


def fill(
    scratch: Path, folder: Path, config: Config, kinds: Sequence[str], modelfile: bool
) -> None:
    """Write settings, Modelfile and every kind's weights into `scratch`, emptied first."""
    from exporting.gguf_model import write_gguf

    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    served = OLLAMA_KIND if OLLAMA_KIND in kinds else kinds[-1]
    copy_settings(config, folder, scratch, f"{folder.name}-{served}.gguf", modelfile)
    for kind in kinds:
        write_gguf(folder, scratch / f"{folder.name}-{kind}.gguf", kind)


def refuse_foreign(target: Path) -> None:
    """UserError when the target holds what no export wrote: it would be replaced."""
    if target.is_dir() and any(target.iterdir()) and not list(target.glob("*.gguf")):
        raise UserError(f"{show_path(target)}: holds no export; give another --output")


def copy_settings(
    config: Config, folder: Path, scratch: Path, weights: str, modelfile: bool
) -> None:
    """Copy contract, config and card, and write the Modelfile for `weights`."""
    from transformers import AutoTokenizer

    from exporting.ollama_template import write_modelfile
    from prompt_contract import check_contract, eos_ids

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    check_contract(tokenizer, folder)
    for name in CARRIED:
        if (folder / name).is_file():
            shutil.copyfile(folder / name, scratch / name)
    if modelfile:
        ends = [tokenizer.convert_ids_to_tokens(i) for i in eos_ids(tokenizer)]
        text = write_modelfile(tokenizer, weights, ends, config.max_new_tokens)
        write_text(scratch / "Modelfile", text)


def measure(folder: Path, scratch: Path, config: Config) -> dict:
    """Every file in `scratch` against the merged model, on the merge's sample."""
    from exporting.score import measure_gguf, measure_merged
    from merging.sample import load_sample

    device, sample = find_device(config), load_sample(config)
    merged = measure_merged(folder, device, config, sample)
    files = {}
    for file in sorted(scratch.glob("*.gguf")):
        found = measure_gguf(file, device, config, sample, merged)
        kept = found.grounding.value / merged.grounding.value if merged.grounding.value else None
        size = file.stat().st_size
        files[file.name] = {**found.to_dict(), "grounding_kept": kept, "bytes": size}
    return {
        "model": show_path(folder),
        "device": device.name,
        "sample": {"source": sample.source, "pairs": len(sample.pairs), "asked": len(sample.asked)},
        "merged_grounding": merged.grounding.to_dict(),
        "files": files,
    }


def write_report(report: dict, folder: Path) -> None:
    """export_report.md, then export_report.json."""
    from exporting.score import render_table

    write_text(folder / TABLE_FILE, render_table(report))
    write_text(folder / REPORT_FILE, json.dumps(report, indent=2) + "\n")


def split_kinds(text: str) -> list[str]:
    """ "f16,q8_0" as a list; UserError for a kind that cannot be written."""
    kinds = [kind.strip().lower() for kind in text.split(",") if kind.strip()]
    for kind in kinds:
        if kind not in KIND_NAMES:
            raise UserError(
                f"--kinds {kind}: choose from {', '.join(KIND_NAMES)}; for K-quants export f16, "
                "then: llama-quantize MODEL-f16.gguf MODEL-q4_k_m.gguf Q4_K_M"
            )
    if not kinds:
        raise UserError(f"--kinds: is empty; choose from {', '.join(KIND_NAMES)}")
    return list(dict.fromkeys(kinds))


def main() -> int:
    """Parse, export, print."""
    parser = argparse.ArgumentParser(description="Export a merged model as GGUF.")
    parser.add_argument("--model", required=True, help="merged model folder")
    parser.add_argument("--output", help="folder to write")
    parser.add_argument("--kinds", default=",".join(DEFAULT_KINDS), help="of f16,q8_0,q4_0,q4_1")
    parser.add_argument("--no_modelfile", action="store_true", help="without Ollama's Modelfile")
    parser.add_argument("--no_score", action="store_true", help="do not read back and measure")
    arguments = parser.parse_args()
    kinds = split_kinds(arguments.kinds)
    scored = not arguments.no_score
    folder = export(arguments.model, arguments.output, kinds, not arguments.no_modelfile, scored)
    if scored:
        print((folder / TABLE_FILE).read_text(encoding="utf-8"))
    print(f"exported: {show_path(folder)}")
    if not arguments.no_modelfile:
        print(f"with Ollama: cd {show_path(folder)} && ollama create NAME -f Modelfile")
    return 0


if __name__ == "__main__":
    errors.run_main(main)
