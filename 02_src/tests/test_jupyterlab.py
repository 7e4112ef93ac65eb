"""The notebook in a real JupyterLab, in a headless Chromium: run all, interrupt, go on.

    python 03_scripts/run_tests.py -m browser

Left out of the ordinary tests: it takes minutes. Pictures of each stage, light and dark, are
written into the folder that DPO_SCREENSHOTS names, where it is set.
"""

import json
import os
from pathlib import Path

import nbformat
import pytest
from browser import (
    TOKEN,
    Page,
    find_missing,
    open_browser,
    register_kernel,
    serve_jupyterlab,
    wait_for,
)
from small_run import SENSES, UNSEEN, make_row, write_rows

from config import REPOSITORY, log_folder
from run_log import read_metrics

pytestmark = pytest.mark.browser
STEPS = 400  # enough to be interrupted on a quick machine, too
SHELL = "window.jupyterapp.shell"
NOTEBOOK = f"[...{SHELL}.widgets('main')][0]"
STOP_BUTTON = "[data-command='notebook:interrupt-kernel'], [title^='Interrupt the kernel']"
# The pictures of one cell as the page shows them, by their data.
PICTURES = "[...{cell}.node.querySelectorAll('.jp-OutputArea img')].map(i => i.src)"


class Lab:
    """The notebook as it stands in the page."""

    def __init__(self, page: Page, cells: list[str], pictures: Path | None) -> None:
        self.page, self.cells, self.pictures = page, cells, pictures

    def find_cell(self, text: str) -> int:
        """Index of the cell that holds `text`."""
        return next(i for i, source in enumerate(self.cells) if text in source)

    def execute(self, command: str) -> None:
        """What a menu entry does; not waited for, since running cells takes as long as they do."""
        self.page.run(f"void window.jupyterapp.commands.execute({json.dumps(command)})")

    def read_cell(self, index: int) -> dict:
        """A cell's execution count and text outputs, from the open document."""
        cell = self.page.run(f"{NOTEBOOK}.content.widgets[{index}].model.toJSON()")
        for output in cell.get("outputs", []):
            output.get("data", {}).pop("image/png", None)
        return cell

    def list_pictures(self, index: int) -> list[str]:
        """The pictures that the page shows in a cell's output."""
        return self.page.run(PICTURES.format(cell=f"{NOTEBOOK}.content.widgets[{index}]"))

    def go_to(self, index: int, where: str = "start") -> None:
        """Select a cell and scroll it into sight: its start or its end."""
        self.page.run(f"void ({NOTEBOOK}.content.activeCellIndex = {index})")
        cell = f"{NOTEBOOK}.content.widgets[{index}]"
        self.page.run(f"{NOTEBOOK}.content.scrollToItem({index}, '{where}').then(() => null)")
        self.page.run(f"void {cell}.node.scrollIntoView({{block: '{where}'}})")

    def is_idle(self) -> bool:
        """Whether the kernel has nothing left to do."""
        return self.page.run(f"{NOTEBOOK}.sessionContext.session.kernel.status") == "idle"

    def save_pictures(self, name: str) -> None:
        """Screenshots in the light and the dark theme."""
        if self.pictures is None:
            return
        for theme, word in (("JupyterLab Dark", "dark"), ("JupyterLab Light", "light")):
            change = f"commands.execute('apputils:change-theme', {{theme: '{theme}'}})"
            wait = "new Promise(done => setTimeout(done, 700))"
            self.page.run(f"window.jupyterapp.{change}.then(() => {wait})")
            self.page.save_picture(self.pictures / f"{name}_{word}.png")


@pytest.fixture
def config(tiny_config, tmp_path):
    """A training that takes long enough to be watched, of a model that takes seconds."""
    rows = [make_row(name, UNSEEN) for name in SENSES]
    return tiny_config(
        "browser", max_steps=STEPS, num_train_epochs=200, logging_steps=2, eval_steps=100,
        save_steps=20, validation_answers=2, learning_rate=1e-3, merge_max_kl=1000.0,
        merge_samples=4, test_files={"seen": str(write_rows(tmp_path / "test.jsonl", rows))},
    )  # fmt: skip


