# ruff: noqa: F811 (fixtures are imported by name)
"""The notebook: short cells, outputs of this code, runs from nothing and on a finished run."""

import importlib
import json
import os
import re
import signal
import sys
from pathlib import Path

import nbformat
import pytest
from tiny_run import tiny_config  # noqa: F401
from transformers import TrainerCallback

from config import REPOSITORY, log_folder, resolve_path
from errors import UserError

sys.path.insert(0, str(REPOSITORY / "03_scripts"))
run_notebook = importlib.import_module("run_notebook")

NOTEBOOK = run_notebook.NOTEBOOK
MACHINE_PATH = re.compile(r"(?<![\w.])/(?:home|root|Users|tmp|work|mnt)/|[A-Z]:\\\\")
EXPLAINED = ("The reference model.", "Beta.", "The margin.", "Displacement.", "The sft term.")


@pytest.fixture(scope="module")
def notebook() -> nbformat.NotebookNode:
    """The committed notebook."""
    return nbformat.read(NOTEBOOK, as_version=4)


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    """Its code cells."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def read_text(notebook: nbformat.NotebookNode) -> str:
    """All outputs as text, pictures left out."""
    outputs = [json.loads(json.dumps(out)) for cell in code_cells(notebook) for out in cell.outputs]
    for output in outputs:
        output.get("data", {}).pop("image/png", None)
    return json.dumps(outputs, ensure_ascii=False)


def test_cells_are_short_and_define_nothing(notebook):
    cells = code_cells(notebook)
    assert len(cells) <= 25
    for cell in cells:
        assert len(cell.source.splitlines()) <= 12, cell.source
        for word in ("def ", "class ", "lambda", "!pip", "%pip", "hf_"):
            assert word not in cell.source, f"{word!r} in {cell.source}"


def test_each_term_is_explained_in_two_sentences(notebook):
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    for term in EXPLAINED:
        found = re.search(rf"\*\*{re.escape(term)}\*\* (.+)", text)
        assert found, term
        assert len(re.findall(r"\.(?= |$)", found[1])) == 2, found[1]


def test_it_is_committed_with_the_outputs_of_a_real_run(notebook):
    assert all(cell.outputs for cell in code_cells(notebook)[1:])  # the first only imports
    text, every = read_text(notebook), json.dumps(notebook.cells)
    assert "Dynamic Positioning" in text and "finished: True" in text
    assert every.count("image/png") >= 5 and "Traceback" not in text
    assert not MACHINE_PATH.search(text) and run_notebook.WIDGET not in every
    assert not re.search(r"hf_[A-Za-z0-9]{20}", every)
    assert NOTEBOOK.stat().st_size < 600_000


def test_its_outputs_are_of_the_code_that_is_here(notebook):
    run_notebook.check_stamp(notebook)


def test_outputs_of_other_code_are_named_with_the_command_that_helps(notebook):
    changed = nbformat.from_dict(notebook)
    code_cells(changed)[0].source += "\nprint()"
    with pytest.raises(UserError, match=re.escape(run_notebook.COMMAND)):
        run_notebook.check_stamp(changed)


def test_every_key_of_the_quickstart_has_a_reason():
    from config import Config, load_config
    from notebook_views import REASONS

    config = load_config("00_configs/quickstart.json")
    fields = {k: str(getattr(config, k)) for k, f in Config.model_fields.items()
              if getattr(config, k) != f.default}  # fmt: skip
    assert set(REASONS) == set(fields.items())


def test_it_runs_from_nothing_and_again_on_the_finished_run(
    notebook, small_config, tmp_path, monkeypatch
):
    config = json.loads(small_config.read_text())
    config |= {"output_dir": str(tmp_path / "run"), "max_steps": 2, "save_steps": 2}
    config |= {"merged_dir": str(tmp_path / "merged"), "logging_dir": str(tmp_path / "logs")}
    config |= {"logging_steps": 1, "merge_samples": 4, "max_train_samples": 8}
    config |= {"per_device_train_batch_size": 4, "max_new_tokens": 8}
    file = tmp_path / "notebook.json"
    file.write_text(json.dumps(config), encoding="utf-8")
    monkeypatch.setenv("DPO_CONFIG", str(file))
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    first, again = nbformat.from_dict(notebook), nbformat.from_dict(notebook)
    run_notebook.execute(first, REPOSITORY / "02_src" / "tests")  # any folder below will do
    text = read_text(first)
    assert "2 steps" in text and "finished: True" in text and "same top token" in text
    assert "finished before" not in text and "log p chosen, against the reference" in text
    assert (tmp_path / "merged" / "run" / "model.safetensors").is_file()
    adapter = (tmp_path / "run" / "adapter_model.safetensors").stat().st_mtime_ns
    run_notebook.execute(again)
    text = read_text(again)
    assert text.count("finished before") == 2 and "evaluated before" in text
    assert (tmp_path / "run" / "adapter_model.safetensors").stat().st_mtime_ns == adapter


class Interrupt(TrainerCallback):
    """Presses Ctrl-C in the middle of a step, once."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args, state, control, **kwargs) -> None:
        """SIGINT to this very process."""
        if state.global_step == self.step:
            self.step = -1
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.skipif(os.name == "nt", reason="SIGINT cannot be sent to oneself on Windows")
def test_an_interrupted_training_cell_keeps_the_run_and_goes_on_when_it_runs_again(tiny_config):
    from hardware import find_device
    from notebook_run import train_or_show
    from preferences import load_preferences
    from qlora import load_policy
    from run_log import read_metrics
    from trainer_setup import build_trainer

    config = tiny_config("cell", eval_steps=4)
    device = find_device(config)
    trainer = build_trainer(config, device, *load_policy(config, device), load_preferences(config))
    trainer.add_callback(Interrupt(1))
    with pytest.raises(UserError, match="checkpoint-2 is kept: run this cell again") as stopped:
        train_or_show(trainer, config)
    assert stopped.value._render_traceback_() == [f"error: {stopped.value}"]  # all Jupyter shows
    run = train_or_show(trainer, config)
    assert run.finished and run.steps == 4
    steps = [r["step"] for r in read_metrics(log_folder(config)) if "loss" in r]
    assert steps == [1, 2, 3, 4]
    assert train_or_show(None, config) == run  # shown, not trained
    assert (resolve_path(config.output_dir) / "adapter_model.safetensors").is_file()


