"""Put a trainer together: tokens, arguments, LoRA layers, reference log-probs, callbacks."""

import quick_bitsandbytes  # noqa: F401  # isort: skip  (before peft and trl)
from datasets import Dataset, disable_progress_bars
from trl import DPOConfig

from config import REPOSITORY, Config, log_folder, resolve_path, run_name
from errors import UserError
from experiment_tracker import choose_tracker
from fast.rehearsal import Rehearsal
from hardware import Device
from memory.guard import MemoryCallback
from memory.plan import Plan
from preferences import PreferenceData
from processes import shards_base
from qlora import build_lora_config, choose_precision
from rehearsal_texts import make_rehearsal
from run_log import RunLog
from safe_trainer import SafeTrainer
from tokenization import TokenizedPairs, require_rows, tokenize_pairs
from train_callbacks import (
    LogCallback,
    PatienceCallback,
    StopCallback,
    ValidationCallback,
    WatchCallback,
)
from trainable_weights import cast_adapter_to_fp32
from validation_sample import ValidationSample

REFERENCE_BATCH = 256  # pairs at most; the reference pass also limits tokens
SHARDED = (
    "the base is sharded (FSDP): TRL's own forward is used, since the fast forward's CUDA graphs "
    "cannot hold the exchange of weights; the reference is computed at each step, nothing is "
    "rehearsed, and validation questions are not asked"
)
UNASKED = (
    "no validation row lists accepted expansions, so no question is asked while training; add "
    'them, as in "accepted": ["Dynamic Positioning"]'
)
REFERENCE_CACHE = REPOSITORY / "04_models" / "cache" / "reference"


def build_trainer(
    config: Config,
    device: Device,
    model,
    tokenizer,
    data: PreferenceData,
    plan: Plan | None = None,
):
    """TRL's DPOTrainer over the config's pairs, with reference log-probs computed or cached.

    The memory plan, where there is one, is compared with what training really takes.

    Raises:
        UserError: no pair fits max_seq_length, or a LoRA target does not exist.
    """
    disable_progress_bars()
    train, validation = tokenize_data(config, tokenizer, data)
    sample = choose_sample(config, validation, tokenizer)
    best = choose_best_metric(config, bool(validation.rows), bool(sample))
    memory = MemoryCallback(device.kind, plan, RunLog(log_folder(config)))
    callbacks = [memory, *build_callbacks(config, sample, best)]
    trainer = SafeTrainer(
        sources=[pair.source for pair in train.pairs],
        fast_forward=config.fast_forward and not shards_base(),
        cuda_graphs=config.cuda_graphs,
        rehearsal=choose_rehearsal(config, device, data, len(train.rows), tokenizer, model),
        reference_cache=REFERENCE_CACHE,
        model=model,
        args=build_arguments(config, device, bool(validation.rows), best),
        train_dataset=Dataset.from_list(train.rows),
        eval_dataset=Dataset.from_list(validation.rows) if validation.rows else None,
        processing_class=tokenizer,
        peft_config=build_lora_config(config, model),
        callbacks=callbacks,
    )
    for callback in (c for c in callbacks if isinstance(c, ValidationCallback)):
        callback.trainer = trainer
    cast_adapter_to_fp32(trainer.model)
    return trainer


def choose_rehearsal(
    config: Config, device: Device, data: PreferenceData, pairs: int, tokenizer, model
) -> Rehearsal | None:
    """What is rehearsed beside the pairs; nothing with a sharded base."""
    texts = [] if shards_base() else data.general
    hidden = model.config.get_text_config().hidden_size
    state_bytes = hidden * choose_precision(config, device).base.itemsize
    return make_rehearsal(config, texts, pairs, tokenizer, state_bytes)


def choose_sample(config: Config, validation: TokenizedPairs, tokenizer) -> ValidationSample:
    """The questions asked at each validation; none with a sharded base, which is said."""
    if shards_base():
        print(f"note: {SHARDED}")
    asked = 0 if shards_base() else config.validation_answers
    sample = ValidationSample(validation.pairs, validation.rows, tokenizer, asked)
    if asked and validation.rows and not len(sample):
        print(f"note: {UNASKED}")
    return sample


