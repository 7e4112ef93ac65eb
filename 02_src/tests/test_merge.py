"""Merging: the arithmetic, the trained 4-bit weights, any shard layout, what is refused."""

import json
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM

from config import load_run_config
from errors import UserError
from hardware import find_device
from merge_lora import merge
from merging.adapter_weights import load_updates
from merging.base_identity import IDENTITY_FILE, fingerprint_base
from merging.choice import choose_strategy
from merging.quantised_base import list_quantised_weights
from merging.tensor_files import read_layout
from merging.write_model import TensorMerger, write_weights
from trained_models import load_adapter


def read_report(folder):
    return json.loads((folder / "merge_report.json").read_text(encoding="utf-8"))


def write_in_fp32(run, base, folder, quantised):
    """Merge into fp32 files, so that only the arithmetic is left to differ."""
    config, layout = load_run_config(run), read_layout(base)
    merger = TensorMerger(
        config, load_updates(run, layout), quantised, torch.float32, dtype=torch.float32
    )
    write_weights(layout, folder, merger, "test")
    shutil.copyfile(base / "config.json", folder / "config.json")
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


@pytest.mark.parametrize("strategy", ["original", "dequantized"])
def test_adapter_and_merged_weights_agree_to_1e_5_in_fp32(make_run, tiny_model, tmp_path, strategy):
    from peft import PeftModel

    run = make_run()
    config = load_run_config(run)
    quantised = list_quantised_weights(config, tiny_model) if strategy == "dequantized" else set()
    merged = write_in_fp32(run, tiny_model, tmp_path / "merged", quantised)
    (tmp_path / "bare").mkdir()
    bare = TensorMerger(config, {}, quantised, torch.float32, dtype=torch.float32)
    write_weights(read_layout(tiny_model), tmp_path / "bare", bare, "test")
    shutil.copyfile(tiny_model / "config.json", tmp_path / "bare" / "config.json")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "bare", dtype=torch.float32)
    ids = torch.arange(5, 60)[None]
    with torch.inference_mode():
        before = base(ids).logits.clone()
        beside = PeftModel.from_pretrained(base, run)(ids).logits
        together = merged(ids).logits
    assert (beside - before).abs().max() > 0.05, "the adapter must change something"
    torch.testing.assert_close(together, beside, rtol=1e-5, atol=1e-5)


def test_dequantized_weights_are_those_the_run_was_trained_on(make_run, tiny_model, tmp_path):
    from bitsandbytes.functional import dequantize_4bit
    from peft.tuners.lora.bnb import Linear4bit

    run = make_run(bf16=False)  # fp32 on the CPU: nothing is rounded on top
    config = load_run_config(run)
    model = load_adapter(run, find_device(config))[0]
    bare = TensorMerger(
        config, {}, list_quantised_weights(config, tiny_model), torch.float32, dtype=torch.float32
    )
    entries = {e.name: e for entries in read_layout(tiny_model).values() for e in entries}
    found = {name: m for name, m in model.named_modules() if isinstance(m, Linear4bit)}
    assert {f"{n.removeprefix('base_model.model.')}.weight" for n in found} == bare.quantised
    for name, module in found.items():
        weight = module.base_layer.weight
        ours = bare.merge(entries[f"{name.removeprefix('base_model.model.')}.weight"])
        assert torch.equal(ours, dequantize_4bit(weight.data, weight.quant_state)), name


def test_auto_measures_both_and_the_report_says_why(tiny_merged):
    run, merged = tiny_merged
    report = read_report(merged)
    assert set(report["strategies"]) == {"original", "dequantized"}
    both = report["strategies"]
    assert both["dequantized"]["mean_kl"] < both["original"]["mean_kl"]
    assert all(m["arithmetic_error"] < 1e-5 and m["tokens"] > 20 for m in both.values())
    assert report["strategy"] in report["reason"] and report["sample"]["asked"] == 4
    table = (merged / "merge_report.md").read_text(encoding="utf-8")
    assert "| original |" in table and "| dequantized |" in table and "Chosen: **" in table
    assert not list(merged.parent.glob(".*")), "the working folder is gone"


def test_a_merge_is_not_done_twice_and_another_wish_is(tiny_merged, capsys):
    run, merged = tiny_merged
    before = (merged / "model.safetensors").stat().st_mtime_ns
    assert merge(run) == merged
    assert "already merged" in capsys.readouterr().out
    assert (merged / "model.safetensors").stat().st_mtime_ns == before
    other = merge(run, merged.parent / "other", strategy="dequantized")
    assert list(read_report(other)["strategies"]) == ["dequantized"]