def test_the_live_figure_is_redrawn_no_faster_than_it_may(monkeypatch, tmp_path):
    import IPython.display

    import live_view

    clock, shown = [100.0], []
    monkeypatch.setattr(live_view.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(live_view, "in_notebook", lambda: True)
    monkeypatch.setattr(IPython.display, "display", lambda *_, **__: shown.append(0))
    figure = live_view.LiveFigure(tmp_path)
    for _ in range(9):
        figure.on_log(None, None, None)
        clock[0] += 0.5
    assert len(shown) == 3  # at 0, 2 and 4 seconds
    figure.on_evaluate(None, None, None)
    assert len(shown) == 4


def test_live_panels_are_drawn_from_a_runs_records_and_from_none():
    from live_view import draw_live

    record = {"step": 1, "loss": 3.3, "rewards/margins": 0.1, "logps/chosen": -40.0}
    answers = {"step": 1, "eval_grounding": 0.5, "eval_confusion": 0.0, "eval_displaced": 0.0}
    for records in ([], [record, answers]):
        assert draw_live(records, "step 1 of 4").startswith(b"\x89PNG")


def test_outside_a_notebook_nothing_is_shown(tmp_path, capsys):
    from live_view import LiveFigure

    figure = LiveFigure(Path(tmp_path))
    figure.on_train_end(None, None, None)
    assert figure.handle is None and capsys.readouterr().out == ""
