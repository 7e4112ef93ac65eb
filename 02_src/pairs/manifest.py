"""manifest.json: what was written, from what, how it is balanced. No dates, no absolute paths."""

import json
from collections import Counter
from pathlib import Path
from statistics import mean, pvariance
from typing import Any

from pairs.rows import Row, hash_file
from pairs.splits import Plan


def write_manifest(
    out_dir: Path, inputs: dict[str, Path], files: dict[str, list[Row]], plan: Plan, seed: int
) -> dict[str, Any]:
    """Count and hash everything under `out_dir`, write manifest.json there and return it."""
    written = sorted(p for p in out_dir.rglob("*.jsonl") if p.is_file())
    manifest = {
        "seed": seed,
        "inputs": {n: hash_file(p) if p.is_file() else None for n, p in sorted(inputs.items())},
        "abbreviations": describe_plan(plan),
        "length_balance_train": measure_balance(files["train.jsonl"]),
        "files": {
            path.relative_to(out_dir).as_posix(): {
                "sha256": hash_file(path),
                **count_rows(path, files.get(path.relative_to(out_dir).as_posix(), [])),
            }
            for path in written
        },
    }
    text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
    (out_dir / "manifest.json").write_bytes(text.encode())
    return manifest


def describe_plan(plan: Plan) -> dict[str, Any]:
    """How many abbreviations are taught, and which are held out."""
    entries = [*plan.train, *plan.unseen]
    return {
        "all": len(entries),
        "with_two_oil_gas_senses": sum(len(entry.oil_gas) > 1 for entry in entries),
        "taught": len(plan.train),
        "general_sense_taught": len(plan.general_taught),
        "mini": sorted(plan.mini),
        "unseen": sorted(plan.held_out),
    }


def count_rows(path: Path, rows: list[Row]) -> dict[str, Any]:
    """Rows of a file by kind, phrasing and class of the rejected answer."""
    with path.open(encoding="utf-8") as lines:
        counts: dict[str, Any] = {"rows": sum(1 for _ in lines)}
    for name in ("kind", "rejected_class", "phrasing") if rows else ():
        counts[name] = dict(sorted(Counter(getattr(row, name) for row in rows).items()))
    return counts


def measure_balance(rows: list[Row]) -> dict[str, float]:
    """How far length alone tells chosen from rejected, in characters."""
    chosen, rejected = [len(row.chosen) for row in rows], [len(row.rejected) for row in rows]
    spread = ((pvariance(chosen) + pvariance(rejected)) / 2) ** 0.5
    longer = sum(c > r for c, r in zip(chosen, rejected, strict=True))
    shorter = sum(c < r for c, r in zip(chosen, rejected, strict=True))
    return {
        "mean_chosen": round(mean(chosen), 2),
        "mean_rejected": round(mean(rejected), 2),
        "mean_ratio": round(mean(c / r for c, r in zip(chosen, rejected, strict=True)), 4),
        "cohens_d": round((mean(chosen) - mean(rejected)) / spread, 4),
        "share_chosen_longer": round(longer / len(rows), 4),
        "share_chosen_shorter": round(shorter / len(rows), 4),
    }
