"""What happens at each step besides training: the log, the progress bar, a clean Ctrl-C, a few
validation questions, warnings of known failures, and early stopping."""

import os
import signal
import threading
import time

from tqdm.auto import tqdm
from transformers import EarlyStoppingCallback, TrainerCallback

import processes
from config import Config
from failure_watch import MOVED_BY_STEP, History, find_failures
from run_log import RunLog, describe_step
from validation_sample import ValidationSample

SMALLEST_MOVE = 1e-6  # of the largest weight; less than that is no training


def say(log: RunLog, line: str) -> None:
    """A line for the console and training.log."""
    log.write_line(line)
    tqdm.write(line)


class LogCallback(TrainerCallback):
    """Writes every record to metrics.jsonl and training.log and moves the progress bar."""

    def __init__(self, log: RunLog) -> None:
        self.log = log
        self.bar: tqdm | None = None
        self.started = time.monotonic()
        self.quiet = False  # no bar and no step lines on the console: something else shows them

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        """Open the bar; a resumed run starts where it stopped."""
        self.log.drop_after(state.global_step)
        if state.global_step:
            self.log.write_line(f"goes on at step {state.global_step} of {state.max_steps}")
        self.started = time.monotonic()
        self.bar = tqdm(
            total=state.max_steps, initial=state.global_step, desc="training", unit="step",
            disable=self.quiet,
        )  # fmt: skip

    def on_step_end(self, args, state, control, **kwargs) -> None:
        """One optimizer step is done."""
        self.bar.update(1)

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        """Record the trainer's metrics of this step."""
        record = {"step": state.global_step, "epoch": state.epoch, **(logs or {})}
        record["seconds"] = round(time.monotonic() - self.started, 3)
        record["max_steps"] = state.max_steps
        self.log.write_metrics(record)
        if "loss" in record or "eval_loss" in record:
            self.log.write_line(describe_step(record))
            if not self.quiet:
                tqdm.write(describe_step(record))

    def on_train_end(self, args, state, control, **kwargs) -> None:
        """Close the bar."""
        if state.global_step < state.max_steps:
            self.log.write_line(f"stopped at step {state.global_step} of {state.max_steps}")
        if self.bar is not None:
            self.bar.close()


class StopCallback(TrainerCallback):
    """Ctrl-C ends the current step, saves a checkpoint and stops; a second one stops at once."""

    def __init__(self) -> None:
        self.asked = False
        self.previous = None
        self.owner = 0  # process that trains; the loading processes it starts inherit the handler

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        """Take over SIGINT while training (only the main thread may)."""
        self.asked = False  # a notebook goes on with the same trainer
        self.owner = os.getpid()
        if threading.current_thread() is threading.main_thread():
            self.previous = signal.signal(signal.SIGINT, self.ask)

    def ask(self, *_: object) -> None:
        """Remember the wish to stop; give SIGINT back to Python.

        Not in several processes: the launcher passes on the Ctrl-C that each has got already.
        """
        if os.getpid() != self.owner:
            return
        self.asked = True
        if processes.count() > 1:
            return
        tqdm.write("stopping after this step and saving; Ctrl-C again stops at once")
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def on_step_end(self, args, state, control, **kwargs) -> None:
        """Stop and save when asked, all processes after the same step."""
        self.asked = processes.agree(self.asked)
        if self.asked:
            control.should_training_stop = control.should_save = True

    def on_train_end(self, args, state, control, **kwargs) -> None:
        """Give SIGINT back."""
        if self.previous is not None:
            signal.signal(signal.SIGINT, self.previous)


def was_interrupted(trainer) -> bool:
    """Whether Ctrl-C ended the training: such a run goes on with --resume."""
    callbacks = trainer.callback_handler.callbacks
    return any(isinstance(c, StopCallback) and c.asked for c in callbacks)


