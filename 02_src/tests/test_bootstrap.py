"""bootstrap.py, find_python.py: which Python, the one-line messages, what is installed when.

Nothing here makes a .venv or uses the network.
"""

import ast
import importlib
import shutil
import subprocess
import sys
from argparse import Namespace

import pytest

from config import REPOSITORY

SCRIPTS = REPOSITORY / "03_scripts"
sys.path.insert(0, str(SCRIPTS))
find_python = importlib.import_module("find_python")
bootstrap = importlib.import_module("bootstrap")

Interpreter, SetupError = find_python.Interpreter, find_python.SetupError
OLD_SYNTAX = ("quickstart.py", "run_tests.py", "find_python.py")


def test_choose_python_takes_the_first_that_fits():
    found = [
        Interpreter("/old", (3, 10)),
        Interpreter("/new", (3, 15)),
        Interpreter("/narrow", (3, 12), is_64bit=False),
        Interpreter("/good", (3, 12)),
        Interpreter("/later", (3, 11)),
    ]
    assert find_python.choose_python(found) == "/good"


def test_choose_python_prefers_one_with_venv():
    found = [Interpreter("/bare", (3, 13), has_venv=False), Interpreter("/full", (3, 11))]
    assert find_python.choose_python(found) == "/full"


def test_missing_venv_names_the_package():
    with pytest.raises(SetupError) as caught:
        find_python.choose_python([Interpreter("/bare", (3, 12), has_venv=False)])
    assert "sudo apt install python3.12-venv" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_fitting_python_lists_what_was_found():
    found = [Interpreter("/a", (3, 8)), Interpreter("/b", (3, 12), is_64bit=False)]
    with pytest.raises(SetupError, match=r"3\.11 to 3\.14 \(found: 3\.8, 3\.12 \(32-bit\)\)"):
        find_python.choose_python(found)


def test_old_python_without_a_newer_one_gets_one_line(monkeypatch):
    monkeypatch.setattr(find_python, "list_candidates", lambda: [["old"], ["absent"]])
    known = {"old": Interpreter("/old", (3, 6))}
    monkeypatch.setattr(find_python, "probe_python", lambda command: known.get(command[0]))
    with pytest.raises(SetupError, match=r"needs a 64-bit Python 3\.11 .*found: 3\.6"):
        find_python.rerun_if_old("quickstart.py", version=(3, 6))


def test_old_python_runs_the_script_again_with_a_newer_one(monkeypatch, tmp_path, capsys):
    script = tmp_path / "script.py"
    script.write_text("import sys; sys.exit(7 if sys.argv[1:] == ['--x'] else 1)")
    monkeypatch.setattr(sys, "argv", ["script.py", "--x"])
    monkeypatch.setattr(find_python, "find_python", lambda wanted: sys.executable)
    assert find_python.rerun_if_old(str(script), version=(3, 9)) == 7
    assert "Python 3.9 is too old" in capsys.readouterr().out


def test_new_python_goes_on():
    assert find_python.rerun_if_old("quickstart.py", version=(3, 11)) is None


def test_probe_reads_a_real_interpreter_and_refuses_others(tmp_path):
    probe = find_python.probe_python([sys.executable])
    assert probe.version == sys.version_info[:2] and probe.is_64bit
    assert find_python.probe_python([str(tmp_path / "absent")]) is None


def test_wanted_python_that_does_not_run(tmp_path):
    with pytest.raises(SetupError, match="--python .*not a Python that runs"):
        find_python.find_python(str(tmp_path / "python"))


@pytest.mark.parametrize("name", OLD_SYNTAX)
def test_entry_files_parse_on_python_36(name):
    """Their annotations are quoted too: `X | None` and list[str] fail when 3.6 evaluates them."""
    tree = ast.parse((SCRIPTS / name).read_text(encoding="utf-8"), feature_version=(3, 6))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    arguments = [argument for node in functions for argument in node.args.args]
    notes = [node.returns for node in functions] + [node.annotation for node in arguments]
    assert not [note for note in notes if isinstance(note, ast.BinOp | ast.Subscript)]


