"""Train a DPO + QLoRA adapter.

    python 02_src/train_dpo.py --config 00_configs/dpo.json
    python 02_src/train_dpo.py --config 00_configs/dpo.json --set learning_rate=1e-4 --dry_run
    python 02_src/train_dpo.py --config 00_configs/dpo.json --resume
    accelerate launch --config_file 00_configs/accelerate/ddp.yaml 02_src/train_dpo.py --config ...
    torchrun --nproc_per_node 2 02_src/train_dpo.py --config 00_configs/dpo.json

DPO: Rafailov et al. 2023 (arXiv 2305.18290).
"""

import argparse
import gc
import math
import shlex
import sys
import tempfile
from pathlib import Path

import errors  # first: from here on Ctrl-C is one line
import processes
from batch_split import describe_split, join_batch, split_batch
from checkpoints import Run, check_output, clear_output, find_start, read_step
from config import (
    DEFAULT_CONFIG,
    Config,
    list_notices,
    load_config,
    log_folder,
    resolve_path,
    save_config,
    show_path,
)
from errors import UserError
from experiment_tracker import choose_tracker
from hardware import find_device
from preferences import load_preferences
from run_lock import hold_run
from run_log import plot_curves
from startup_profile import format_profile, mark

INITIAL_LOSS_TOLERANCE = 0.05


def train(trainer, config: Config, resume: bool = False) -> Run:
    """Train, save the adapter with all that belongs to it, draw the curves.

    Ctrl-C saves a checkpoint and returns an unfinished Run.

    Raises:
        UserError: the first loss is not ln 2.
    """
    from transformers.integrations import TensorBoardCallback
    from transformers.trainer_callback import PrinterCallback

    from finished_run import save_run
    from memory_plan import saved_when_out_of_memory
    from train_callbacks import was_interrupted
    from trainable_weights import scale_adapter

    folder, logs = resolve_path(config.output_dir), log_folder(config)
    config = join_batch(config, processes.count())
    checkpoint = find_start(config) if resume else None
    if checkpoint is None:
        check_initial_loss(trainer)
    trainer.remove_callback(PrinterCallback)
    processes.wait()
    if processes.is_main():
        trainer.add_callback(TensorBoardCallback(open_tensorboard(logs)))
        save_config(config, folder)
    mark("before the first step")
    with saved_when_out_of_memory(trainer):
        result = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    steps, wanted = trainer.state.global_step, trainer.state.max_steps
    seconds = result.metrics.get("train_runtime", 0.0)
    if steps < wanted and was_interrupted(trainer):
        print(f"stopped at step {steps} of {wanted}; go on with --resume")
        return Run(folder, logs, False, steps, seconds)
    run = Run(folder, logs, True, steps, seconds, result.training_loss, read_step(checkpoint))
    scale_adapter(trainer.model, config.adapter_scale)
    if processes.is_main():
        save_run(trainer, config, run)
        plot_curves(logs)
    return run


def open_tensorboard(folder: Path):
    """A TensorBoard writer for the run's log folder."""
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(log_dir=str(folder))


def check_initial_loss(trainer) -> float:
    """DPO loss before the first step: ln 2, or the policy is not the reference (UserError)."""
    if processes.shards_base():  # in one piece it may not fit; adapter on and off is checked by TRL
        return math.log(2)
    loss = trainer.measure_initial_loss()
    if not abs(loss - math.log(2)) < INITIAL_LOSS_TOLERANCE:
        raise UserError(
            f"the DPO loss before training is {loss:.4f}, not ln 2 = 0.6931: policy and reference "
            "disagree; delete 04_models/cache/reference and try again, or set fast_forward=false"
        )
    print(f"check: DPO loss before training {loss:.4f} (ln 2 = 0.6931)")
    return loss


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Train a DPO + QLoRA adapter.")
    parser.add_argument("--config", default=str(DEFAULT_CONFIG), help="config file")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint")
    parser.add_argument("--overwrite", action="store_true", help="delete the run and start again")
    parser.add_argument("--dry_run", action="store_true", help="do all up to the first step")
    parser.add_argument(
        "--profile-startup", action="store_true", help="say where the time to step 1 went"
    )
    return parser.parse_args()


