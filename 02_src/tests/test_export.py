"""GGUF and Modelfile: read back, same order of heads, same tokens; others refused by name."""

import json
import shutil
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from config import Config
from errors import UserError
from export_model import export, split_kinds
from exporting.gguf_model import LlamaShape, find_rope_factors, interleave_halves
from exporting.gguf_tokenizer import LLAMA3_SPLIT, name_splitting
from exporting.ollama_template import derive_pieces
from prompt_contract import apply_contract, read_contract, render_ids, render_text

GOLDEN = Path(__file__).parent / "golden" / "ollama.json"


@pytest.fixture(scope="module")
def exported(tiny_merged, tmp_path_factory):
    return export(tiny_merged[1], tmp_path_factory.mktemp("export") / "tiny", ["q8_0"])


def test_gguf_read_back_is_the_merged_model(exported):
    """Scored by transformers' reader, which also had to render the canaries' token ids."""
    report = json.loads((exported / "export_report.json").read_text(encoding="utf-8"))
    found = report["files"]["tiny-q8_0.gguf"]
    assert found["mean_kl"] < 1e-3 and found["largest_logit_difference"] < 0.2
    assert found["tokens"] > 20 and report["sample"]["asked"] == 4
    assert "| tiny-q8_0.gguf |" in (exported / "export_report.md").read_text(encoding="utf-8")
    assert "gguf" in (exported / "README.md").read_text(encoding="utf-8").splitlines()[2]


def test_the_file_says_what_llama_cpp_needs(exported, tiny_merged):
    fields = gguf.GGUFReader(exported / "tiny-q8_0.gguf").fields
    value = {name: field.contents() for name, field in fields.items() if "tokens" not in name}
    contract = read_contract(tiny_merged[1])
    assert value["general.architecture"] == "llama" and value["tokenizer.ggml.pre"] == "gpt-2"
    assert value["tokenizer.chat_template"] == contract["chat_template"]
    assert value["tokenizer.ggml.eos_token_id"] == contract["eos_ids"][0]
    assert value["tokenizer.ggml.add_bos_token"] is False
    tokens = fields["tokenizer.ggml.tokens"].contents()
    assert len(tokens) == value["llama.vocab_size"] and tokens[1] == "<|im_start|>"
    assert value["tokenizer.ggml.token_type"][1] == gguf.TokenType.CONTROL


def test_modelfile_names_weights_template_and_stops(exported, tokenizer):
    text = (exported / "Modelfile").read_text(encoding="utf-8")
    assert "FROM ./tiny-q8_0.gguf" in text and 'PARAMETER stop "<|im_end|>"' in text
    apply_contract(tokenizer, Config())
    assert f'TEMPLATE """{derive_pieces(tokenizer).to_go()}"""' in text


@pytest.mark.parametrize("case", json.loads(GOLDEN.read_text(encoding="utf-8")))
def test_gos_rendering_of_the_template_gives_the_contracts_tokens(case, tokenizer):
    """The golden texts are Go's: python 03_scripts/write_ollama_golden.py"""
    from importlib.util import module_from_spec, spec_from_file_location

    script = Path(__file__).parents[2] / "03_scripts" / "write_ollama_golden.py"
    spec = spec_from_file_location("write_ollama_golden", script)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    tokenizer.chat_template = module.STYLES[case["style"]] or tokenizer.chat_template
    apply_contract(tokenizer, Config(system_prompt=case["system_prompt"]))
    assert derive_pieces(tokenizer).to_go() == case["go"]
    assert len(case["rendered"]) == len(case["messages"]) >= 6
    for messages, rendered in zip(case["messages"], case["rendered"], strict=True):
        assert rendered == render_text(tokenizer, messages)
        ids = tokenizer(rendered, add_special_tokens=False)["input_ids"]
        assert ids == render_ids(tokenizer, messages)


