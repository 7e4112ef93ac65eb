"""The prompt contract: training, evaluation, inference, merge and export see the same tokens.

System prompt and date are written into the chat template itself, so plain transformers renders
the contract too. prompt_contract.json keeps the token ids of three canary prompts; every later
stage renders them again and refuses on a difference.
"""

import json
from pathlib import Path

from config import Config, resolve_path, show_path, write_text
from errors import UserError
from utils.formatting import Message, format_prompt

CONTRACT_FILE = "prompt_contract.json"
START, END = "{#- prompt contract -#}", "{#- end of contract -#}"
LARGEST_TEMPLATE = 200_000  # characters; rendered in transformers' sandbox
PROBE = "What does the probe say?"
CANARIES = (
    format_prompt("What does DP stand for?"),
    format_prompt("What does ROP mean here?", context="ROP fell in the chert; 40 % less."),
    format_prompt("Expand BOP – briefly.", system="You answer in one line."),
)


def apply_contract(tokenizer, config: Config) -> None:
    """Bake system prompt, date and no-thinking into tokenizer.chat_template, in place.

    Raises:
        UserError: the model has no chat template, or the configured one does not render.
    """
    template = read_template(tokenizer, config)
    folds_system = not renders_system(tokenizer, template)
    prelude = write_prelude(config, folds_system)
    tokenizer.chat_template = f"{START}{prelude}{END}{template}"
    if render_text(tokenizer, format_prompt(PROBE)).rstrip().endswith("<think>"):
        tokenizer.chat_template += (
            '{%- if add_generation_prompt -%}{{ "\\n</think>\\n\\n" }}{%- endif -%}'
        )


def read_template(tokenizer, config: Config) -> str:
    """The template to use: the config's file, else the model's own; UserError if it is unusable."""
    template = tokenizer.chat_template
    if config.chat_template:
        file = resolve_path(config.chat_template)
        if not file.is_file():
            raise UserError(f"chat_template: {show_path(file)}: no such file")
        try:
            template = file.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise UserError(f"chat_template: {show_path(file)}: not UTF-8 text") from None
    if not isinstance(template, str):
        raise UserError(
            f"model_name: {config.model_name} has no chat template (a base model, not an instruct "
            "one?); set chat_template to a Jinja file"
        )
    if len(template) > LARGEST_TEMPLATE:
        raise UserError(
            f"chat_template: {len(template):,} characters; a template has some thousands, "
            f"{LARGEST_TEMPLATE:,} are the limit"
        )
    if START in template:
        raise UserError(f"model_name: {config.model_name} already carries a prompt contract")
    tokenizer.chat_template = template
    try:
        text = render_text(tokenizer, format_prompt(PROBE))
    except Exception as error:  # jinja2 raises its own and Python's errors
        reason = " ".join(str(error).split())[:160]
        raise UserError(f"chat_template: does not render: {reason}") from None
    if PROBE not in text:
        raise UserError("chat_template: the user's text does not appear in what it renders")
    return template


def renders_system(tokenizer, template: str) -> bool:
    """Whether the template accepts a system message and shows it."""
    tokenizer.chat_template = template
    try:
        return PROBE in render_text(tokenizer, format_prompt("Hello", system=PROBE))
    except Exception:  # templates refuse with jinja2's raise_exception
        return False


def write_prelude(config: Config, folds_system: bool) -> str:
    """Jinja that fixes date and thinking, adds the system prompt, and folds it where refused."""
    date = quote_jinja(config.template_date)
    parts = [
        "{%- set enable_thinking = false -%}",
        f"{{%- set date_string = {date} -%}}",
        f"{{%- macro strftime_now(format) -%}}{{{{ {date} }}}}{{%- endmacro -%}}",
    ]
    if config.system_prompt:
        system = quote_jinja(config.system_prompt)
        parts.append(
            "{%- if messages[0]['role'] != 'system' -%}"
            f"{{%- set messages = [{{'role': 'system', 'content': {system}}}] + messages -%}}"
            "{%- endif -%}"
        )
    if folds_system:
        parts.append(
            "{%- if messages[0]['role'] == 'system' -%}{%- set messages = [{'role': 'user',"
            " 'content': messages[0]['content'] + '\\n\\n' + messages[1]['content']}]"
            " + messages[2:] -%}{%- endif -%}"
        )
    return "".join(parts)