@pytest.mark.parametrize("name", ["quickstart.py", "run_tests.py"])
def test_help_works_with_the_systems_python(name, tmp_path):
    command = [shutil.which("python3") or sys.executable, str(SCRIPTS / name), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "--torch-index" in done.stdout and "usage" in done.stdout


@pytest.fixture
def venv(monkeypatch, tmp_path):
    """A .venv and requirements.txt that are only files; its Python counts as working."""
    monkeypatch.setattr(bootstrap, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(bootstrap, "STAMP", tmp_path / ".venv" / "installed.json")
    monkeypatch.setattr(bootstrap, "REQUIREMENTS", tmp_path / "requirements.txt")
    monkeypatch.setattr(bootstrap, "is_usable", lambda python: bootstrap.VENV.is_dir())
    bootstrap.REQUIREMENTS.write_text("# pinned\ntorch==2.13.0\ntqdm==1.0  # bars\n")
    return bootstrap.VENV


@pytest.fixture
def steps(monkeypatch, venv):
    """What make_environment would do, noted instead of done."""
    noted = []

    def note_creation(base):
        noted.append("create")
        venv.mkdir(exist_ok=True)
        bootstrap.STAMP.unlink(missing_ok=True)

    monkeypatch.setattr(bootstrap, "find_python", lambda wanted: sys.executable)
    monkeypatch.setattr(bootstrap, "create_environment", note_creation)
    monkeypatch.setattr(bootstrap, "run_in_venv", lambda purpose, *rest: noted.append(rest))
    return noted


def test_environment_is_made_once_with_torch_first(steps):
    assert bootstrap.make_environment() == bootstrap.venv_python()
    requirements = str(bootstrap.REQUIREMENTS)
    assert steps[:3] == [
        "create",
        ("pip", "install", "torch==2.13.0"),
        ("pip", "install", "-r", requirements),
    ]
    assert steps[3][:2] == ("ipykernel", "install")
    steps.clear()
    bootstrap.make_environment()
    assert steps == [] and bootstrap.is_ready()


def test_comments_in_requirements_change_nothing_but_versions_do(steps):
    bootstrap.make_environment()
    bootstrap.REQUIREMENTS.write_text("torch==2.13.0\r\ntqdm==1.0\r\n")
    assert bootstrap.is_ready()
    bootstrap.REQUIREMENTS.write_text("torch==2.13.0\ntqdm==2.0\n")
    assert not bootstrap.is_ready()
    steps.clear()
    bootstrap.make_environment()
    assert "create" not in steps and ("pip", "install", "torch==2.13.0") in steps


def test_a_killed_setup_is_made_anew(steps, monkeypatch):
    def fail(*arguments):
        raise SetupError("no network")

    with monkeypatch.context() as patch:
        patch.setattr(bootstrap, "install_packages", fail)
        with pytest.raises(SetupError):
            bootstrap.make_environment()
    assert bootstrap.read_stamp()["complete"] is False
    steps.clear()
    bootstrap.make_environment()
    assert steps[0] == "create" and bootstrap.is_ready()


def test_torch_index_is_remembered_and_a_new_one_replaces_torch(steps):
    first, second = "https://example.org/cpu", "https://example.org/cuda"
    bootstrap.make_environment(torch_index=first)
    assert ("pip", "install", "--index-url", first, "torch==2.13.0") in steps
    assert bootstrap.is_ready() and bootstrap.is_ready(first) and not bootstrap.is_ready(second)
    steps.clear()
    bootstrap.make_environment(torch_index=second)
    assert steps[0] == ("pip", "uninstall", "--yes", "torch")
    assert ("pip", "install", "--index-url", second, "torch==2.13.0") in steps


def test_a_damaged_stamp_counts_as_unfinished(venv):
    venv.mkdir()
    bootstrap.STAMP.write_text("{half")
    assert bootstrap.read_stamp() == {"complete": False} and not bootstrap.is_ready()


def test_another_python_than_the_venvs_is_refused(monkeypatch, venv):
    versions = {str(bootstrap.venv_python()): (3, 12)}
    monkeypatch.setattr(
        bootstrap, "probe_python", lambda c: Interpreter(c[0], versions.get(c[0], (3, 11)))
    )
    with pytest.raises(SetupError, match=r"made with Python 3\.12; delete the folder \.venv"):
        bootstrap.check_wanted(sys.executable)


def test_cuda_index_only_on_windows_with_a_driver(monkeypatch):
    monkeypatch.setattr(bootstrap, "has_nvidia_driver", lambda: True)
    monkeypatch.setattr(bootstrap.platform, "machine", lambda: "AMD64")
    chosen = {}
    for name in ("nt", "posix"):
        monkeypatch.setattr(bootstrap, "os", Namespace(name=name))
        chosen[name] = bootstrap.choose_torch_index()
    assert chosen == {"nt": bootstrap.CUDA_INDEX, "posix": None}


def test_children_see_only_the_venvs_packages(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    environment = bootstrap.child_environment()
    assert "PYTHONPATH" not in environment and environment["PYTHONUTF8"] == "1"
