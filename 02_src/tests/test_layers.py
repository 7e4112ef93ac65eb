"""The shape of the code: layers, sizes, names, the visible top level, nothing pickled."""

import ast
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from config import REPOSITORY

SOURCE = REPOSITORY / "02_src"
TESTS = SOURCE / "tests"
LONGEST_FUNCTION = 40
LONGEST_FILE = 250
TOP_LEVEL = {
    "00_configs",
    "01_data",
    "02_src",
    "03_scripts",
    "04_models",
    "05_logs",
    "LICENSE",
    "README.md",
    "dpo_training.ipynb",
    "requirements.txt",
}
STAGES = {
    "train_dpo",
    "evaluate_dpo",
    "merge_lora",
    "run_inference",
    "monitor_training",
    "export_model",
}
# Layer of each module below the stages; what is not listed is layer 2.
LAYERS = {
    **dict.fromkeys(("errors", "config_keys", "config", "utils", "utils.formatting"), 0),
    **dict.fromkeys(
        ("utils.text", "secrets_file", "config_schema", "safe_files", "gguf_header"), 0
    ),
    **dict.fromkeys(
        (
            "preferences",
            "row_readers",
            "general_texts",
            "hardware",
            "run_log",
            "base_models",
            "model_folders",
            "processes",
        ),
        1,
    ),
    **dict.fromkeys(STAGES, 3),
    "notebook_run": 3,  # joins the stages for the notebook's cells
}
DEFAULT_LAYER = 2
PICKLE_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def name_module(file: Path) -> str:
    """The import name of a file of 02_src: fast/layout.py is fast.layout."""
    parts = file.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def list_files(*folders: Path) -> list[Path]:
    """Python files under `folders`, without tests and notebooks' checkpoints."""
    found = [file for folder in folders for file in sorted(folder.rglob("*.py"))]
    return [file for file in found if TESTS not in file.parents]


MODULES = {name_module(file): file for file in list_files(SOURCE)}
CODE = list_files(SOURCE, REPOSITORY / "03_scripts", REPOSITORY / "01_data")


def show(file: Path) -> str:
    """A file as it is named in test ids and messages."""
    return file.relative_to(REPOSITORY).as_posix()


def parse(file: Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse(file.read_text(encoding="utf-8"), show(file))


def list_imports(file: Path, only_top: bool = False) -> dict[str, int]:
    """Imported module names with their lines; `only_top` leaves out imports inside functions."""
    tree = parse(file)
    nodes = tree.body if only_top else ast.walk(tree)
    found: dict[str, int] = {}
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name: node.lineno for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{show(file)}:{node.lineno}: relative import"
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name for name in inner if name in MODULES] or [node.module]
            found |= dict.fromkeys(names, node.lineno)
    return found


def list_own_imports(module: str, only_top: bool = False) -> dict[str, int]:
    """Modules of 02_src that `module` imports, with lines."""
    imports = list_imports(MODULES[module], only_top)
    return {name: line for name, line in imports.items() if name in MODULES}


def find_layer(module: str) -> int:
    """The layer a module belongs to."""
    return LAYERS.get(module, DEFAULT_LAYER)


@pytest.mark.parametrize("module", MODULES)
def test_module_imports_nothing_from_a_higher_layer(module):
    for name, line in list_own_imports(module).items():
        assert find_layer(name) <= find_layer(module), (
            f"{show(MODULES[module])}:{line}: layer {find_layer(module)} imports {name} of layer "
            f"{find_layer(name)}"
        )


@pytest.mark.parametrize("stage", sorted(STAGES & set(MODULES)))
def test_stages_never_import_each_other(stage):
    assert not STAGES & set(list_own_imports(stage))


def test_no_modules_import_each_other_in_a_circle():
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, f"circle: {' -> '.join([*path, module])}"
        if module in done:
            return
        for name in list_own_imports(module):
            visit(name, (*path, module))
        done.add(module)

    for module in MODULES:
        visit(module, ())


@pytest.mark.parametrize("module", [name for name in MODULES if find_layer(name) < 2])
def test_lower_layers_import_torch_only_where_it_is_used(module):
    heavy = {"torch", "transformers", "trl", "peft", "datasets", "bitsandbytes", "accelerate"}
    tops = {name.split(".")[0] for name in list_imports(MODULES[module], only_top=True)}
    assert not tops & heavy
    if find_layer(module) == 0:
        assert not {name.split(".")[0] for name in list_imports(MODULES[module])} & heavy


def test_every_stage_has_a_main_and_a_guard():
    for stage in sorted(STAGES & set(MODULES)):
        tree = parse(MODULES[stage])
        names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert "main" in names, stage
        assert ast.unparse(tree.body[-1]).startswith("if __name__ == '__main__':"), stage


def test_layer_table_names_only_modules_that_exist():
    assert set(LAYERS) - STAGES <= set(MODULES)


def test_no_module_is_named_like_a_dependency():
    names = {file.stem for file in list_files(SOURCE, REPOSITORY / "03_scripts")} - {"__init__"}
    names |= {folder.name for folder in SOURCE.iterdir() if (folder / "__init__.py").is_file()}
    own = {name.split(".")[0] for name in MODULES}
    taken = set(packages_distributions()) | set(sys.stdlib_module_names)
    assert not (names | own) & taken


@pytest.mark.parametrize("file", CODE, ids=show)
def test_file_and_functions_are_short(file):
    lines = file.read_text(encoding="utf-8").count("\n")
    assert lines <= LONGEST_FILE, f"{show(file)}: {lines} lines"
    for node in ast.walk(parse(file)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = node.end_lineno - node.lineno + 1
            assert length <= LONGEST_FUNCTION, f"{show(file)}:{node.lineno}: {length} lines"


@pytest.mark.parametrize("file", CODE, ids=show)
def test_file_and_public_functions_have_a_docstring(file):
    tree = parse(file)
    assert ast.get_docstring(tree), f"{show(file)}: no module docstring"
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{show(file)}:{node.lineno}: {node.name}"


@pytest.mark.parametrize("file", CODE, ids=show)
def test_nothing_is_pickled_or_loaded_without_weights_only(file):
    assert not {name.split(".")[0] for name in list_imports(file)} & PICKLE_MODULES
    for node in ast.walk(parse(file)):
        if not isinstance(node, ast.Call):
            continue
        place, call = f"{show(file)}:{node.lineno}", ast.unparse(node.func)
        options = {k.arg: ast.unparse(k.value) for k in node.keywords}
        if call == "torch.load":
            assert options.get("weights_only") == "True", place
        assert options.get("allow_pickle", "False") == "False", place
        assert call not in ("eval", "exec") and not call.endswith("read_pickle"), place
        assert options.get("safe_serialization", "True") == "True", place


def list_visible_top_level() -> set[str]:
    """Names at the top of the repository that git tracks or would add, hidden ones left out."""
    done = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=REPOSITORY,
        capture_output=True,
        check=True,
    )
    names = {path.split("/")[0] for path in done.stdout.decode().split("\0") if path}
    return {name for name in names if not name.startswith(".")}


def test_visible_top_level_is_exactly_the_agreed_one():
    assert list_visible_top_level() == TOP_LEVEL