def test_every_shard_layout_gives_the_same_model(make_run, tiny_model, tiny_merged, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    sharded = tmp_path / "sharded"
    shutil.copytree(tiny_model, sharded)
    (sharded / "model.safetensors").unlink()
    model.save_pretrained(sharded, max_shard_size=200_000)
    assert len(read_layout(sharded)) > 1
    assert fingerprint_base(read_layout(sharded)) == fingerprint_base(read_layout(tiny_model))
    merged = merge(make_run(sharded), strategy="original")
    single = merge(tiny_merged[0], tmp_path / "single", strategy="original")
    assert set(read_layout(merged)) == set(read_layout(sharded))
    a, b = (AutoModelForCausalLM.from_pretrained(f).state_dict() for f in (merged, single))
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_an_untied_head_stays_as_it_is(make_run, tiny_model, tmp_path):
    folder = tmp_path / "untied"
    shutil.copytree(tiny_model, folder)
    model = AutoModelForCausalLM.from_pretrained(tiny_model, tie_word_embeddings=False)
    torch.nn.init.normal_(model.lm_head.weight)
    model.save_pretrained(folder)
    merged = AutoModelForCausalLM.from_pretrained(merge(make_run(folder)), dtype=torch.bfloat16)
    assert torch.equal(merged.lm_head.weight, model.lm_head.weight.bfloat16())


def test_what_does_not_belong_together_is_refused(make_run, tiny_model, tmp_path):
    run = make_run()
    file = run / IDENTITY_FILE
    identity = json.loads(file.read_text())
    file.write_text(json.dumps({**identity, "xxh3_128": "0" * 32}))
    with pytest.raises(UserError, match="other weights"):
        merge(run)
    file.unlink()  # a run older than fingerprints: the shapes still have to fit
    settings = json.loads((run / "run_config.json").read_text())
    wider = tmp_path / "wider"
    shutil.copytree(tiny_model, wider)
    changed = json.loads((wider / "config.json").read_text()) | {"intermediate_size": 160}
    (wider / "config.json").write_text(json.dumps(changed))
    (wider / "model.safetensors").unlink()
    from transformers import AutoConfig

    AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(wider)).save_pretrained(wider)
    (run / "run_config.json").write_text(json.dumps({**settings, "model_name": str(wider)}))
    with pytest.raises(UserError, match="trained on another base"):
        merge(run)
    assert not list((run.parent.parent / "merged").glob("*"))


@pytest.mark.parametrize(
    "key, value, words", [("use_dora", True, "use_dora"), ("peft_type", "LOHA", "LoRA adapter")]
)
def test_what_is_no_plain_lora_is_refused(make_run, key, value, words):
    run = make_run()
    file = run / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: value}))
    with pytest.raises(UserError, match=words):
        merge(run)


def test_a_merge_too_far_from_the_trained_model_leaves_nothing(make_run):
    run = make_run()
    with pytest.raises(UserError, match=r"merge_max_kl.*dequantized"):
        merge(run, strategy="original", max_kl=1e-12)
    merged = run.parent.parent / "merged"
    assert not [path for path in merged.iterdir() if (path / "model.safetensors").is_file()]


def test_a_foreign_folder_is_not_written_over(make_run, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="no merge wrote"):
        merge(make_run(), tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").is_file()


def figures(kl, right, drift):
    return {"mean_kl": kl, "grounding": {"value": right}, "drift": drift}


@pytest.mark.parametrize(
    "original, dequantized, best, reason",
    [
        (figures(0.05, 0.9, 1.2), figures(0.001, 0.8, 1.1), "original", "grounding"),
        (figures(0.05, 0.9, 1.2), figures(0.001, 0.9, 1.3), "original", "drift"),
        (figures(0.05, 0.9, 1.2), figures(0.001, 0.9, 1.2), "dequantized", "KL"),
        (figures(0.5, 1.0, 1.0), figures(0.001, 0.5, 1.9), "dequantized", "within"),
        (figures(float("nan"), 1.0, 1.0), figures(0.001, 0.5, 1.9), "dequantized", "within"),
    ],
)
def test_auto_takes_grounding_then_drift_then_kl_within_the_limit(
    original, dequantized, best, reason
):
    measured = {"original": original, "dequantized": dequantized}
    assert choose_strategy(measured, 0.1)[0] == best
    assert reason in choose_strategy(measured, 0.1)[1]
