"""Config files: every key's bounds, the error texts, overrides, the saved copy, the schema."""

import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

from config import (
    REPOSITORY,
    RUN_CONFIG,
    Config,
    list_notices,
    load_config,
    load_run_config,
    resolve_path,
    save_config,
)
from config_keys import LOSS_TYPES
from config_schema import build_schema, check_schema, config_table, list_groups, write_schema
from errors import UserError

SHIPPED = ("dpo.json", "quickstart.json")
# The values of the original project's dpo.json: such a file must load and train unchanged.
ORIGINAL = {
    "model_name": "meta-llama/Llama-3.2-1B-Instruct",
    "dataset_hf": "01_data/dpo/train.jsonl",
    "dataset_split": "train",
    "max_train_samples": None,
    "dataset_shuffle": True,
    "output_dir": "04_models/adapters/output_dpo",
    "max_seq_length": 512,
    "num_train_epochs": 3,
    "per_device_train_batch_size": 1,
    "gradient_accumulation_steps": 8,
    "learning_rate": 2e-05,
    "lr_scheduler_type": "cosine",
    "warmup_ratio": 0.02,
    "weight_decay": 0.01,
    "logging_steps": 5,
    "save_steps": 20,
    "save_total_limit": 2,
    "fp16": True,
    "bf16": False,
    "optim": "paged_adamw_8bit",
    "gradient_checkpointing": True,
    "lora_r": 8,
    "lora_alpha": 16,
    "lora_dropout": 0.05,
    "lora_target_modules": [
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    ],
    "load_in_4bit": True,
    "bnb_4bit_use_double_quant": True,
    "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_compute_dtype": "float16",
    "dpo_beta": 0.1,
    "seed": 42,
    "num_proc": None,
    "dataloader_num_workers": 2,
    "max_prompt_length": 256,
    "max_target_length": 256,
}

# key, values that are accepted (the edges), values that are refused (just past them)
BOUNDS = (
    ("gpu", [None, 0, 7], [-1]),
    ("memory_budget_gib", [None, 0.5, 80.0], [0, -1.0]),
    ("validation_fraction", [0, 0.99], [-0.1, 1]),
    ("max_train_samples", [None, 1], [0]),
    ("num_proc", [None, 1, 256], [0, 257]),
    ("dataloader_num_workers", [0, 64], [-1, 65]),
    ("max_seq_length", [16, 65536], [15, 131073]),
    ("max_prompt_length", [None, 1, 511], [0]),
    ("max_target_length", [None, 1], [0]),
    ("logging_steps", [1], [0]),
    ("eval_steps", [None, 1], [0]),
    ("validation_answers", [0, 4096], [-1, 4097]),
    ("early_stopping_patience", [None, 1], [0]),
    ("save_steps", [1], [0]),
    ("save_total_limit", [1], [0]),
    ("num_train_epochs", [0.1, 1000], [0, 1001]),
    ("max_steps", [None, 1], [0]),
    ("per_device_train_batch_size", [1, 1024], [0, 4097]),
    ("per_device_eval_batch_size", [None, 1], [0]),
    ("gradient_accumulation_steps", [1, 65536], [0, 65537]),
    ("learning_rate", [1e-9, 1], [0, -1, 1.1, float("nan")]),
    ("warmup_ratio", [0, 0.99], [-0.01, 1]),
    ("weight_decay", [0, 1], [-0.1, 1.1]),
    ("max_grad_norm", [0.01], [0, float("inf")]),
    ("seed", [0, 2**32 - 1], [-1, 2**32]),
    ("lora_r", [1, 1024], [0, 1025]),
    ("lora_alpha", [0.5], [0, float("inf")]),
    ("adapter_scale", [0.01, 1], [0, 1.1]),
    ("rehearsal_weight", [0.01, 1000], [0, 1001]),
    ("rehearsal_per_pair", [0.01, 16], [0, 17]),
    ("lora_dropout", [0, 0.9], [-0.1, 1]),
    ("dpo_beta", [0.001, 100], [0, 101]),
    ("loss_weights", [None, [1, 0.5]], [[float("nan"), 1], [-1, 1]]),
    ("ld_alpha", [None, 0, 1], [-0.1, 1.1]),
    ("label_smoothing", [0, 0.49], [-0.1, 0.5]),
    ("max_new_tokens", [1, 4096], [0, 4097]),
    ("eval_limit", [None, 1], [0]),
    ("generation_batch_size", [1, 4096], [0, 4097]),
    ("merge_max_kl", [0.001, 10.0], [0, float("inf")]),
    ("merge_samples", [1, 4096], [0, 4097]),
)
CHOICES = (
    ("device", ["auto", "cpu", "cuda", "mps"]),
    ("report_to", [None, "mlflow"]),
    ("attn_implementation", ["sdpa", "eager"]),
    ("lr_scheduler_type", ["linear", "cosine", "constant", "constant_with_warmup"]),
    ("optim", ["adamw_torch", "adamw_torch_fused", "paged_adamw_8bit", "sgd"]),
    ("bnb_4bit_quant_type", ["nf4", "fp4"]),
    ("merge_strategy", ["auto", "original", "dequantized"]),
    ("bnb_4bit_compute_dtype", ["auto", "float16", "bfloat16", "float32"]),
    ("loss_type", [name for name in LOSS_TYPES if name != "exo_pair"]),
)
FLAGS = (
    "trust_remote_code", "dataset_shuffle", "fp16", "bf16", "gradient_checkpointing",
    "load_in_4bit", "bnb_4bit_use_double_quant", "fast_forward", "cuda_graphs", "keep_best",
    "auto_fit",
)  # fmt: skip
TEXTS = ("model_name", "dataset_hf", "dataset_split", "template_date", "output_dir", "merged_dir")
OPTIONAL_TEXTS = (
    "model_revision",
    "validation_file",
    "system_prompt",
    "chat_template",
    "rehearsal_file",
)
OTHERS = {"test_files", "lora_target_modules", "logging_dir"}


