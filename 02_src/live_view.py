"""One figure, redrawn in the notebook while training runs: loss, margin, log-probs, answers.

    trainer.add_callback(LiveFigure(log_folder(config)))

It is a picture behind a display id, not a widget: JupyterLab, VS Code, Colab and nbconvert show
it alike. Outside a notebook nothing is drawn.
"""

import time
from io import BytesIO
from pathlib import Path

from transformers import TrainerCallback

from run_log import LN2, read_metrics, select_series
from train_callbacks import LogCallback

SHORTEST_PAUSE = 2.0  # seconds between two drawings
RECENT = 8  # records that the pace is taken from
DRAWING_SHARE = 0.05  # of the time at most: drawing takes the processor from training
INK = "#808080"  # grey text reads on white and on dark pages; the background is transparent
BLUE, GREEN, RED = "#3b82c4", "#2e9d6a", "#d1584d"


class LiveFigure(TrainerCallback):
    """Redraws a run's curves, and how far it is, at most every two seconds and at validation."""

    def __init__(self, folder: Path) -> None:
        """
        Args:
            folder: the run's log folder, where metrics.jsonl grows.
        """
        self.folder = folder
        self.handle = None  # IPython's, once something is shown
        self.drawn = self.took = 0.0  # seconds: when last, how long

    def join(self, trainer) -> None:
        """Take part in a training, instead of the step lines and the bar."""
        trainer.remove_callback(LiveFigure)  # the cell may run again
        trainer.add_callback(self)
        for callback in trainer.callback_handler.callbacks:
            if isinstance(callback, LogCallback):
                callback.quiet = in_notebook()

    def on_log(self, args, state, control, **kwargs) -> None:
        """A new record is in metrics.jsonl."""
        pause = max(SHORTEST_PAUSE, self.took / DRAWING_SHARE)
        if time.monotonic() - self.drawn >= pause:
            self.show(describe_progress(self.folder))

    def on_evaluate(self, args, state, control, **kwargs) -> None:
        """Validation is rare and always shown."""
        self.show(describe_progress(self.folder))

    def on_train_end(self, args, state, control, **kwargs) -> None:
        """The last state stays in the notebook."""
        self.show(describe_progress(self.folder))

    def show(self, title: str) -> None:
        """Draw now, in place of the earlier drawing."""
        if not in_notebook():
            return
        from IPython.display import Image, display

        began = time.monotonic()
        picture = Image(data=draw_live(read_metrics(self.folder), title), format="png")
        if self.handle is None:
            self.handle = display(picture, display_id=True)
        else:
            self.handle.update(picture)
        self.drawn = time.monotonic()
        self.took = self.drawn - began


def in_notebook() -> bool:
    """Whether an IPython kernel runs this code."""
    try:
        from IPython import get_ipython
    except ImportError:
        return False
    shell = get_ipython()
    return shell is not None and getattr(shell, "kernel", None) is not None


def describe_progress(folder: Path) -> str:
    """ "step 40 of 120, 1.9 s a step, 2.5 min left", from the newest records."""
    records = [r for r in read_metrics(folder) if r.get("max_steps") and "seconds" in r]
    if not records:
        return "before the first step"
    last = records[-1]
    step, steps = last["step"], last["max_steps"]
    text = f"step {step} of {steps}"
    recent = [r for r in records[-RECENT:] if r["seconds"] < last["seconds"] and r["step"] < step]
    if not recent or step >= steps:  # a resumed run's clock starts again
        return text
    pace = (last["seconds"] - recent[0]["seconds"]) / (step - recent[0]["step"])
    return f"{text}, {pace:.1f} s a step, {pace * (steps - step) / 60:.1f} min left"


def draw_live(records: list[dict], title: str) -> bytes:
    """Four panels as a PNG; empty ones before there is anything to draw."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 5.6), layout="constrained")
    loss, margin, logps, said = figure.subplots(2, 2, sharex=True).flat
    draw_lines(loss, records, {"loss": BLUE}, "training loss, all terms")
    loss.axhline(LN2, color=INK, linestyle=":", label="ln 2: DPO alone, untrained")
    draw_lines(margin, records, {"rewards/margins": BLUE}, "reward margin, chosen minus rejected")
    colours = {"logps/chosen": GREEN, "logps/rejected": RED}
    draw_lines(logps, records, colours, "log p of an answer, nats")
    draw_answers(said, records)
    for axes in (loss, margin, logps, said):
        axes.set_xlabel("optimizer step")
        axes.tick_params(labelbottom=True)
        axes.xaxis.get_major_locator().set_params(integer=True)
        tone(axes)
    figure.suptitle(title, color=INK)
    return render(figure)


def draw_lines(axes, records: list[dict], names: dict[str, str], title: str) -> None:
    """Metrics by step: training as lines, validation as points."""
    for name, colour in names.items():
        label = name.split("/")[-1]
        axes.plot(*select_series(records, name), color=colour, label=label)
        steps, values = select_series(records, f"eval_{name}")
        if steps:
            axes.plot(steps, values, "o", color=colour, label=f"{label}, validation")
    axes.set_title(title)


def draw_answers(axes, records: list[dict]) -> None:
    """What the validation questions showed: right, another sense, displaced."""
    shown = {"grounding": (GREEN, "o-"), "confusion": (RED, "s-"), "displaced": (INK, "x:")}
    labels = {"grounding": "right expansion said", "confusion": "another field's"}
    for name, (colour, mark) in shown.items():
        steps, values = select_series(records, f"eval_{name}")
        label = labels.get(name, "chosen answer displaced")
        axes.plot(steps, values, mark, color=colour, label=label)
    axes.set_ylim(-0.05, 1.05)
    axes.set_title("validation questions, share")


def tone(axes) -> None:
    """Colours that read on light and dark pages; a legend where something has a label."""
    axes.title.set_color(INK)
    axes.title.set_fontsize(10)
    axes.tick_params(colors=INK, labelsize=8)
    axes.spines[:].set_color(INK)
    axes.grid(color=INK, alpha=0.25)
    axes.set_axisbelow(True)
    axes.xaxis.label.set(color=INK, fontsize=8)
    axes.legend(fontsize=8, framealpha=0, labelcolor=INK)


def render(figure, dpi: int = 80) -> bytes:
    """A figure as PNG on a transparent ground."""
    with BytesIO() as stream:
        figure.savefig(stream, format="png", dpi=dpi, transparent=True)
        return stream.getvalue()
