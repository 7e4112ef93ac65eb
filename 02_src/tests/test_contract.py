"""The prompt contract: one text for training and plain transformers, whatever the chat template."""

import json
import random
from datetime import date
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from config import Config
from errors import UserError
from preferences import Pair
from prompt_contract import (
    CANARIES,
    CONTRACT_FILE,
    answer_ending,
    apply_contract,
    check_contract,
    eos_ids,
    read_contract,
    render_ids,
    render_text,
    write_contract,
)
from tokenization import tokenize_pairs
from utils.formatting import format_prompt

TURN = "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
TURNS = "{% for message in messages %}" + TURN + "{% endfor %}"
OPEN = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
PLAIN = TURNS + OPEN
REFUSES_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}" + TURN + "{% endfor %}" + OPEN
)
IGNORES_SYSTEM = (
    "{% for message in messages %}{% if message['role'] != 'system' %}" + TURN + "{% endif %}"
    "{% endfor %}" + OPEN
)
SWITCHES_THINKING = (
    TURNS + "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}"
    "{{- '<think>\n\n</think>\n\n' }}{%- endif %}{%- endif %}"
)
ALWAYS_THINKS = (
    TURNS + "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}"
)
PRINTS_TODAY = (
    "{{ '<|im_start|>system\nToday is ' + strftime_now('%d %b %Y') + '.\n' }}"
    "{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] }}"
    "{% set messages = messages[1:] %}{% endif %}{{ '<|im_end|>\n' }}" + TURNS + OPEN
)
PRINTS_TODAY_IN_A_MACRO = (
    "{%- macro head() -%}{{ 'Today: ' + strftime_now('%Y-%m-%d') }}{%- endmacro -%}"
    "{{ '<|im_start|>system\n' + head() + '<|im_end|>\n' }}" + TURNS + OPEN
)
LIKE_LLAMA = (  # the shape of Llama-3.2's template
    "{%- if not date_string is defined %}{%- if strftime_now is defined %}"
    '{%- set date_string = strftime_now("%d %b %Y") %}{%- else %}'
    '{%- set date_string = "01 Jan 2000" %}{%- endif %}{%- endif %}\n'
    "{%- if messages[0]['role'] == 'system' %}"
    "{%- set system_message = messages[0]['content'] | trim %}"
    "{%- set messages = messages[1:] %}{%- else %}{%- set system_message = '' %}{%- endif %}"
    '{{- "<|im_start|>system\n" }}{{- "Today Date: " + date_string + "\n\n" }}'
    '{{- system_message }}{{- "<|im_end|>" }}'
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message['role'] + '\n' + message['content'] | trim + '<|im_end|>' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)
TEMPLATES = {
    "own": None,
    "plain": PLAIN,
    "refuses_system": REFUSES_SYSTEM,
    "ignores_system": IGNORES_SYSTEM,
    "switches_thinking": SWITCHES_THINKING,
    "always_thinks": ALWAYS_THINKS,
    "prints_today": PRINTS_TODAY,
    "prints_today_in_a_macro": PRINTS_TODAY_IN_A_MACRO,
    "like_llama": LIKE_LLAMA,
}
DATED = ("prints_today", "prints_today_in_a_macro", "like_llama")
THINKING = ("switches_thinking", "always_thinks")
RELOADED = ("own", "refuses_system", "always_thinks", "prints_today_in_a_macro", "like_llama")
FOLDED = ("refuses_system", "ignores_system")
SYSTEM = "You know oil and gas."
PINNED = "26 Jul 2024"
NASTY_SYSTEMS = (
    "Say \"yes\" or 'no'.",
    "Use {{ braces }}, {% tags %} and {# notes #}.",
    "A backslash \\n is \\\\ not \n a line; tab\t.",
    "{%- endraw -%}{% endif %}]}} + messages",
    "Élan – «κόσμος» 深海 \U0001f6e2 \\é \u2028 end",
    "Ends with a backslash \\",
)
PROMPTS = (
    format_prompt("What is ROP?"),
    format_prompt("What is ROP?", context="In chert, ROP fell; 40 % less."),
    format_prompt("What is ROP?", system="You answer in one line."),
    [
        {"role": "user", "content": "What is ROP?"},
        {"role": "assistant", "content": "Rate of penetration."},
        {"role": "user", "content": "And WOB – “weight”?"},
    ],
)