@pytest.fixture
def write_config(tmp_path: Path):
    """write_config(values or text): a config file in a temporary folder."""

    def write(content: dict | str | bytes, name: str = "my.json") -> Path:
        file = tmp_path / name
        text = json.dumps(content) if isinstance(content, dict) else content
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        return file

    return write


def read_error(file: Path | str, overrides: list[str] | dict | None = None) -> str:
    """The text of the UserError that loading raises; it must be one line."""
    with pytest.raises(UserError) as caught:
        load_config(file, overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_tables_below_cover_every_key():
    covered = {name for name, *_ in (*BOUNDS, *CHOICES)} | {*FLAGS, *TEXTS, *OPTIONAL_TEXTS}
    assert covered | OTHERS == set(Config.model_fields)


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, good, _ in BOUNDS for value in good]
)
def test_value_at_the_edge_of_a_bound_is_accepted(name, value):
    config = load_config(REPOSITORY / "00_configs" / "dpo.json", {name: value, **fit(name)})
    assert getattr(config, name) == value


def fit(name: str) -> dict:
    """Other keys that must change for the edge value of `name` to make sense."""
    return {"per_device_train_batch_size": 1} if name == "max_seq_length" else {}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, _, bad in BOUNDS for value in bad]
)
def test_value_past_a_bound_is_refused_with_file_and_key(write_config, name, value):
    file = write_config({name: value})
    assert read_error(file).startswith(f"{file}: {name}: ")


@pytest.mark.parametrize(("name", "values"), CHOICES)
def test_choice_is_accepted_and_anything_else_refused(write_config, name, values):
    for value in values:
        assert getattr(load_config(write_config({name: value})), name) == value
    assert f"{name}: must be '" in read_error(write_config({name: "nonsense"}))