@pytest.fixture
def lab(config, tmp_path):
    """The notebook, without outputs, open in JupyterLab; no cell has run."""
    if missing := find_missing():
        pytest.skip(f"not run: install {', '.join(missing)}")
    folder, scratch = tmp_path / "opened", tmp_path / "scratch"
    folder.mkdir()
    scratch.mkdir()
    (folder / "02_src").symlink_to(REPOSITORY / "02_src")  # the notebook looks for it
    notebook = nbformat.read(REPOSITORY / "dpo_training.ipynb", as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    notebook.metadata["kernelspec"] = register_kernel(scratch)
    nbformat.write(notebook, folder / "walk.ipynb")
    keys = tmp_path / "keys.json"
    keys.write_text(json.dumps(config.model_dump()), encoding="utf-8")
    environment = {"DPO_CONFIG": str(keys), "OMP_NUM_THREADS": "1"}
    pictures = os.environ.get("DPO_SCREENSHOTS")
    with (
        serve_jupyterlab(folder, scratch, environment) as address,
        open_browser(scratch) as page,
    ):
        page.open(f"{address}/lab/tree/walk.ipynb?token={TOKEN}")
        wait_for(lambda: page.run("!!window.jupyterapp"), "JupyterLab")
        wait_for(lambda: page.run(f"!!{NOTEBOOK}?.sessionContext?.session?.kernel"), "notebook")
        page.run(f"void {SHELL}.activateById({NOTEBOOK}.id)")
        cells = [cell.source for cell in notebook.cells]
        found = Lab(page, cells, Path(pictures) if pictures else None)
        wait_for(found.is_idle, "idle kernel")
        yield found


def test_run_all_live_figure_interrupt_and_go_on(lab, config):
    training = lab.find_cell("train_or_show")
    lab.save_pictures("1_opened")
    lab.execute("notebook:run-all-cells")
    lab.go_to(training)
    first = wait_for(lambda: lab.list_pictures(training), "live figure", 180)
    lab.go_to(training)
    lab.save_pictures("2_live_figure")
    wait_for(lambda: lab.list_pictures(training) not in ([], first), "second drawing", 30)
    lab.save_pictures("3_live_figure_later")
    assert not lab.is_idle() and len(lab.list_pictures(training)) == 1  # redrawn in its place

    lab.page.click(STOP_BUTTON)
    wait_for(lab.is_idle, "end of the interrupted cell", 60)
    text = json.dumps(lab.read_cell(training)["outputs"])
    assert "run this cell again to go on" in text and "is kept" in text, text
    assert "train_dpo.py" in text and "Traceback" not in text
    assert not lab.read_cell(training + 2)["outputs"]  # "run all" has ended there
    steps = max(r["step"] for r in read_metrics(log_folder(config)) if "loss" in r)
    assert 0 < steps < STEPS
    lab.save_pictures("4_interrupted")

    lab.go_to(training)
    lab.execute("notebook:run-cell")
    wait_for(lambda: "finished: True" in json.dumps(lab.read_cell(training)), "trained run", 180)
    steps = [r["step"] for r in read_metrics(log_folder(config)) if "loss" in r]
    assert steps == sorted(set(steps)) and steps[-1] == STEPS
    lab.go_to(training)
    lab.save_pictures("5_finished")

    lab.go_to(training + 1)
    lab.execute("notebook:run-all-below")
    last = max(i for i, source in enumerate(lab.cells) if "figures.view_comparison" in source)
    wait_for(lambda: lab.read_cell(last).get("outputs"), "last cell", 240)
    for index in range(len(lab.cells)):
        kinds = {out["output_type"] for out in lab.read_cell(index).get("outputs", [])}
        assert "error" not in kinds, lab.read_cell(index)["outputs"]
    for name, text in (("6_report", "view_report"), ("7_runs_compared", "view_runs")):
        lab.go_to(lab.find_cell(text), "end")
        lab.save_pictures(name)
