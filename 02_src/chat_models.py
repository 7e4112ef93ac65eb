"""Load what can be asked (adapter run, merged model, GGUF, untrained base) and ask it."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from config import Config, load_config, load_run_config, resolve_path, show_path
from errors import UserError
from hardware import Device, find_device
from utils.formatting import Message


@dataclass
class Chat:
    """A loaded model, how to ask it, and its untrained base for comparison."""

    model: object
    tokenizer: object
    max_new_tokens: int = 48
    temperature: float = 0.0
    use_base: bool = False
    config: Config | None = None  # of the run: names the base
    has_adapter: bool = False  # the base is the same model with its adapter off
    base: "Chat | None" = None  # loaded when a merged model's base is first asked

    def ask(self, prompt: list[Message], use_base: bool | None = None) -> Iterator[str]:
        """Yield the answer piece by piece.

        Args:
            prompt: the conversation so far, ending in a question.
            use_base: whether the untrained base answers; None takes the chat's own setting.

        Raises:
            UserError: the base is asked for and cannot be loaded.
        """
        from generation import stream_answer

        with self.choose(self.use_base if use_base is None else use_base) as chat:
            yield from stream_answer(
                chat.model, chat.tokenizer, self.shorten(prompt), self.max_new_tokens,
                self.temperature,
            )  # fmt: skip

    def ask_all(self, prompts: Sequence[list[Message]], use_base: bool | None = None) -> list[str]:
        """Answers to many prompts: in batches where greedy, one by one where sampled."""
        from generation import generate_answers

        if self.temperature > 0:
            return ["".join(self.ask(prompt, use_base)).strip() for prompt in prompts]
        with self.choose(self.use_base if use_base is None else use_base) as chat:
            size = self.config.generation_batch_size if self.config else 32
            return generate_answers(chat.model, chat.tokenizer, prompts, self.max_new_tokens, size)

    def choose(self, use_base: bool) -> "Chosen":
        """Context in which the tuned model, or its base, is the one that answers."""
        if use_base and not self.has_adapter and self.base is None:
            self.base = self.load_base()
        return Chosen(self, use_base)

    def load_base(self) -> "Chat":
        """The untrained base of a merged model, loaded beside it."""
        if self.config is None:
            return self
        print(f"loading the base {self.config.model_name}", file=sys.stderr)
        return load_base_chat(self.config)

    def shorten(self, prompt: list[Message]) -> list[Message]:
        """The conversation, without its oldest turns where it outgrows the model's context."""
        from prompt_contract import render_ids

        longest = getattr(self.model.config, "max_position_embeddings", 1 << 30)
        room = longest - self.max_new_tokens
        system = prompt[:1] if prompt[0]["role"] == "system" else []
        turns = prompt[len(system) :]
        while len(turns) > 1 and len(render_ids(self.tokenizer, system + turns)) > room:
            turns = turns[2:]
        if len(render_ids(self.tokenizer, system + turns)) > room:
            raise UserError(f"the question is longer than the model's context ({longest} tokens)")
        return system + turns


class Chosen:
    """Context: the model that answers; an adapter is off while its base does."""

    def __init__(self, chat: Chat, use_base: bool) -> None:
        self.chat = chat.base if use_base and not chat.has_adapter else chat
        off = use_base and chat.has_adapter
        self.adapter = chat.model.disable_adapter() if off else nullcontext()

    def __enter__(self) -> Chat:
        self.adapter.__enter__()
        return self.chat

    def __exit__(self, *problem) -> None:
        self.adapter.__exit__(*problem)


def load_chat(folder: str | Path, use_base: bool = False) -> Chat:
    """Load an adapter run, a merged model, or an exported .gguf.

    Raises:
        UserError: it is none of them, or its contract is broken.
    """
    place = resolve_path(folder)
    if not place.exists():
        raise UserError(
            f"--model {show_path(place)}: no such folder or .gguf; train and merge first, or see "
            "04_models/adapters and 04_models/merged"
        )
    config = load_run_config(place.parent if place.is_file() else place)
    device = find_device(config)
    model, tokenizer = load_files(place, device)
    has_adapter = (place / "adapter_config.json").is_file()
    return Chat(
        model, tokenizer, config.max_new_tokens,
        use_base=use_base, config=config, has_adapter=has_adapter,
    )  # fmt: skip


def load_files(place: Path, device: Device) -> tuple:
    """(model, tokenizer) of a folder or .gguf."""
    from trained_models import load_adapter, load_gguf, load_merged

    if place.is_file():
        return load_gguf(place, device)
    if (place / "adapter_config.json").is_file():
        return load_adapter(place, device, fused=True)[:2]
    return load_merged(place, device)


def load_base_chat(source: str | Config) -> Chat:
    """The untrained base of a config or config file, under the config's prompt contract."""
    config = source if isinstance(source, Config) else load_config(source)
    device = find_device(config)
    from qlora import load_policy

    model, tokenizer = load_policy(config, device)
    chat = Chat(model.eval(), tokenizer, config.max_new_tokens, config=config)
    chat.base = chat
    return chat