@pytest.mark.parametrize("name", FLAGS)
@pytest.mark.parametrize("value", ["maybe", "yes", 2, 1, None, []])
def test_flag_takes_only_true_and_false(write_config, name, value):
    assert f"{name}: must be" in read_error(write_config({name: value}))


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("value", ["", 3, None, ["a"]])
def test_text_key_refuses_what_is_not_text(write_config, name, value):
    assert f"{name}: " in read_error(write_config({name: value}))


@pytest.mark.parametrize("name", OPTIONAL_TEXTS)
def test_optional_text_key_takes_null_and_text_but_no_number(write_config, name):
    assert getattr(load_config(write_config({name: None})), name) is None
    assert getattr(load_config(write_config({name: "a text"})), name) == "a text"
    assert f"{name}: " in read_error(write_config({name: 3}))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("lora_r", True),
        ("learning_rate", True),
        ("seed", "42"),
        ("dpo_beta", "0.1"),
        ("lora_r", 8.5),
    ],
)
def test_number_key_refuses_what_is_no_such_number(write_config, name, value):
    assert f"{name}: must be" in read_error(write_config({name: value}))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("test_files", {"seen": 3}),
        ("test_files", ["a.jsonl"]),
        ("lora_target_modules", 3),
        ("lora_target_modules", [3]),
        ("lora_target_modules", ["q_proj", ""]),
        ("loss_weights", ["1"]),
        ("logging_dir", ""),
    ],
)
def test_list_and_table_keys_refuse_wrong_contents(write_config, name, value):
    assert f"{name}: " in read_error(write_config({name: value}))


def test_bound_error_says_what_must_hold_and_what_was_found(write_config):
    file = write_config({"learning_rate": -1})
    assert read_error(file) == f"{file}: learning_rate: must be > 0 (got -1)"


def test_file_inside_the_repository_is_shown_by_its_relative_path():
    text = read_error("00_configs/dpo.json", ["lora_r=0"])
    assert text == "00_configs/dpo.json: lora_r: must be > 0 (got 0)"


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("lerning_rate", "learning_rate"),
        ("learning-rate", "learning_rate"),
        ("beta", "dpo_beta"),
        ("lora_rank", "lora_r"),
        ("model", "model_name"),
        ("Seed", "seed"),
    ],
)
def test_unknown_key_is_refused_with_the_nearest_known_one(write_config, name, nearest):
    file = write_config({name: 1})
    assert read_error(file) == f"{file}: {name}: unknown key; did you mean {nearest}?"
    assert f"--set: {name}: unknown key; did you mean {nearest}?" in read_error(
        write_config({}), [f"{name}=1"]
    )


def test_unknown_key_like_no_other_points_at_the_table(write_config):
    assert "zzzzqqq: unknown key; see the table" in read_error(write_config({"zzzzqqq": 1}))


@pytest.mark.parametrize(
    ("item", "name", "value"),
    [
        ("learning_rate=1e-4", "learning_rate", 1e-4),
        (" lora_r =4", "lora_r", 4),
        ("bf16=false", "bf16", False),
        ("max_steps=null", "max_steps", None),
        ("output_dir=out/a=b", "output_dir", "out/a=b"),
        ('lora_target_modules=["q_proj"]', "lora_target_modules", ["q_proj"]),
        ('test_files={"seen": "x.jsonl"}', "test_files", {"seen": "x.jsonl"}),
        ("system_prompt=", "system_prompt", ""),
    ],
)
def test_set_replaces_a_value_of_the_file(write_config, item, name, value):
    file = write_config({"learning_rate": 0.5, "lora_r": 2, "bf16": True, "max_steps": 3})
    assert getattr(load_config(file, [item]), name) == value


def test_later_set_wins_over_an_earlier_one(write_config):
    assert load_config(write_config({}), ["lora_r=4", "lora_r=5"]).lora_r == 5