def try_first_step(config: Config, device, model, tokenizer, data) -> None:
    """Build the trainer and check the first loss; TRL's output folder is a temporary one."""
    from dataset_lint import lint_file, summarize
    from trainer_setup import build_trainer

    if resolve_path(config.dataset_hf).is_file():
        tests = [file for file in config.test_files.values() if resolve_path(file).is_file()]
        report = lint_file(config.dataset_hf, config, tests, tokenizer)
        print(errors.escape_controls("\n".join(summarize(report))))
    with tempfile.TemporaryDirectory() as scratch:
        trial = config.model_copy(update={"output_dir": scratch})
        check_initial_loss(build_trainer(trial, device, model, tokenizer, data))
    print("dry run: everything up to the first step works")


def plan_run(config: Config, device, data):
    """The memory plan of the config over its real lengths, and the tokenizer that gave them."""
    from memory_plan import measure_lengths, prepare_plan
    from qlora import load_contract_tokenizer
    from tokenization import require_rows, tokenize_pairs

    with processes.main_first():  # which fetches what is missing
        tokenizer = load_contract_tokenizer(config)
        mark("tokenizer")
        rows = require_rows(tokenize_pairs(data.train, tokenizer, config), config)
    mark("tokens")
    planned = processes.take_from_main(prepare_plan(config, device, measure_lengths(rows)))
    mark("memory plan")
    return planned, tokenizer


def run_planned(arguments: argparse.Namespace, device, data, planned, tokenizer) -> Run:
    """Load, build, verify, train; again with a smaller plan when memory runs out."""
    from memory_plan import train_within, verify_plan
    from qlora import load_policy
    from trainer_setup import build_trainer

    replaces = arguments.overwrite and not arguments.resume and processes.is_main()
    old_runs = [planned.config] if replaces else []

    def attempt(planned, resume: bool) -> Run:
        with processes.main_first():
            model, _ = load_policy(planned.config, device, tokenizer)
        mark("base model")
        trainer = build_trainer(planned.config, device, model, tokenizer, data, planned.plan)
        mark("trainer, reference")
        if old_runs:  # all else has worked; a second attempt goes on from the first
            clear_output(old_runs.pop())
        verify_plan(trainer, planned.plan)
        return train(trainer, planned.config, resume)

    return train_within(planned, attempt, arguments.resume)


def main() -> int:
    """The story: config, device, data, plan, policy, trainer, run."""
    arguments = parse_arguments()
    processes.silence_others()
    config = load_config(arguments.config, arguments.set)
    if not (arguments.overwrite or arguments.dry_run):
        check_output(config, arguments.resume)
    mark("python, config")
    data = load_preferences(config)
    mark("data")
    if arguments.dry_run or not processes.is_main():
        return prepare_and_train(arguments, config, data)
    with hold_run(resolve_path(config.output_dir)):
        if not arguments.overwrite:
            check_output(config, arguments.resume)  # another run may have ended just now
        return prepare_and_train(arguments, config, data)


def prepare_and_train(arguments: argparse.Namespace, config: Config, data) -> int:
    """Device, plan, policy, trainer, run; the exit code."""
    choose_tracker(config)  # a missing package is said before anything is loaded
    device = find_device(config)
    config = split_batch(config, processes.count())
    processes.join(device.kind)
    from qlora import choose_precision, load_policy

    gc.freeze()  # what the libraries made stays, and need not be looked at again
    mark("imports")
    for notice in (*list_notices(config), *data.notices, *choose_precision(config, device).notices):
        print(f"note: {notice}")
    print(f"device: {device.describe()}")
    if processes.count() > 1:
        print(describe_split(config, processes.count()))
    print(f"data: {len(data.train)} pairs to train on, {len(data.validation)} to validate")
    planned, tokenizer = plan_run(config, device, data)
    if arguments.dry_run:
        model, tokenizer = load_policy(planned.config, device, tokenizer)
        try_first_step(planned.config, device, model, tokenizer, data)
        processes.leave()
        return 0
    run = run_planned(arguments, device, data, planned, tokenizer)
    processes.leave()
    return report(run, arguments)


def report(run: Run, arguments: argparse.Namespace) -> int:
    """Say how the run ended; the exit code."""
    if arguments.profile_startup:
        print(format_profile())
    if not run.finished:
        changed = "".join(f" --set {shlex.quote(text)}" for text in arguments.set)
        python = shlex.quote(show_path(sys.executable))
        print(f"  {python} 02_src/train_dpo.py --config {arguments.config}{changed} --resume")
        return 130
    since = f", the last {run.steps - run.resumed_at} of them" if run.resumed_at else ""
    print(f"trained {run.steps} steps{since} in {run.seconds:.0f} s: {show_path(run.folder)}")
    return 0


if __name__ == "__main__":
    errors.run_main(main)