def test_a_template_go_cannot_follow_is_refused(tokenizer):
    tokenizer.chat_template = (
        "{%- for m in messages -%}[{{ loop.index }}|{{ m['role'] }}]{{ m['content'] }};"
        "{%- endfor -%}>"
    )
    with pytest.raises(UserError, match="no_modelfile"):
        derive_pieces(tokenizer)


def test_heads_are_reordered_into_neighbours():
    rows = np.arange(8)[:, None] * np.ones((1, 2))
    assert interleave_halves(rows, 2)[:, 0].tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def test_rope_factors_are_llama_3s_scaling():
    rope = {
        "rope_type": "llama3", "rope_theta": 500000.0, "factor": 32.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
    }  # fmt: skip
    config = LlamaConfig(
        hidden_size=128, num_attention_heads=2, head_dim=64, rope_parameters=rope,
        max_position_embeddings=131072,
    )  # fmt: skip
    scaled = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")[0]
    plain = 1.0 / 500000.0 ** (torch.arange(0, 64, 2) / 64)
    shape = LlamaShape(config.to_dict())
    factors = torch.from_numpy(find_rope_factors(shape))
    torch.testing.assert_close(plain / factors, scaled, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize(
    "rule, name",
    [
        ({"type": "ByteLevel", "use_regex": True}, "gpt-2"),
        (
            {"type": "Sequence", "pretokenizers": [
                {"type": "Digits", "individual_digits": True},
                {"type": "ByteLevel", "use_regex": True}]},
            "smollm",
        ),
        (
            {"type": "Sequence", "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": LLAMA3_SPLIT}},
                {"type": "ByteLevel", "use_regex": False}]},
            "llama-bpe",
        ),
    ],
)  # fmt: skip
def test_splitting_rules_have_llama_cpps_names(rule, name):
    assert name_splitting(rule, Path("folder")) == name


def test_what_gguf_cannot_hold_is_refused_by_name(tiny_merged, tmp_path):
    with pytest.raises(UserError, match="Metaspace"):
        name_splitting({"type": "Metaspace"}, Path("folder"))
    with pytest.raises(UserError, match="llama-quantize"):
        split_kinds("q4_k_m")
    with pytest.raises(UserError, match="merge_lora"):
        export(tiny_merged[0])
    folder = tmp_path / "qwen"
    shutil.copytree(tiny_merged[1], folder)
    settings = json.loads((folder / "config.json").read_text())
    changed = settings | {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]}
    (folder / "config.json").write_text(json.dumps(changed))
    with pytest.raises(UserError, match="Qwen3ForCausalLM"):
        export(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_untied_model_keeps_its_head_and_4_bit_its_ends(tiny_merged, tmp_path):
    folder = tmp_path / "untied"
    shutil.copytree(tiny_merged[1], folder)
    model = AutoModelForCausalLM.from_pretrained(folder, tie_word_embeddings=False)
    torch.nn.init.normal_(model.lm_head.weight)
    model.save_pretrained(folder)
    out = export(folder, tmp_path / "out", kinds=["q4_0"], score=False)
    found = {t.name: t for t in gguf.GGUFReader(out / "untied-q4_0.gguf").tensors}
    kinds = {name: found[name].tensor_type.name for name in found if "blk" not in name}
    expected = {"token_embd.weight": "Q8_0", "output.weight": "Q8_0", "output_norm.weight": "F32"}
    assert kinds == expected
    head = gguf.dequantize(found["output.weight"].data, found["output.weight"].tensor_type)
    assert np.abs(head - model.lm_head.weight.detach().float().numpy()).max() < 0.03
    query = found["blk.0.attn_q.weight"]
    assert query.tensor_type.name == "Q4_0"
    weight = model.model.layers[0].self_attn.q_proj.weight.detach().float().numpy()
    error = gguf.dequantize(query.data, query.tensor_type) - interleave_halves(weight, 4)
    assert np.linalg.norm(error) < 0.15 * np.linalg.norm(weight)
