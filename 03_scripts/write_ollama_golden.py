"""Render the Modelfile templates with Go and keep the results for the tests. Needs Go 1.18+.

    python 03_scripts/write_ollama_golden.py          # writes 02_src/tests/golden/ollama.json
    python 03_scripts/write_ollama_golden.py --check  # compares with Go's output; writes nothing

For each style of chat template: the Go template derived from the contract, conversations (the
canaries among them), and what Go's text/template makes of them. The tests compare the contract's
own rendering with these.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY / "02_src"))

from base_models import BASE_FOLDER, ModelSource, load_tokenizer
from config import Config, write_text
from errors import UserError, run_main
from exporting.ollama_template import CHECKED, derive_pieces
from prompt_contract import apply_contract

GOLDEN = REPOSITORY / "02_src" / "tests" / "golden" / "ollama.json"
PROGRAM = REPOSITORY / "03_scripts" / "render_ollama.go"
HEADER = "'<|start_header_id|>' + m['role'] + '<|end_header_id|>\\n\\n'"
# Chat templates in the styles of the models named; the embedded model's own is the first.
STYLES = {
    "smollm2": None,
    "chatml": (
        "{%- for m in messages -%}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + "
        "'<|im_end|>\\n' }}{%- endfor -%}"
        "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}"
    ),
    "llama3": (
        "{{- '<|begin_of_text|><|start_header_id|>system<|end_header_id|>\\n\\nToday Date: ' + "
        "(date_string | default('today')) + '\\n\\n' -}}"
        "{%- if messages[0]['role'] == 'system' -%}{{ messages[0]['content'] }}"
        "{%- set messages = messages[1:] -%}{%- endif -%}{{ '<|eot_id|>' }}"
        "{%- for m in messages -%}{{ " + HEADER + " + m['content'] + '<|eot_id|>' }}"
        "{%- endfor -%}{%- if add_generation_prompt -%}"
        "{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif -%}"
    ),
    "no_system_role": (
        "{%- if messages[0]['role'] == 'system' -%}{{ raise_exception('no system') }}{%- endif -%}"
        "{{ '<bos>' }}{%- for m in messages -%}{{ '<start_of_turn>' + "
        "('model' if m['role'] == 'assistant' else 'user') + '\\n' + m['content'] + "
        "'<end_of_turn>\\n' }}{%- endfor -%}"
        "{%- if add_generation_prompt -%}{{ '<start_of_turn>model\\n' }}{%- endif -%}"
    ),
}
SYSTEM_PROMPT = 'You know "oil & gas" {{ only }}.\nNothing else.'


def make_cases(tokenizer) -> list[dict]:
    """Per style, without and with a system prompt: template and conversations."""
    own = tokenizer.chat_template
    cases = []
    for style, template in STYLES.items():
        for system in (None, SYSTEM_PROMPT):
            tokenizer.chat_template = template or own
            apply_contract(tokenizer, Config(system_prompt=system))
            go = derive_pieces(tokenizer).to_go()
            cases.append(
                {"style": style, "system_prompt": system, "go": go, "messages": list(CHECKED)}
            )
    tokenizer.chat_template = own
    return cases


def render(case: dict) -> list[str]:
    """What Go makes of a case's conversations; UserError where Go fails."""
    given = {"template": case["go"], "cases": [{"messages": m} for m in case["messages"]]}
    done = subprocess.run(
        ["go", "run", str(PROGRAM)], input=json.dumps(given), capture_output=True, text=True
    )
    if done.returncode:
        raise UserError(f"go run {PROGRAM.name}: {done.stderr.strip()[:300]}; needs Go 1.18+")
    return json.loads(done.stdout)


def main() -> int:
    """Render every case; write or compare."""
    parser = argparse.ArgumentParser(description="Golden outputs of the Ollama templates.")
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    arguments = parser.parse_args()
    folder = BASE_FOLDER / "smollm2-135m-instruct"
    cases = make_cases(load_tokenizer(ModelSource("embedded", str(folder))))
    golden = [{**case, "rendered": render(case)} for case in cases]
    text = json.dumps(golden, indent=1, ensure_ascii=False) + "\n"
    if not arguments.check:
        write_text(GOLDEN, text)
    elif GOLDEN.read_text(encoding="utf-8") != text:
        raise UserError(f"{GOLDEN.name}: differs from what Go renders; run without --check")
    print(f"{len(golden)} templates, {sum(len(c['rendered']) for c in golden)} conversations")
    return 0


if __name__ == "__main__":
    run_main(main)
