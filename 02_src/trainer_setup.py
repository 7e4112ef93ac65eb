"""Put a trainer together: tokens, arguments, LoRA layers, reference log-probs, callbacks."""

from datasets import Dataset, disable_progress_bars
from trl import DPOConfig

from config import REPOSITORY, Config, log_folder, resolve_path
from errors import UserError
from fast.trainer import PreferenceTrainer
from hardware import Device
from preferences import PreferenceData
from qlora import build_lora_config, cast_adapter_to_fp32, choose_precision
from run_log import RunLog
from tokenization import tokenize_pairs
from train_callbacks import LogCallback, StopCallback

REFERENCE_BATCH = 64  # pairs at most; the reference pass also limits tokens
REFERENCE_CACHE = REPOSITORY / "04_models" / "cache" / "reference"


def build_trainer(config: Config, device: Device, model, tokenizer, data: PreferenceData):
    """TRL's DPOTrainer over the config's pairs, with reference log-probs computed or cached.

    Raises:
        UserError: no pair fits max_seq_length, or a LoRA target does not exist.
    """
    disable_progress_bars()
    train, validation = (
        tokenize_pairs(part, tokenizer, config) for part in (data.train, data.validation)
    )
    for notice in train.notices + validation.notices:
        print(f"note: {notice}")
    if not train.rows:
        raise UserError(
            f"max_seq_length: {config.max_seq_length} leaves no pair to train on; raise it"
        )
    trainer = PreferenceTrainer(
        fast_forward=config.fast_forward,
        cuda_graphs=config.cuda_graphs,
        reference_cache=REFERENCE_CACHE,
        model=model,
        args=build_arguments(config, device, bool(validation.rows)),
        train_dataset=Dataset.from_list(train.rows),
        eval_dataset=Dataset.from_list(validation.rows) if validation.rows else None,
        processing_class=tokenizer,
        peft_config=build_lora_config(config, model),
        callbacks=[LogCallback(RunLog(log_folder(config))), StopCallback()],
    )
    cast_adapter_to_fp32(trainer.model)
    return trainer


def build_arguments(config: Config, device: Device, validates: bool):
    """TRL's DPOConfig for this run; what the device cannot do is replaced."""
    precision = choose_precision(config, device)
    evaluates = "steps" if config.eval_steps else "epoch"
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
        logging_steps=config.logging_steps,
        logging_first_step=True,
        logging_nan_inf_filter=False,  # it waits for the device each step, to hide a bad loss
        eval_strategy=evaluates if validates else "no",
        eval_steps=config.eval_steps,
        save_steps=config.save_steps,
        save_total_limit=config.save_total_limit,
        dataloader_num_workers=config.dataloader_num_workers,
        dataloader_pin_memory=device.kind == "cuda",
        seed=config.seed,
        disable_tqdm=True,
        report_to="none",
        **select_loss(config),
    )


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
        "precompute_ref_log_probs": True,
    }