def quote_jinja(text: str) -> str:
    """`text` as a Jinja string literal."""
    return json.dumps(text, ensure_ascii=False)


def render_text(tokenizer, messages: list[Message]) -> str:
    """The prompt of `messages` as text, up to where the answer begins."""
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


def render_ids(tokenizer, messages: list[Message]) -> list[int]:
    """The prompt of `messages` as token ids."""
    return tokenizer(render_text(tokenizer, messages), add_special_tokens=False)["input_ids"]


def answer_ending(tokenizer) -> str:
    """What the template writes after an answer, up to and with the end-of-turn token."""
    probe = [*format_prompt("Hello"), {"role": "assistant", "content": PROBE}]
    text = tokenizer.apply_chat_template(probe, tokenize=False)
    after = text[text.rindex(PROBE) + len(PROBE) :]
    for token in (tokenizer.convert_ids_to_tokens(i) for i in eos_ids(tokenizer)):
        if token in after:
            return after[: after.index(token) + len(token)]
    return tokenizer.eos_token


def eos_ids(tokenizer) -> list[int]:
    """Tokens that end an answer: EOS and the turn-ending tokens chat models use."""
    turn_ends = ("<|eot_id|>", "<|im_end|>", "<end_of_turn>", "<|end|>", "<|endoftext|>")
    vocabulary = tokenizer.get_vocab()
    ids = [tokenizer.eos_token_id, *(vocabulary[t] for t in turn_ends if t in vocabulary)]
    return list(dict.fromkeys(ids))


def describe_contract(tokenizer, config: Config) -> dict:
    """The contract as it is saved."""
    return {
        "model_name": config.model_name,
        "system_prompt": config.system_prompt,
        "template_date": config.template_date,
        "chat_template": tokenizer.chat_template,
        "eos_ids": eos_ids(tokenizer),
        "pad_id": tokenizer.pad_token_id,
        "canaries": [{"messages": m, "ids": render_ids(tokenizer, m)} for m in CANARIES],
    }


def write_contract(tokenizer, config: Config, folder: Path) -> None:
    """Write prompt_contract.json into `folder`."""
    text = json.dumps(describe_contract(tokenizer, config), indent=1, ensure_ascii=False)
    write_text(folder / CONTRACT_FILE, text + "\n")


def read_contract(folder: Path) -> dict:
    """The contract of a run or merged model; UserError when missing or damaged."""
    file = folder / CONTRACT_FILE
    try:
        contract = json.loads(file.read_text(encoding="utf-8"))
        if not contract["canaries"] or not contract["eos_ids"]:
            raise KeyError
        if not all(c["messages"][-1]["content"] and c["ids"] for c in contract["canaries"]):
            raise KeyError
        return contract
    except FileNotFoundError:
        raise UserError(f"{show_path(file)}: missing; train again, or copy it back") from None
    except (ValueError, KeyError, TypeError, IndexError):
        raise UserError(f"{show_path(file)}: damaged; train again, or restore it") from None


def check_contract(tokenizer, folder: Path) -> dict:
    """Render the canaries with `tokenizer`; UserError when one differs from training's tokens."""
    contract = read_contract(folder)
    for canary in contract["canaries"]:
        found = render_ids(tokenizer, canary["messages"])
        if found != canary["ids"]:
            text = canary["messages"][-1]["content"]
            raise UserError(
                f"{show_path(folder)}: the tokenizer or chat template changed since training "
                f"(the prompt {text!r} renders to other tokens); restore the folder's tokenizer "
                "files or train again"
            )
    return contract