@pytest.mark.parametrize("item", ["learning_rate", "learning_rate 1e-4", "--resume"])
def test_set_without_an_equals_sign_says_how_to_write_it(write_config, item):
    assert "write it as key=value" in read_error(write_config({}), [item])


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"fp16": True, "bf16": True}, "fp16: cannot be true together with bf16"),
        ({"fp16": True}, "fp16: cannot be true together with bf16"),
        ({"loss_type": []}, "loss_type: needs at least one loss"),
        ({"loss_weights": [1, 1, 1]}, "loss_weights: has 3 values for 2 loss types"),
        (
            {"loss_type": "sigmoid", "loss_weights": [1, 1]},
            "loss_weights: has 2 values for 1 loss types",
        ),
        ({"max_prompt_length": 512}, "max_prompt_length: must be below max_seq_length (512)"),
        ({"loss_type": "exo_pair"}, "label_smoothing: exo_pair needs a value above 0"),
        ({"lora_target_modules": []}, "lora_target_modules: is empty"),
        ({"lora_target_modules": ""}, "lora_target_modules: is empty"),
        (
            {"per_device_train_batch_size": 4096, "max_seq_length": 4096},
            "per_device_train_batch_size: x max_seq_length x 2 is 33,554,432 tokens",
        ),
    ],
)
def test_keys_that_cannot_go_together_are_refused_by_name(write_config, values, text):
    file = write_config(values)
    assert read_error(file).startswith(f"{file}: {text}")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ('{\n  "seed": 1,\n  "lora_r" 4\n}', ":3: not valid JSON"),
        ("", ":1: not valid JSON"),
        ('{"seed": 1, "lora_r": 4, "seed": 2}', ": seed: given twice; keep one"),
        ("[1, 2]", ": must hold one JSON object"),
        ("null", ": must hold one JSON object"),
        (b'{"model_name": "caf\xe9"}', ": not UTF-8 text"),
        ('{"test_files": ' + "[" * 100_000, ": nested too deeply"),
        ('{"seed": ' + "1" * 5000 + "}", ": "),
    ],
)
def test_file_that_is_no_config_is_refused_with_its_name(write_config, content, text):
    file = write_config(content)
    assert f"{file}{text}" in read_error(file)


def test_missing_config_file_is_named():
    assert "nothing.json: no such config file" in read_error("00_configs/nothing.json")


def test_byte_order_mark_and_schema_key_are_fine(write_config):
    content = '\ufeff{"$schema": "dpo.schema.json", "lora_r": 3}'
    assert load_config(write_config(content)).lora_r == 3


def test_relative_config_is_found_from_any_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_config("00_configs/quickstart.json").model_name.startswith("embedded:")
    (tmp_path / "mine.json").write_text('{"lora_r": 7}', encoding="utf-8")
    assert load_config("mine.json").lora_r == 7


def test_relative_path_in_a_config_starts_at_the_repository(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert resolve_path("01_data/x.jsonl") == REPOSITORY / "01_data" / "x.jsonl"
    assert resolve_path(tmp_path) == tmp_path
    assert resolve_path("~/x") == Path.home() / "x"


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({}, "loss_type is not given: sigmoid + sft is used"),
        (
            {"load_in_4bit": False, "bnb_4bit_quant_type": "nf4"},
            "load_in_4bit is false: bnb_4bit_quant_type have no effect",
        ),
        (
            {"validation_file": "v.jsonl", "validation_fraction": 0.1},
            "validation_file is given: validation_fraction has no effect",
        ),
    ],
)
def test_key_without_effect_gets_a_notice(values, text):
    assert any(notice.startswith(text) for notice in list_notices(Config(**values)))


def test_config_that_means_what_it_says_gets_no_notice():
    assert list_notices(Config(loss_type="sigmoid", load_in_4bit=False)) == []


def test_config_is_frozen():
    with pytest.raises(ValueError, match="frozen"):
        Config().lora_r = 3


def test_saved_config_reads_back_as_the_same_run(tmp_path):
    config = load_config(
        "00_configs/dpo.json", ["lora_r=5", 'loss_type=["ipo"]', "loss_weights=null"]
    )
    file = save_config(config, tmp_path)
    assert file == tmp_path / RUN_CONFIG
    assert load_run_config(tmp_path) == config
    assert set(json.loads(file.read_text(encoding="utf-8"))) == set(Config.model_fields)
    assert list(tmp_path.iterdir()) == [file]  # no temporary file stays