class ValidationCallback(TrainerCallback):
    """Answers the validation sample at each validation.

    The figures join the validation's metrics, so that the best checkpoint can be chosen by them,
    and go through the trainer's log into metrics.jsonl and TensorBoard.
    """

    def __init__(self, sample: ValidationSample, log: RunLog) -> None:
        self.sample, self.log = sample, log
        self.trainer = None  # set once it exists; it owns the log

    def on_evaluate(self, args, state, control, metrics=None, model=None, **kwargs) -> None:
        """Measure, log, say."""
        found = self.sample.measure(model)
        metrics |= found
        self.trainer.log(dict(found))
        say(
            self.log,
            f"step {state.global_step}: of {len(self.sample)} validation questions "
            f"{found['eval_grounding']:.1%} right, {found['eval_confusion']:.1%} another sense; "
            f"{found['eval_displaced']:.1%} of the better answers less likely than before",
        )


class WatchCallback(TrainerCallback):
    """Says once, in plain words, when a known failure shows, and which config key helps."""

    def __init__(self, config: Config, log: RunLog) -> None:
        self.history, self.log = History(config), log
        self.said: list[str] = []
        self.before: list = []

    def on_train_begin(self, args, state, control, model=None, **kwargs) -> None:
        """Remember where the adapter starts."""
        self.history.max_steps = state.max_steps
        self.before = [weights.clone() for weights in read_first_adapter(model)]
        self.wanted = state.global_step + MOVED_BY_STEP

    def on_step_end(self, args, state, control, model=None, **kwargs) -> None:
        """See whether the adapter has moved by now."""
        if state.global_step == self.wanted:
            now = read_first_adapter(model)
            scale = max(float(weights.abs().max()) for weights in self.before)
            pairs = zip(self.before, now, strict=True)
            moved = max(float((a - b).abs().max()) for a, b in pairs)
            self.history.adapter_moved = moved > SMALLEST_MOVE * scale
            self.check(state.global_step)

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        """Look at the newest record."""
        self.history.add({"step": state.global_step, **(logs or {})})
        self.check(state.global_step)

    def check(self, step: int) -> None:
        """Say what is new."""
        for name, text in find_failures(self.history, self.said).items():
            self.said.append(name)
            self.log.write_metrics({"at_step": step, "warning": name, "text": text})
            say(self.log, f"warning: {text}")


def read_first_adapter(model) -> list:
    """The trainable tensors of the first adapted layer, on the CPU (A, and B that starts at 0)."""
    trainable = (p for p in model.parameters() if p.requires_grad)
    return [p.detach().float().cpu() for _, p in zip(range(2), trainable, strict=False)]


class PatienceCallback(EarlyStoppingCallback):
    """transformers' early stopping, which also says so and marks the log as finished."""

    def __init__(self, patience: int, log: RunLog) -> None:
        super().__init__(early_stopping_patience=patience)
        self.log = log

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        """Check the arguments; a resumed run goes on counting where its checkpoint was."""
        super().on_train_begin(args, state, control, **kwargs)
        saved = state.stateful_callbacks.get(type(self).__name__, {})
        saved = saved[0] if isinstance(saved, list) else saved
        self.early_stopping_patience_counter = saved.get("attributes", {}).get(
            "early_stopping_patience_counter", 0
        )
        if self.early_stopping_patience_counter >= self.early_stopping_patience:
            control.should_training_stop = True  # killed after it stopped, before it was finished

    def on_train_end(self, args, state, control, **kwargs) -> None:
        """Say why the run is shorter than planned."""
        if self.early_stopping_patience_counter < self.early_stopping_patience:
            return
        step, name = state.global_step, args.metric_for_best_model
        self.log.write_metrics({"step": step, "max_steps": step, "stopped_early": True})
        say(
            self.log,
            f"stopped early at step {step}: {name} was no better than {state.best_metric:.3f} "
            f"in {self.early_stopping_patience} validations",
        )
