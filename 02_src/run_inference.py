"""Ask a model: one question, piped questions, or a conversation.

python 02_src/run_inference.py --model 04_models/merged/quickstart --prompt "What is ROP?"
python 02_src/run_inference.py --model 04_models/adapters/quickstart --base < questions.txt
python 02_src/run_inference.py --model 04_models/merged/quickstart
python 02_src/run_inference.py --config 00_configs/quickstart.json --prompt "What is ROP?"
"""

import argparse
import sys
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import errors  # first: from here on Ctrl-C is one line
from config import load_config, load_run_config, resolve_path, show_path
from errors import UserError, escape_controls
from hardware import find_device
from utils.formatting import Message, format_prompt


@dataclass
class Chat:
    """A loaded model and how to ask it."""

    model: object
    tokenizer: object
    max_new_tokens: int = 48
    temperature: float = 0.0
    use_base: bool = False

    def ask(self, prompt: list[Message]) -> Iterable[str]:
        """Yield the answer piece by piece; with use_base the adapter is off."""
        from generation import stream_answer

        adapter = self.model.disable_adapter() if self.use_base else nullcontext()
        with adapter:
            yield from stream_answer(
                self.model, self.tokenizer, prompt, self.max_new_tokens, self.temperature
            )


def load_chat(folder: str | Path, use_base: bool = False) -> Chat:
    """Load an adapter run or a merged model.

    Raises:
        UserError: the folder is neither, or use_base is asked of a merged model.
    """
    folder = resolve_path(folder)
    if not folder.is_dir():
        raise UserError(
            f"--model {show_path(folder)}: no such folder; train and merge first, or see "
            "04_models/adapters and 04_models/merged"
        )
    config = load_run_config(folder)
    device = find_device(config)
    from trained_models import load_adapter, load_merged

    if (folder / "adapter_config.json").is_file():
        model, tokenizer, config = load_adapter(folder, device)
    elif use_base:
        raise UserError("--base: a merged model has no base inside; give --model an adapter folder")
    else:
        model, tokenizer = load_merged(folder, device)
    return Chat(model, tokenizer, config.max_new_tokens, use_base=use_base)


def load_base_chat(config_file: str) -> Chat:
    """The untrained base model of a config, under the config's prompt contract."""
    config = load_config(config_file)
    device = find_device(config)
    from qlora import load_policy

    model, tokenizer = load_policy(config, device)
    return Chat(model.eval(), tokenizer, config.max_new_tokens)


def ask(folder: str | Path, question: str, context: str | None = None) -> str:
    """One answer of a run or merged model, as text."""
    return "".join(load_chat(folder).ask(format_prompt(question, context))).strip()


def print_answer(chat: Chat, prompt: list[Message]) -> str:
    """Print an answer as it comes; return it."""
    pieces = []
    for piece in chat.ask(prompt):
        print(escape_controls(piece), end="", flush=True)
        pieces.append(piece)
    print()
    return "".join(pieces).strip()


def answer_lines(chat: Chat, lines: Iterable[str]) -> None:
    """Answer each non-empty line of standard input on a line of its own."""
    for line in lines:
        if line.strip():
            print_answer(chat, format_prompt(line))


def converse(chat: Chat) -> None:
    """Read questions until an empty line, Ctrl-D or /quit; each answer sees what came before."""
    print("ask a question; /new forgets the conversation, /quit or Ctrl-D ends")
    history: list[Message] = []
    while True:
        try:
            question = input("> ").strip()
        except EOFError:
            print()
            return
        if question in ("", "/quit"):
            return
        if question == "/new":
            history = []
            continue
        history += format_prompt(question)
        history.append({"role": "assistant", "content": print_answer(chat, history)})


def main() -> int:
    """Parse, load, answer."""
    parser = argparse.ArgumentParser(description="Ask a trained model.")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--model", help="adapter run or merged model folder")
    source.add_argument("--config", help="ask this config's untrained base model")
    parser.add_argument("--prompt", help="one question; else standard input, else interactive")
    parser.add_argument("--context", help="text put before the question")
    parser.add_argument("--base", action="store_true", help="ask with the adapter switched off")
    parser.add_argument("--max-new-tokens", type=int, help="longest answer")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy")
    arguments = parser.parse_args()
    if arguments.temperature < 0 or (arguments.max_new_tokens or 1) < 1:
        raise UserError("--temperature must be >= 0 and --max-new-tokens >= 1")
    if arguments.config:
        chat = load_base_chat(arguments.config)
    else:
        chat = load_chat(arguments.model, arguments.base)
    chat.temperature = arguments.temperature
    chat.max_new_tokens = arguments.max_new_tokens or chat.max_new_tokens
    if arguments.prompt is not None:
        if not arguments.prompt.strip():
            raise UserError("--prompt: is empty; ask something")
        print_answer(chat, format_prompt(arguments.prompt, arguments.context))
    elif sys.stdin.isatty():
        converse(chat)
    else:
        answer_lines(chat, sys.stdin)
    return 0


if __name__ == "__main__":
    errors.run_main(main)