def test_folder_without_a_run_names_the_command_that_makes_one(tmp_path):
    with pytest.raises(UserError, match=r"holds no run_config.json; .*train_dpo.py"):
        load_run_config(tmp_path)


def test_original_config_loads_unchanged(write_config):
    config = load_config(write_config(ORIGINAL))
    assert {name: getattr(config, name) for name in ORIGINAL} == ORIGINAL
    assert config.losses == ["sigmoid", "sft"]
    assert config.effective_batch == 8
    notices = list_notices(config)
    assert len(notices) == 1
    assert "loss_type" in notices[0]


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_config_is_valid_for_class_and_schema(name):
    file = REPOSITORY / "00_configs" / name
    values = json.loads(file.read_text(encoding="utf-8"))
    assert (file.parent / values["$schema"]).is_file()
    jsonschema.validate(values, build_schema())
    config = load_config(file)
    assert list_notices(config) == []
    given = {key: value for key, value in values.items() if key != "$schema"}
    assert {key: getattr(config, key) for key in given} == given


def test_user_config_lists_the_original_keys_first_and_in_order():
    values = json.loads((REPOSITORY / "00_configs" / "dpo.json").read_text(encoding="utf-8"))
    assert list(values)[: len(ORIGINAL) + 1] == ["$schema", *ORIGINAL]


def test_shipped_schema_is_the_one_the_class_gives():
    check_schema()


def is_json(value) -> bool:
    """Whether JSON can hold `value` (it has no NaN and no infinity)."""
    return not any(text in json.dumps(value) for text in ("NaN", "Infinity"))


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, _, bad in BOUNDS for value in bad if is_json(value)]
)
def test_schema_refuses_what_the_class_refuses(name, value):
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({name: value}, build_schema())


def test_schema_refuses_an_unknown_key():
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"lerning_rate": 1}, build_schema())


def test_stale_schema_file_names_the_command_that_renews_it(tmp_path):
    file = write_schema(tmp_path / "dpo.schema.json")
    check_schema(file)
    file.write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match=r"run: python 03_scripts/write_schema.py"):
        check_schema(file)


def test_table_has_one_row_per_key_in_the_order_of_the_class():
    table = config_table()
    rows = [line.split("`")[1] for line in table.splitlines() if line.startswith("| `")]
    assert rows == list(Config.model_fields)
    assert [name for names in list_groups().values() for name in names] == rows
    assert "| `lora_r` | integer > 0, <= 1024 | `16` | adapter rank |" in table
    assert all(line.count(" | ") == 3 for line in table.splitlines() if line.startswith("| `"))


def test_script_checks_and_prints(run_stage):
    assert run_stage("03_scripts/write_schema.py", "--check").rc == 0
    assert run_stage("03_scripts/write_schema.py", "--table").out == config_table()


@pytest.mark.parametrize("module", ["config", "utils.formatting", "preferences", "run_log"])
def test_module_imports_fast_and_without_torch(module):
    code = (
        "import sys, time; start = time.perf_counter()\n"
        f"import {module}\n"
        "assert 'torch' not in sys.modules and 'datasets' not in sys.modules\n"
        "print(time.perf_counter() - start)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY / "02_src", capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 2


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--config", "nothing.json"], "no such config file"),
        (["--set", "lora_r=0"], "lora_r: must be > 0 (got 0)"),
        (["--set", "lora_rank=8"], "did you mean lora_r?"),
        (["--set", "lora_r"], "write it as key=value"),
    ],
)
def test_stage_ends_with_one_line_and_code_2_on_a_bad_config(run_stage, arguments, text):
    done = run_stage("02_src/train_dpo.py", *arguments)
    assert (done.rc, done.out) == (2, "")
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
    assert text in done.err
