"""Ollama's Modelfile: a Go template that renders what the contract's Jinja template renders.

The template is derived from the contract, whatever its style (ChatML, Llama 3, Gemma): what
stands before, between and after the turns is read off probes, and the result is compared with the
contract on conversations it was not made from. Ollama hands a template that mentions .Messages
the whole conversation, system turn first, for chat and for a single prompt.
"""

import json
from dataclasses import dataclass

from errors import UserError
from prompt_contract import CANARIES, render_text
from utils.formatting import Message

SYSTEM, USER, ASSISTANT = "zq1system", "zq2user", "zq3assistant"
SYSTEM_TURN = {"role": "system", "content": SYSTEM}
USER_TURN = {"role": "user", "content": USER}
ASSISTANT_TURN = {"role": "assistant", "content": ASSISTANT}
LONG_TALK = [SYSTEM_TURN, *[USER_TURN, ASSISTANT_TURN] * 2, USER_TURN]
CHECKED = (*CANARIES, LONG_TALK, LONG_TALK[1:], [SYSTEM_TURN, USER_TURN])


@dataclass(frozen=True)
class Pieces:
    """The fixed text around the turns of a conversation."""

    before_system: str
    before_first_user: str  # where no system turn came before; holds the baked system prompt
    after_system: str  # up to the user's text
    before_answer: str  # after a user's text, where an answer of the history follows
    after_answer: str  # up to the next user's text
    generation: str  # after the last user's text: the answer begins here

    def render(self, messages: list[Message]) -> str:
        """What the Go template makes of `messages`."""
        text, before = "", ""
        for message in messages:
            role = message["role"]
            start = {
                "system": self.before_system,
                "assistant": self.before_answer,
                "user": {"": self.before_first_user, "system": self.after_system}.get(
                    before, self.after_answer
                ),
            }[role]
            text, before = text + start + message["content"], role
        return text + self.generation

    def to_go(self) -> str:
        """The template; every fixed text is a quoted literal, so whitespace is what it says."""
        p = {name: write_literal(text) for name, text in vars(self).items()}
        return "\n".join(
            [
                '{{- $before := "" }}',
                "{{- range $i, $message := .Messages }}",
                '{{- if and (eq .Role "system") (eq $i 0) }}'
                + p["before_system"]
                + "{{ .Content }}",
                '{{- else if eq .Role "user" }}',
                '{{- if eq $before "" }}' + p["before_first_user"],
                '{{- else if eq $before "system" }}' + p["after_system"],
                "{{- else }}" + p["after_answer"],
                "{{- end }}{{ .Content }}",
                '{{- else if eq .Role "assistant" }}' + p["before_answer"] + "{{ .Content }}",
                "{{- end }}{{- $before = .Role }}",
                "{{- end }}" + p["generation"],
            ]
        )


def write_literal(text: str) -> str:
    """A Go template action that prints `text`; nothing for nothing."""
    return "{{ " + json.dumps(text, ensure_ascii=False) + " }}" if text else ""


def derive_pieces(tokenizer) -> Pieces:
    """The pieces of the contract's template.

    Raises:
        UserError: the template is more than pieces around turns, so no Go template is written.
    """
    first, generation = split_render(tokenizer, [USER_TURN])
    system, after_system, _ = split_render(tokenizer, [SYSTEM_TURN, USER_TURN])
    talk = [USER_TURN, ASSISTANT_TURN, USER_TURN]
    _, before_answer, after_answer, _ = split_render(tokenizer, talk)
    pieces = Pieces(system, first, after_system, before_answer, after_answer, generation)
    for messages in CHECKED:
        if pieces.render(messages) != render_text(tokenizer, messages):
            raise UserError(
                "Modelfile: the contract's chat template does more than put fixed text around the "
                f"turns (differs on a conversation of {len(messages)} turns); Ollama's template "
                "cannot follow it: export with --no_modelfile and write one by hand"
            )
    return pieces


def split_render(tokenizer, messages: list[Message]) -> list[str]:
    """The rendered text around the messages' contents; one piece more than there are messages."""
    rest, pieces = render_text(tokenizer, messages), []
    for message in messages:
        piece, found, rest = rest.partition(message["content"])
        if not found:
            raise UserError(
                f"Modelfile: the contract's chat template leaves out the {message['role']} turn; "
                "Ollama's template cannot follow it: export with --no_modelfile"
            )
        pieces.append(piece)
    return [*pieces, rest]


def write_modelfile(tokenizer, gguf_name: str, ends: list[str], max_new_tokens: int) -> str:
    """The Modelfile's text: weights, template, where an answer ends, greedy decoding."""
    template = derive_pieces(tokenizer).to_go()
    stops = [f"PARAMETER stop {json.dumps(end, ensure_ascii=False)}" for end in ends]
    return "\n".join(
        [
            f"# ollama create NAME -f Modelfile && ollama run NAME; weights: {gguf_name}",
            f"FROM ./{gguf_name}",
            f'TEMPLATE """{template}"""',
            *stops,
            "PARAMETER temperature 0",
            f"PARAMETER num_predict {max_new_tokens}",
            "",
        ]
    )
