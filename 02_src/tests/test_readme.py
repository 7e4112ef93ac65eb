"""The README tells what is there: its key table, its commands, its links, its figures' source."""

import re

from config import REPOSITORY
from config_schema import config_table

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


def test_the_key_table_is_the_one_the_config_class_makes():
    inside = README.split("<!-- keys -->")[1].split("<!-- /keys -->")[0]
    assert inside.strip() == config_table().strip(), "see write_schema.py --table"


def test_every_file_it_names_exists():
    made_by_runs = ("04_models", "05_logs", "00_configs/secrets.toml")
    named = set(re.findall(r"\b0[0-5]_\w+/[\w./-]+\.(?:py|json|md|toml|jsonl)\b", README))
    assert len(named) > 10
    for name in named:
        assert name.startswith(made_by_runs) or (REPOSITORY / name).exists(), name


def test_it_opens_with_the_two_commands():
    first = README.split("```")[1]
    assert "python3 03_scripts/quickstart.py" in first
    assert "python3 03_scripts/run_tests.py" in first


def test_no_figure_is_left_open():
    assert not re.search(r"\b[A-Z]+_(?:FIGURES|TABLE)\b|TODO|XXX", README)