def use_template(tokenizer, name: str, **values) -> None:
    """Give `tokenizer` a template of TEMPLATES and apply the contract."""
    tokenizer.chat_template = TEMPLATES[name] or tokenizer.chat_template
    apply_contract(tokenizer, Config(**values))


def save_run(tokenizer, folder: Path) -> Path:
    """Tokenizer and contract in a folder, as training leaves them."""
    folder.mkdir(exist_ok=True)
    tokenizer.save_pretrained(folder)
    write_contract(tokenizer, Config(), folder)
    return folder


def reload(folder: Path):
    """The tokenizer of a folder, by plain transformers."""
    return AutoTokenizer.from_pretrained(folder, local_files_only=True)


def refuse(call, *arguments) -> str:
    """The one-line text of the UserError that `call` raises."""
    with pytest.raises(UserError) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", RELOADED)
def test_plain_transformers_renders_the_contract_after_a_reload(tokenizer, tmp_path, name):
    use_template(tokenizer, name, system_prompt=SYSTEM)
    reloaded = reload(save_run(tokenizer, tmp_path / "run"))
    for messages in PROMPTS:
        text = reloaded.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        ids = reloaded.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
        assert text == render_text(tokenizer, messages)
        assert ids == render_ids(tokenizer, messages)
    check_contract(reloaded, tmp_path / "run")


@pytest.mark.parametrize("name", TEMPLATES)
def test_system_prompt_is_in_every_prompt_exactly_once(tokenizer, name):
    use_template(tokenizer, name, system_prompt=SYSTEM)
    text = render_text(tokenizer, format_prompt("What is ROP?"))
    assert text.count(SYSTEM) == text.count("What is ROP?") == 1
    assert text.index(SYSTEM) < text.index("What is ROP?")


@pytest.mark.parametrize("name", TEMPLATES)
def test_system_of_a_row_replaces_the_configured_one(tokenizer, name):
    use_template(tokenizer, name, system_prompt=SYSTEM)
    text = render_text(tokenizer, format_prompt("What is ROP?", system="Be brief."))
    assert text.count("Be brief.") == 1
    assert SYSTEM not in text


@pytest.mark.parametrize("system", NASTY_SYSTEMS)
@pytest.mark.parametrize("name", ["plain", "refuses_system"])
def test_system_prompt_is_kept_to_the_letter(tokenizer, name, system):
    use_template(tokenizer, name, system_prompt=system)
    assert system in render_text(tokenizer, format_prompt("What is ROP?"))


def test_system_prompt_of_all_odd_characters_survives_saving(tokenizer, tmp_path):
    system = "\n".join(NASTY_SYSTEMS)
    use_template(tokenizer, "plain", system_prompt=system)
    reloaded = reload(save_run(tokenizer, tmp_path / "run"))
    assert system in render_text(reloaded, format_prompt("What is ROP?"))


@pytest.mark.parametrize("name", FOLDED)
@pytest.mark.parametrize("row_system", [None, "Be brief."])
def test_refused_system_role_is_folded_into_the_users_turn(tokenizer, name, row_system):
    use_template(tokenizer, name, system_prompt=SYSTEM)
    text = render_text(tokenizer, format_prompt("What is ROP?", system=row_system))
    expected = f"<|im_start|>user\n{row_system or SYSTEM}\n\nWhat is ROP?<|im_end|>\n"
    assert text == expected + "<|im_start|>assistant\n"


