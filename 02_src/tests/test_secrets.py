"""The hub token: where it comes from, what is said about its file, and where it never appears."""

import os
import subprocess
import sys
import tomllib

import pytest

import secrets_file
from config import REPOSITORY, Config, save_config
from errors import UserError

TOKEN = "hf" + "_NotARealTokenForTests"


@pytest.fixture
def write_secrets(tmp_path, monkeypatch):
    """write_secrets(content, mode): secrets.toml in a temporary folder; HF_TOKEN is unset."""
    file = tmp_path / "secrets.toml"
    monkeypatch.setattr(secrets_file, "SECRETS_FILE", file)
    monkeypatch.delenv("HF_TOKEN", raising=False)

    def write(content: str | bytes, mode: int = 0o600):
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        file.chmod(mode)
        return file

    return write


@pytest.mark.parametrize(
    ("variable", "content", "token"),
    [
        ("from-variable", f'[huggingface]\ntoken = "{TOKEN}"', "from-variable"),
        ("  from-variable\n", None, "from-variable"),
        (None, f'[huggingface]\ntoken = "{TOKEN}"', TOKEN),
        (None, f'[huggingface]\ntoken = "  {TOKEN} "', TOKEN),
        ("", f'[huggingface]\ntoken = "{TOKEN}"', TOKEN),
        ("   ", f'[huggingface]\ntoken = "{TOKEN}"', TOKEN),
        (None, '[huggingface]\ntoken = ""', None),
        (None, "[huggingface]\n", None),
        (None, '[other]\ntoken = "x"', None),
        (None, "", None),
        (None, None, None),
    ],
)
def test_variable_wins_over_the_file_and_empty_means_none(
    write_secrets, monkeypatch, variable, content, token
):
    if content is not None:
        write_secrets(content)
    if variable is not None:
        monkeypatch.setenv("HF_TOKEN", variable)
    assert secrets_file.find_token() == token


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604])
def test_file_others_can_read_gets_one_warning_a_process_with_the_command(write_secrets, mode):
    file = write_secrets(f'[huggingface]\ntoken = "{TOKEN}"', mode)
    code = (
        "import pathlib, sys, secrets_file\n"
        "secrets_file.SECRETS_FILE = pathlib.Path(sys.argv[1])\n"
        "assert secrets_file.find_token() == secrets_file.find_token() == sys.argv[2]"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(file), TOKEN],
        cwd=REPOSITORY / "02_src",
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert TOKEN not in done.stderr
    warnings = done.stderr.splitlines()
    if os.name == "posix":  # Windows has no such mode bits
        assert len(warnings) == 1
        assert warnings[0].startswith("warning:")
        assert f"run: chmod 600 {file}" in warnings[0]


def test_private_file_gets_no_warning(write_secrets, capsys):
    write_secrets(f'[huggingface]\ntoken = "{TOKEN}"')
    secrets_file.find_token()
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    "content",
    [
        f'[huggingface\ntoken = "{TOKEN}"',
        f"[huggingface]\ntoken = {TOKEN}",
        f'[huggingface]\ntoken = "{TOKEN}',
        f"token: {TOKEN}",
        f'[huggingface]\ntoken = ["{TOKEN}"]',
        "[huggingface]\ntoken = 12345",
        f'huggingface = "{TOKEN}"',
        f'[[huggingface]]\ntoken = "{TOKEN}"',
        f'[huggingface]\ntoken = "{TOKEN}\xe9"'.encode("latin-1"),
    ],
)
def test_broken_file_is_one_line_that_never_holds_the_token(write_secrets, content):
    file = write_secrets(content)
    with pytest.raises(UserError) as caught:
        secrets_file.find_token()
    text = str(caught.value)
    assert text.startswith(f"{file}:")
    assert "\n" not in text
    assert TOKEN not in text
    assert "12345" not in text


@pytest.mark.parametrize(
    ("content", "line"),
    [(f"[huggingface]\ntoken = {TOKEN}", 2), (f"# a comment\n\n[huggingface\n# {TOKEN}", 3)],
)
def test_syntax_error_names_its_line(write_secrets, content, line):
    file = write_secrets(content)
    with pytest.raises(UserError) as caught:
        secrets_file.find_token()
    assert str(caught.value).startswith(f"{file}:{line}: ")


def test_token_is_not_in_a_saved_config(write_secrets, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert TOKEN not in save_config(Config(), tmp_path).read_text(encoding="utf-8")


def test_shipped_example_is_valid_and_holds_no_token():
    text = (REPOSITORY / "00_configs" / "secrets.example.toml").read_text(encoding="utf-8")
    assert tomllib.loads(text) == {"huggingface": {"token": ""}}


def test_real_secrets_file_is_ignored_by_git():
    lines = (REPOSITORY / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert "00_configs/secrets.toml" in lines
