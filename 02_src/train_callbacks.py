"""What happens at each step besides training: the log, the progress bar, and a clean Ctrl-C."""

import signal
import threading
import time

from tqdm.auto import tqdm
from transformers import TrainerCallback

from run_log import RunLog, describe_step


class LogCallback(TrainerCallback):
    """Writes every record to metrics.jsonl and training.log and moves the progress bar."""

    def __init__(self, log: RunLog) -> None:
        self.log = log
        self.bar: tqdm | None = None
        self.started = time.monotonic()

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        """Open the bar; a resumed run starts where it stopped."""
        self.log.drop_after(state.global_step)
        self.started = time.monotonic()
        self.bar = tqdm(
            total=state.max_steps, initial=state.global_step, desc="training", unit="step"
        )

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
            line = describe_step(record)
            self.log.write_line(line)
            tqdm.write(line)

    def on_train_end(self, args, state, control, **kwargs) -> None:
        """Close the bar."""
        if self.bar is not None:
            self.bar.close()


class StopCallback(TrainerCallback):
    """Ctrl-C ends the current step, saves a checkpoint and stops; a second one stops at once."""

    def __init__(self) -> None:
        self.asked = False
        self.previous = None

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        """Take over SIGINT while training (only the main thread may)."""
        if threading.current_thread() is threading.main_thread():
            self.previous = signal.signal(signal.SIGINT, self.ask)

    def ask(self, *_: object) -> None:
        """Remember the wish to stop; give SIGINT back to Python."""
        self.asked = True
        tqdm.write("stopping after this step and saving; Ctrl-C again stops at once")
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def on_step_end(self, args, state, control, **kwargs) -> None:
        """Stop and save when asked."""
        if self.asked:
            control.should_training_stop = control.should_save = True

    def on_train_end(self, args, state, control, **kwargs) -> None:
        """Give SIGINT back."""
        if self.previous is not None:
            signal.signal(signal.SIGINT, self.previous)