def tokenize_data(
    config: Config, tokenizer, data: PreferenceData
) -> tuple[TokenizedPairs, TokenizedPairs]:
    """(train, validation) as token ids; what was cut is said."""
    train, validation = (
        tokenize_pairs(part, tokenizer, config) for part in (data.train, data.validation)
    )
    for notice in train.notices + validation.notices:
        print(f"note: {notice}")
    require_rows(train, config)
    return train, validation


def choose_best_metric(config: Config, validates: bool, asks: bool) -> str | None:
    """What the best checkpoint is chosen by; None where the last one is kept.

    Raises:
        UserError: the config wants the best checkpoint and there is nothing to validate on.
    """
    if not config.keep_best and config.early_stopping_patience is None:
        return None
    if not validates:
        name = "keep_best" if config.keep_best else "early_stopping_patience"
        raise UserError(f"{name}: needs validation pairs; set validation_file")
    return "eval_grounding" if asks else "eval_loss"


def build_callbacks(config: Config, sample: ValidationSample, best: str | None) -> list:
    """Everything that listens to the training; the sample before what stops by its figures."""
    log = RunLog(log_folder(config))
    callbacks = [LogCallback(log), StopCallback(), WatchCallback(config, log)]
    if sample:
        callbacks.append(ValidationCallback(sample, log))
    if best and config.early_stopping_patience is not None:
        callbacks.append(PatienceCallback(config.early_stopping_patience, log))
    return callbacks


def build_arguments(config: Config, device: Device, validates: bool, best: str | None = None):
    """TRL's DPOConfig for this run; what the device cannot do is replaced.

    `best` names the metric of the checkpoint to end with: then each validation writes one.
    """
    precision = choose_precision(config, device)
    return DPOConfig(
        output_dir=str(resolve_path(config.output_dir)),
        max_length=config.max_seq_length,
        num_train_epochs=config.num_train_epochs,
        max_steps=config.max_steps or -1,
        per_device_train_batch_size=config.per_device_train_batch_size,
        per_device_eval_batch_size=config.eval_batch,
        precompute_ref_batch_size=REFERENCE_BATCH,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        learning_rate=config.learning_rate,
        lr_scheduler_type=config.lr_scheduler_type,
        warmup_steps=config.warmup_ratio,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        optim=precision.optim,
        fp16=precision.fp16,
        bf16=precision.bf16,
        use_cpu=device.kind == "cpu",
        gradient_checkpointing=config.gradient_checkpointing,
        gradient_checkpointing_kwargs=select_checkpointing(config),
        **plan_checkpoints(config, validates, best),
        dataloader_num_workers=config.dataloader_num_workers,
        dataloader_persistent_workers=config.dataloader_num_workers > 0,  # not anew each epoch
        dataloader_pin_memory=device.kind == "cuda" and not config.fast_forward,  # stays there
        seed=config.seed,
        disable_tqdm=True,
        report_to=choose_tracker(config),
        run_name=run_name(config),
        **select_loss(config),
    )


def plan_checkpoints(config: Config, validates: bool, best: str | None) -> dict:
    """When to log, validate and save: DPOConfig's arguments."""
    strategy = "steps" if config.eval_steps is not None else "epoch"
    return {
        "logging_steps": config.logging_steps,
        "logging_first_step": True,
        # The filter would hide a loss that is not a number, and wait for the device each step.
        "logging_nan_inf_filter": False,
        "eval_strategy": strategy if validates else "no",
        "eval_steps": config.eval_steps,
        "save_strategy": strategy if best else "steps",
        "save_steps": (config.eval_steps if best else None) or config.save_steps,
        "save_total_limit": config.save_total_limit,
        "load_best_model_at_end": best is not None,
        "metric_for_best_model": best,
        "greater_is_better": best == "eval_grounding" if best else None,
    }


def select_checkpointing(config: Config) -> dict:
    """Options of activation checkpointing: random state is kept only where dropout needs it."""
    return {"use_reentrant": False, "preserve_rng_state": config.lora_dropout > 0}


def select_loss(config: Config) -> dict:
    """The preference loss of the config, in DPOConfig's words.

    TRL zeroes every dropout unless told otherwise, the adapter's too.
    """
    return {
        "beta": config.dpo_beta,
        "loss_type": config.losses,
        "loss_weights": config.loss_weights,
        "ld_alpha": config.ld_alpha,
        "label_smoothing": config.label_smoothing,
        "disable_dropout": config.lora_dropout == 0,
        "precompute_ref_log_probs": not shards_base(),  # nothing is sharded yet then
    }