def test_accepted_system_role_stays_a_turn_of_its_own(tokenizer):
    use_template(tokenizer, "plain", system_prompt=SYSTEM)
    text = render_text(tokenizer, format_prompt("What is ROP?"))
    assert text.startswith(f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n")


def test_without_a_system_prompt_the_models_own_default_stays(tokenizer):
    before = render_text(tokenizer, PROMPTS[0])
    apply_contract(tokenizer, Config())
    assert render_text(tokenizer, PROMPTS[0]) == before


@pytest.mark.parametrize("name", DATED)
def test_date_is_pinned_whatever_day_it_is_and_whoever_asks(tokenizer, name):
    use_template(tokenizer, name, template_date=PINNED)
    for options in ({}, {"date_string": "1 Jan 1999"}):
        text = tokenizer.apply_chat_template(
            PROMPTS[0], tokenize=False, add_generation_prompt=True, **options
        )
        assert PINNED in text
        assert "1999" not in text
        assert f"{date.today():%d %b %Y}" not in text
        assert f"{date.today():%Y-%m-%d}" not in text


@pytest.mark.parametrize("pinned", ['the "1st"', "1 Jan 2030"])
def test_configured_date_is_the_one_printed(tokenizer, pinned):
    use_template(tokenizer, "like_llama", template_date=pinned)
    assert f"Today Date: {pinned}\n" in render_text(tokenizer, PROMPTS[0])


@pytest.mark.parametrize("name", THINKING)
@pytest.mark.parametrize("options", [{}, {"enable_thinking": True}])
def test_thinking_is_closed_before_the_answer_begins(tokenizer, name, options):
    use_template(tokenizer, name)
    text = tokenizer.apply_chat_template(
        PROMPTS[0], tokenize=False, add_generation_prompt=True, **options
    )
    assert text.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert "<think>" not in tokenizer.apply_chat_template(PROMPTS[0], tokenize=False)


@pytest.mark.parametrize("name", [name for name in TEMPLATES if name not in THINKING])
@pytest.mark.parametrize("system", [None, SYSTEM])
def test_token_ids_equal_those_of_trl_up_to_the_end_of_turn(tokenizer, name, system):
    from trl.data_utils import _tokenize, common_prefix_length

    use_template(tokenizer, name, system_prompt=system)
    answers = ("Rate of penetration.", "“A rope” – 40 % less…")
    pairs = [Pair(prompt, *answers, "f:1") for prompt in PROMPTS]
    for row, prompt in zip(tokenize_pairs(pairs, tokenizer, Config()).rows, PROMPTS, strict=True):
        ids = _tokenize(tokenizer, prompt, add_generation_prompt=True)["input_ids"]
        assert row["prompt_ids"] == ids
        for column, answer in zip(("chosen_ids", "rejected_ids"), answers, strict=True):
            messages = [*prompt, {"role": "assistant", "content": answer}]
            whole = _tokenize(tokenizer, messages)["input_ids"]
            assert common_prefix_length(ids, whole) == len(ids)
            completion = whole[len(ids) :]
            end = completion.index(tokenizer.eos_token_id) + 1
            assert row[column] == completion[:end]


@pytest.mark.parametrize("name", TEMPLATES)
def test_every_answer_ends_with_a_token_that_stops_generation(tokenizer, name):
    use_template(tokenizer, name)
    pairs = [Pair(PROMPTS[0], "Rate of penetration.", "A rope.", "f:1")]
    row = tokenize_pairs(pairs, tokenizer, Config()).rows[0]
    stops = set(eos_ids(tokenizer))
    for column in ("chosen_ids", "rejected_ids"):
        assert row[column][-1] in stops
        assert not stops.intersection(row[column][:-1])


@pytest.mark.parametrize(
    ("after", "ending"),
    [
        ("<|im_end|>\n", "<|im_end|>"),
        (" <|im_end|>", " <|im_end|>"),
        ("<|endoftext|>", "<|endoftext|>"),
        ("\n### End", "<|im_end|>"),
    ],
)
def test_answer_ends_as_the_template_ends_it_or_with_eos(tokenizer, after, ending):
    tokenizer.chat_template = (
        "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '"
        + after.replace("\n", "\\n")
        + "' }}{% endfor %}"
    )
    assert answer_ending(tokenizer) == ending


def test_stop_tokens_start_with_eos_and_repeat_nothing(tokenizer):
    ids = eos_ids(tokenizer)
    assert ids[0] == tokenizer.eos_token_id
    assert len(ids) == len(set(ids))
    assert tokenizer.convert_tokens_to_ids("<|endoftext|>") in ids


def rewrite_role(tokenizer) -> None:
    """Another word in the template."""
    tokenizer.chat_template = tokenizer.chat_template.replace("assistant\n", "model\n")


def add_word(tokenizer) -> None:
    """A new token changes how texts split."""
    tokenizer.add_tokens(["ROP"])


def change_system(tokenizer) -> None:
    """Another system prompt in the template."""
    tokenizer.chat_template = tokenizer.chat_template.replace(SYSTEM, "You are a pirate.")


def drop_contract(tokenizer) -> None:
    """The model's own template, without the contract."""
    tokenizer.chat_template = PLAIN


@pytest.mark.parametrize("damage", [rewrite_role, add_word, change_system, drop_contract])
def test_tokenizer_that_changed_since_training_is_refused_in_one_line(tokenizer, tmp_path, damage):
    use_template(tokenizer, "plain", system_prompt=SYSTEM)
    folder = save_run(tokenizer, tmp_path / "run")
    changed = reload(folder)
    assert check_contract(changed, folder) == read_contract(folder)
    damage(changed)
    text = refuse(check_contract, changed, folder)
    assert text.startswith(f"{folder}: the tokenizer or chat template changed since training")
    assert "restore" in text


def test_missing_contract_is_named(tokenizer, tmp_path):
    text = refuse(check_contract, tokenizer, tmp_path)
    assert text.startswith(f"{tmp_path / CONTRACT_FILE}: missing; ")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"{}",
        b"\xff\xfe",
        b'{"canaries": [], "eos_ids": [2]}',
        b'{"canaries": [{"messages": [], "ids": []}], "eos_ids": []}',
        b'{"canaries": [{}], "eos_ids": [2]}',
        b'{"canaries": ["x"], "eos_ids": [2]}',
    ],
)
def test_damaged_contract_is_refused_in_one_line(tokenizer, tmp_path, content):
    (tmp_path / CONTRACT_FILE).write_bytes(content)
    text = refuse(check_contract, tokenizer, tmp_path)
    assert text.startswith(f"{tmp_path / CONTRACT_FILE}: damaged; ")


