"""The notebook runs top to bottom on a small config, defines nothing and stays short."""

import json
import os
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from config import REPOSITORY

NOTEBOOK = REPOSITORY / "dpo_training.ipynb"


@pytest.fixture(scope="module")
def notebook() -> nbformat.NotebookNode:
    """The committed notebook."""
    return nbformat.read(NOTEBOOK, as_version=4)


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    """Its code cells."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_cells_are_short_and_define_nothing(notebook):
    cells = code_cells(notebook)
    assert len(cells) <= 25
    for cell in cells:
        assert len(cell.source.splitlines()) <= 12, cell.source
        for word in ("def ", "class ", "lambda", "!pip", "%pip", "hf_"):
            assert word not in cell.source, f"{word!r} in {cell.source}"


def test_it_is_committed_with_the_outputs_of_a_real_run(notebook):
    assert all(cell.outputs for cell in code_cells(notebook)[1:])  # the first only imports
    text = json.dumps([cell.outputs for cell in code_cells(notebook)])
    assert "Dynamic Positioning" in text and "finished: True" in text and "image/png" in text
    assert "Traceback" not in text and str(Path.home()) not in text
    assert NOTEBOOK.stat().st_size < 500_000


def test_it_runs_top_to_bottom_on_the_embedded_model(notebook, small_config, tmp_path, monkeypatch):
    config = json.loads(small_config.read_text())
    config |= {"output_dir": str(tmp_path / "run"), "max_steps": 3, "save_steps": 2}
    config |= {"merged_dir": str(tmp_path / "merged"), "logging_dir": str(tmp_path / "logs")}
    file = tmp_path / "notebook.json"
    file.write_text(json.dumps(config), encoding="utf-8")
    environment = {**os.environ, "DPO_CONFIG": str(file), "OMP_NUM_THREADS": "2"}
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    fresh = nbformat.from_dict(notebook)
    client = NotebookClient(
        fresh, timeout=600, kernel_name=register_kernel(tmp_path, monkeypatch),
        resources={"metadata": {"path": str(REPOSITORY)}},
    )  # fmt: skip
    client.execute(env=environment)
    text = json.dumps([cell.outputs for cell in code_cells(fresh)])
    assert "3 steps" in text and "top1_agreement" in text
    assert (tmp_path / "merged" / "run" / "model.safetensors").is_file()


def register_kernel(folder: Path, monkeypatch) -> str:
    """A kernel of this very interpreter, registered for this test only."""
    kernel = folder / "share" / "kernels" / "under-test"
    kernel.mkdir(parents=True)
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec = {"argv": command, "display_name": "under test", "language": "python"}
    (kernel / "kernel.json").write_text(json.dumps(spec), encoding="utf-8")
    monkeypatch.setenv("JUPYTER_PATH", str(folder / "share"))
    return "under-test"
