"""Run dpo_training.ipynb for real and store its outputs, with a hash of the code they come from.

    python 03_scripts/run_notebook.py                   # trains unless the run is finished
    python 03_scripts/run_notebook.py --retrain         # deletes the notebook's runs first
    python 03_scripts/run_notebook.py --check           # are the stored outputs of this code?

The config is the notebook's, 00_configs/quickstart.json or the environment variable DPO_CONFIG.
The notebook is written only when every cell has run.
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "02_src"))

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from tqdm import tqdm

from config import REPOSITORY, show_path, write_text
from errors import UserError, run_main

NOTEBOOK = REPOSITORY / "dpo_training.ipynb"
# What decides how the outputs look. The stages and the trainer are left out on purpose: they
# change often, and their figures are tested elsewhere.
SOURCES = (
    "02_src/live_view.py",
    "02_src/notebook_figures.py",
    "02_src/notebook_results.py",
    "02_src/notebook_run.py",
    "02_src/notebook_views.py",
    "00_configs/quickstart.json",
)
COMMAND = "python 03_scripts/run_notebook.py"
STAMP = "dpo_sources_sha256"  # in the notebook's metadata
LONGEST_CELL = 4 * 3600  # seconds
WIDGET = "application/vnd.jupyter.widget-view+json"


def hash_sources(notebook) -> str:
    """sha256 over the code cells and SOURCES; line ends do not count."""
    cells = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    files = [(REPOSITORY / name).read_text(encoding="utf-8") for name in SOURCES]
    return hashlib.sha256(json.dumps([cells, files]).encode()).hexdigest()


def check_stamp(notebook) -> None:
    """UserError when the stored outputs are of other code than is here now."""
    if notebook.metadata.get(STAMP) != hash_sources(notebook):
        raise UserError(
            f"{show_path(NOTEBOOK)}: the outputs are of other code; run it again with: {COMMAND}"
        )


@contextmanager
def offer_kernel() -> Iterator[str]:
    """The name of a kernel of this very interpreter, known to this process for as long."""
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec = {"argv": command, "display_name": "this python", "language": "python"}
    before = os.environ.get("JUPYTER_PATH")
    with tempfile.TemporaryDirectory() as scratch:
        write_text(Path(scratch) / "kernels" / "this-python" / "kernel.json", json.dumps(spec))
        os.environ["JUPYTER_PATH"] = scratch
        try:
            yield "this-python"
        finally:
            os.environ.pop("JUPYTER_PATH")
            os.environ |= {"JUPYTER_PATH": before} if before else {}


def execute(notebook, folder: Path = REPOSITORY) -> None:
    """Run every cell in `folder`.

    Raises:
        UserError: a cell failed; its number, last line and error are named.
    """
    total = sum(cell.cell_type == "code" for cell in notebook.cells)
    place = {"metadata": {"path": str(folder)}}
    with offer_kernel() as name, tqdm(total=total, desc="notebook", unit="cell") as bar:
        client = NotebookClient(notebook, timeout=LONGEST_CELL, kernel_name=name, resources=place)
        client.on_cell_execute = lambda cell, cell_index: bar.set_postfix_str(name_cell(cell))
        client.on_cell_executed = lambda cell, cell_index, execute_reply: bar.update()
        try:
            client.execute()
        except CellExecutionError as error:
            raise UserError(describe_failure(notebook, error)) from None


def name_cell(cell) -> str:
    """A cell's last line: what it does, not what it imports."""
    return cell.source.strip().splitlines()[-1][:60] if cell.source.strip() else ""


def describe_failure(notebook, error: CellExecutionError) -> str:
    """Which cell failed, and how."""
    failed = [
        (number, cell)
        for number, cell in enumerate(notebook.cells)
        if any(out.output_type == "error" for out in cell.get("outputs", []))
    ]
    number, cell = failed[-1] if failed else (0, notebook.cells[0])
    return f"cell {number} ({name_cell(cell)}): {error.ename}: {error.evalue}"


def clean(notebook) -> None:
    """Leave what a reader needs: no progress bars, widgets, timings, paths of this machine."""
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        cell.metadata = {}
        if cell.cell_type == "code":
            kept = [out for out in cell.outputs if not is_litter(out)]
            cell.outputs = [nbformat.from_dict(hide_paths(out)) for out in kept]


def is_litter(output) -> bool:
    """Whether an output is a progress bar or a widget."""
    return output.get("name") == "stderr" or WIDGET in output.get("data", {})


def hide_paths(value):
    """The same output with the repository's path left out and the home folder as ~."""
    if isinstance(value, dict):
        return {key: hide_paths(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [hide_paths(inner) for inner in value]
    if not isinstance(value, str):
        return value
    text = value.replace(f"{REPOSITORY}{os.sep}", "").replace(str(REPOSITORY), ".")
    return re.sub(re.escape(str(Path.home())) + r"(?=[/\\])", "~", text)


def delete_runs() -> None:
    """Delete the config's run and its variant, so that the notebook trains again."""
    from checkpoints import clear_output
    from config import load_config, merged_folder, resolve_path

    config = load_config(os.environ.get("DPO_CONFIG", "00_configs/quickstart.json"))
    output = resolve_path(config.output_dir)
    for folder in (output, output.with_name(f"{output.name}_sigmoid")):
        run = config.model_copy(update={"output_dir": str(folder)})
        clear_output(run)
        shutil.rmtree(merged_folder(run), ignore_errors=True)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Run the notebook and store its outputs.")
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--retrain", action="store_true", help="delete the notebook's runs first")
    choice.add_argument("--check", action="store_true", help="exit 2 if outputs are of other code")
    return parser.parse_args()


def main() -> int:
    """Check, or run and store."""
    arguments = parse_arguments()
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    if arguments.check:
        check_stamp(notebook)
        return 0
    if arguments.retrain:
        delete_runs()
    print("while it trains: python 02_src/monitor_training.py")
    stamp = hash_sources(notebook)
    began = time.monotonic()
    execute(notebook)
    clean(notebook)
    notebook.metadata[STAMP] = stamp
    write_text(NOTEBOOK, nbformat.writes(notebook) + "\n")
    minutes = (time.monotonic() - began) / 60
    size = NOTEBOOK.stat().st_size / 1000
    print(f"{show_path(NOTEBOOK)}: every cell ran, {minutes:.1f} min, {size:.0f} kB")
    return 0


if __name__ == "__main__":
    run_main(main)