def test_contract_file_says_what_was_used(tokenizer, tmp_path):
    config = Config(system_prompt=SYSTEM, template_date=PINNED)
    apply_contract(tokenizer, config)
    write_contract(tokenizer, config, tmp_path)
    contract = json.loads((tmp_path / CONTRACT_FILE).read_text(encoding="utf-8"))
    assert contract["system_prompt"] == SYSTEM
    assert contract["template_date"] == PINNED
    assert contract["chat_template"] == tokenizer.chat_template
    assert contract["eos_ids"] == eos_ids(tokenizer)
    assert [c["ids"] for c in contract["canaries"]] == [render_ids(tokenizer, m) for m in CANARIES]
    assert len(CANARIES) == 3


@pytest.mark.parametrize(
    ("template", "text"),
    [
        (None, "has no chat template"),
        ("{{ 'hello' }}", "the user's text does not appear"),
        ("", "the user's text does not appear"),
        ("{% for message in messages %}", "chat_template: does not render: "),
        ("{{ raise_exception('not\nfor you') }}", "chat_template: does not render: "),
        ("{{ messages[0]['content'] + 3 }}", "chat_template: does not render: "),
    ],
)
def test_template_that_cannot_ask_a_question_is_refused(tokenizer, template, text):
    tokenizer.chat_template = template
    assert text in refuse(apply_contract, tokenizer, Config())


def test_contract_is_not_applied_twice(tokenizer):
    apply_contract(tokenizer, Config())
    assert "already carries a prompt contract" in refuse(apply_contract, tokenizer, Config())


def test_template_file_of_the_config_replaces_the_models_own(tokenizer, tmp_path):
    file = tmp_path / "mine.jinja"
    file.write_text("{{ 'Q: ' + messages[-1]['content'] + ' A:' }}", encoding="utf-8")
    apply_contract(tokenizer, Config(chat_template=str(file)))
    assert render_text(tokenizer, PROMPTS[0]) == "Q: What is ROP? A:"


@pytest.mark.parametrize(
    ("content", "text"), [(None, "no such file"), (b"\xff\xfe{{", "UTF-8"), (b"{{", "not render")]
)
def test_template_file_that_cannot_be_used_is_named(tokenizer, tmp_path, content, text):
    file = tmp_path / "mine.jinja"
    if content is not None:
        file.write_bytes(content)
    found = refuse(apply_contract, tokenizer, Config(chat_template=str(file)))
    assert found.startswith("chat_template: ")
    assert text in found


def test_contract_holds_for_random_texts_after_a_reload(tokenizer, tmp_path):
    use_template(tokenizer, "like_llama", system_prompt=SYSTEM)
    reloaded = reload(save_run(tokenizer, tmp_path / "run"))
    draw = random.Random(0)
    alphabet = "abc XYZ 019 .,;:?!'\"{}%#<>|\\/\n\té–深\U0001f6e2"
    for _ in range(100):
        text = "".join(draw.choices(alphabet, k=40))
        messages = format_prompt(text, context=text[::-1] or None)
        assert render_ids(reloaded, messages) == render_ids(tokenizer, messages)
