"""The Config class told to editors (JSON Schema) and to readers (a Markdown table).

python 03_scripts/write_schema.py            writes 00_configs/dpo.schema.json
python 03_scripts/write_schema.py --table    prints the README's table
"""

import inspect
import json
import re
from pathlib import Path
from typing import Any

import config_keys
from config import SCHEMA_FILE, Config, show_path, write_text
from errors import UserError

DIALECT = "https://json-schema.org/draft/2020-12/schema"
KINDS = {"string": "text", "integer": "integer", "number": "number", "boolean": "true/false"}
BOUNDS = {"exclusiveMinimum": ">", "minimum": ">=", "exclusiveMaximum": "<", "maximum": "<="}


def build_schema() -> dict[str, Any]:
    """JSON Schema of a config file: every key's type, bounds, default and meaning."""
    schema = drop_titles(Config.model_json_schema())
    pointer = {"type": "string", "description": "this schema, for editors"}
    return {
        "$schema": DIALECT,
        "title": "DPO + QLoRA run",
        "description": "One run. Paths are relative to the repository; every key has a default.",
        "type": "object",
        "additionalProperties": False,
        "properties": {"$schema": pointer, **schema["properties"]},
    }


def drop_titles(node: Any) -> Any:
    """`node` without pydantic's titles, which repeat the key."""
    if isinstance(node, list):
        return [drop_titles(item) for item in node]
    if not isinstance(node, dict):
        return node
    return {k: drop_titles(v) for k, v in node.items() if k != "title" or isinstance(v, dict)}


def write_schema(file: Path = SCHEMA_FILE) -> Path:
    """Write the schema; returns the file."""
    write_text(file, format_schema())
    return file


def check_schema(file: Path = SCHEMA_FILE) -> None:
    """UserError when `file` is not what write_schema would write."""
    if not file.is_file() or file.read_text(encoding="utf-8") != format_schema():
        raise UserError(
            f"{show_path(file)}: out of step with 02_src/config_keys.py; "
            "run: python 03_scripts/write_schema.py"
        )


def format_schema() -> str:
    """The schema as the text of its file."""
    return json.dumps(build_schema(), indent=2, ensure_ascii=False) + "\n"


def list_groups() -> dict[str, list[str]]:
    """Keys by the comment line they stand under in config_keys.py, in order."""
    groups: dict[str, list[str]] = {}
    for line in inspect.getsource(config_keys.Config).splitlines():
        if title := re.fullmatch(r"    # (.+)", line):
            groups[title[1]] = names = []
        elif (name := re.match(r"    (\w+): ", line)) and name[1] in Config.model_fields:
            names.append(name[1])
    return groups


def config_table() -> str:
    """Markdown tables of all keys (key, type, default, meaning), one per group."""
    properties = build_schema()["properties"]
    parts = []
    for title, names in list_groups().items():
        rows = [format_row(name, properties[name]) for name in names]
        parts.append("\n".join([f"**{title}**", "", "| key | type | default | meaning |"]))
        parts[-1] += "\n".join(["", "|---|---|---|---|", *rows])
    return "\n\n".join(parts) + "\n"


def format_row(name: str, entry: dict[str, Any]) -> str:
    """One key as a row of the table."""
    default = json.dumps(entry["default"])
    return f"| `{name}` | {describe_type(entry)} | `{default}` | {entry['description']} |"


def describe_type(entry: dict[str, Any]) -> str:
    """A property's type and bounds in words, such as "integer > 0, or null"."""
    if "anyOf" in entry:
        first, *others = (describe_type(option) for option in entry["anyOf"])
        return ", or ".join([first, *("a list" if "list" in other else other for other in others)])
    if "enum" in entry:
        return ", ".join(f"`{value}`" for value in entry["enum"])
    if "const" in entry:
        return f"`{entry['const']}`"
    if entry["type"] == "array":
        return f"list of {describe_type(entry['items'])}s"
    if entry["type"] == "object":
        return "object of texts"
    limits = [f"{sign} {entry[bound]}" for bound, sign in BOUNDS.items() if bound in entry]
    return " ".join([KINDS.get(entry["type"], entry["type"]), ", ".join(limits)]).strip()
