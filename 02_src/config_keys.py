"""Every key of a config file: its type, bounds, default and meaning.

The README's table, 00_configs/dpo.schema.json and the error texts are made from this class.
"""

from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

LossType = Literal[
    "sigmoid", "sft", "sigmoid_norm", "ipo", "hinge", "robust", "exo_pair", "nca_pair", "bco_pair",
    "sppo_hard", "aot", "aot_unpaired", "apo_zero", "apo_down", "discopop",
]  # fmt: skip
Scheduler = Literal[
    "linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup"
]
Optimizer = Literal[
    "adamw_torch", "adamw_torch_fused", "adamw_8bit", "paged_adamw_8bit", "paged_adamw_32bit",
    "adamw_bnb_8bit", "paged_adamw", "sgd",
]  # fmt: skip
MergeStrategy = Literal["auto", "original", "dequantized"]
Weight = Annotated[float, Field(ge=0)]
ModuleName = Annotated[str, Field(min_length=1)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
ATTENTION_LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj"]
LORA_TARGETS = [*ATTENTION_LINEARS, "gate_proj", "up_proj", "down_proj"]
# One micro-step above this many tokens is a typing error, not a laptop run.
MAX_TOKENS_PER_MICRO_STEP = 1_048_576


def key(default, text, **bounds):
    """A config key with its default, its one-line meaning and its bounds."""
    return Field(default=default, description=text, **bounds)


class Config(BaseModel):
    """One run, fully described. Frozen; unknown keys are errors; paths are repository-relative."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, protected_namespaces=()
    )

    # Base model
    model_name: str = key(
        "meta-llama/Llama-3.2-1B-Instruct",
        "hub id, local folder, .gguf file, or embedded:smollm2-135m-instruct",
        min_length=1,
    )
    model_revision: str | None = key(None, "hub commit or tag of model_name; null is the newest")
    trust_remote_code: bool = key(False, "run Python code shipped with the model; off is safe")
    gpu: int | None = key(None, "CUDA device index; null takes the one with most free memory", ge=0)
    device: Literal["auto", "cpu", "cuda", "mps"] = key("auto", "where to run; auto prefers a GPU")
    attn_implementation: Literal["sdpa", "eager"] = key("sdpa", "attention kernel")

    # Data
    dataset_hf: str = key(
        "01_data/dpo/train.jsonl",
        "pairs: .jsonl .json .csv .parquet, or a hub dataset id",
        min_length=1,
    )
    dataset_split: str = key("train", "split of a hub dataset", min_length=1)
    validation_file: str | None = key(None, "pairs to validate on; null splits the training file")
    validation_fraction: Fraction = key(0.05, "share of prompts held out when validation_file=null")
    test_files: dict[str, str] = key(
        {"seen": "01_data/dpo/test_seen.jsonl"}, "split name -> file, for evaluate_dpo.py"
    )
    max_train_samples: int | None = key(None, "use only the first N pairs; null is all", gt=0)
    dataset_shuffle: bool = key(True, "shuffle pairs (by seed) before max_train_samples")
    num_proc: int | None = key(None, "threads for tokenising; null: all cores", gt=0, le=256)
    dataloader_num_workers: int = key(0, "processes that collate batches", ge=0, le=64)

    # Lengths, in tokens
    max_seq_length: int = key(512, "longest prompt + completion", ge=16, le=131072)
    max_prompt_length: int | None = key(None, "user text is cut beyond this; null: off", gt=0)
    max_target_length: int | None = key(None, "cut completions beyond this; null: off", gt=0)

    # Prompt contract
    system_prompt: str | None = key(None, "system prompt baked into the chat template; null: none")
    template_date: str = key("26 Jul 2024", "date for templates that print today's", min_length=1)
    chat_template: str | None = key(None, "Jinja file that replaces the model's chat template")

    # Output
    output_dir: str = key("04_models/adapters/output_dpo", "adapter and checkpoints", min_length=1)
    merged_dir: str = key("04_models/merged", "merged models, one folder a run", min_length=1)
    logging_dir: str = key(
        "05_logs", "metrics, TensorBoard and plots, one folder a run", min_length=1
    )
    report_to: Literal["mlflow"] | None = key(
        None, "log to 05_logs/mlflow.db too: no account, no server; needs pip install mlflow"
    )
    logging_steps: int = key(5, "optimizer steps between two log lines", gt=0)
    eval_steps: int | None = key(None, "steps between validations; null: at each epoch's end", gt=0)
    validation_answers: int = key(
        16, "questions answered at each validation; 0: none", ge=0, le=4096
    )
    keep_best: bool = key(False, "end with the best validation's adapter, not the last step's")
    early_stopping_patience: int | None = key(
        None, "stop after this many validations without a better one; null: off", gt=0
    )
    save_steps: int = key(20, "optimizer steps between two checkpoints", gt=0)
    save_total_limit: int = key(2, "checkpoints kept", gt=0)

    # Memory
    memory_budget_gib: float | None = key(
        None, "most the run may take on its device; null: what is free when it starts", gt=0
    )
    auto_fit: bool = key(
        False, "split the batch and recompute activations as the budget needs; false: only say so"
    )

    # Optimisation
    num_train_epochs: float = key(3, "passes over the data", gt=0, le=1000)
    max_steps: int | None = key(None, "stop after this many optimizer steps; null: off", gt=0)
    per_device_train_batch_size: int = key(8, "pairs per micro-step", gt=0, le=4096)
    per_device_eval_batch_size: int | None = key(None, "pairs per eval step; null: same", gt=0)
    gradient_accumulation_steps: int = key(1, "micro-steps per optimizer step", gt=0, le=65536)
    learning_rate: float = key(1e-3, "peak learning rate of the adapter", gt=0, le=1)
    lr_scheduler_type: Scheduler = key("cosine", "learning-rate schedule")
    warmup_ratio: Fraction = key(0.05, "share of steps that warm up")
    weight_decay: float = key(0.0, "AdamW weight decay", ge=0, le=1)
    max_grad_norm: float = key(1.0, "gradient clipping", gt=0)
    optim: Optimizer = key("adamw_torch_fused", "optimizer")
    fp16: bool = key(False, "float16 autocast (GPUs without bf16)")
    bf16: bool = key(True, "bfloat16 autocast")
    gradient_checkpointing: bool = key(False, "recompute activations: less memory, slower")
    seed: int = key(42, "seed of everything random", ge=0, le=2**32 - 1)

    # LoRA
    lora_r: int = key(16, "adapter rank", gt=0, le=1024)
    lora_alpha: float = key(32, "adapter scale; the update is alpha / r times BA", gt=0)
    lora_dropout: Fraction = key(0.0, "dropout in front of the adapter; one mask per pair")
    lora_target_modules: str | list[ModuleName] = key("all-linear", "all-linear, or module names")
    adapter_scale: float = key(
        1.0, "the finished update is multiplied by this; under 1 forgets less", gt=0, le=1
    )

    # Quantisation of the frozen base
    load_in_4bit: bool = key(True, "keep the frozen base in 4 bit (QLoRA)")
    bnb_4bit_use_double_quant: bool = key(True, "quantise the quantisation constants too")
    bnb_4bit_quant_type: Literal["nf4", "fp4"] = key("nf4", "4-bit data type")
    bnb_4bit_compute_dtype: Literal["auto", "float16", "bfloat16", "float32"] = key(
        "auto", "dtype of matmuls with the 4-bit base"
    )

    # Preference loss
    dpo_beta: float = key(0.1, "DPO beta: higher stays closer to the reference", gt=0, le=100)
    loss_type: LossType | list[LossType] = key(["sigmoid", "sft"], "TRL loss types, summed")
    loss_weights: list[Weight] | None = key(None, "one weight per loss type; null: all 1")
    ld_alpha: float | None = key(None, "LD-DPO weight past the shared length", ge=0, le=1)
    label_smoothing: float = key(0.0, "for robust and exo_pair", ge=0, lt=0.5)
    rehearsal_file: str | None = key(
        None, "general texts on which the policy keeps the base's predictions; null: off"
    )
    rehearsal_weight: float = key(
        1.0, "weight in the loss of the mean KL(base || policy) per token of them", gt=0, le=1000
    )
    rehearsal_per_pair: float = key(
        0.125, "blocks of 64 tokens of them for each pair, at least one a micro-step", gt=0, le=16
    )
    fast_forward: bool = key(True, "compute each prompt once per pair; false is stock TRL")
    cuda_graphs: bool = key(True, "replay training steps as CUDA graphs; needs an NVIDIA GPU")

    # Evaluation
    max_new_tokens: int = key(48, "longest generated answer", gt=0, le=4096)
    eval_limit: int | None = key(None, "items per test split; null is all", gt=0)
    generation_batch_size: int = key(32, "answers generated together", gt=0, le=4096)

    # Merging
    merge_strategy: MergeStrategy = key(
        "auto", "original: 16-bit base; dequantized: the 4-bit base; auto: the better one, measured"
    )
    merge_max_kl: float = key(
        0.1, "refuse a merge whose mean KL per token from the trained model is higher", gt=0
    )
    merge_samples: int = key(48, "test items a merge or an export is measured on", gt=0, le=4096)

    @property
    def losses(self) -> list[str]:
        """loss_type as a list."""
        return [self.loss_type] if isinstance(self.loss_type, str) else list(self.loss_type)

    @property
    def effective_batch(self) -> int:
        """Pairs per optimizer step on one device."""
        return self.per_device_train_batch_size * self.gradient_accumulation_steps

    @property
    def rehearsal_blocks(self) -> int:
        """Blocks of general text in each micro-step."""
        share = self.rehearsal_per_pair * self.per_device_train_batch_size
        return max(1, int(share + 0.5)) if self.rehearsal_file else 0

    @property
    def eval_batch(self) -> int:
        """Pairs per validation step."""
        return self.per_device_eval_batch_size or self.per_device_train_batch_size

    @model_validator(mode="after")
    def check_together(self) -> "Config":
        """Refuse combinations that no machine can run; raises ValueError with the keys' names."""
        tokens = self.per_device_train_batch_size * self.max_seq_length * 2
        for broken, text in (
            (self.fp16 and self.bf16, "fp16: cannot be true together with bf16; set one to false"),
            (not self.losses, "loss_type: needs at least one loss, such as sigmoid"),
            (
                self.loss_weights is not None and len(self.loss_weights) != len(self.losses),
                f"loss_weights: has {len(self.loss_weights or [])} values for "
                f"{len(self.losses)} loss types; give one each",
            ),
            (
                (self.max_prompt_length or 0) >= self.max_seq_length,
                f"max_prompt_length: must be below max_seq_length ({self.max_seq_length}), "
                "or no completion fits",
            ),
            (
                "exo_pair" in self.losses and self.label_smoothing == 0,
                "label_smoothing: exo_pair needs a value above 0, such as 0.001",
            ),
            (
                not self.lora_target_modules,
                'lora_target_modules: is empty; use "all-linear" or module names',
            ),
            (
                tokens > MAX_TOKENS_PER_MICRO_STEP,
                f"per_device_train_batch_size: x max_seq_length x 2 is {tokens:,} tokens in one "
                f"micro-step (limit {MAX_TOKENS_PER_MICRO_STEP:,}); lower it and raise "
                "gradient_accumulation_steps",
            ),
        ):
            if broken:
                raise ValueError(text)
        return self


LOSS_TYPES = get_args(LossType)
