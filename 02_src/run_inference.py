"""Ask a model: one question, piped questions, a file of them, a conversation, or a web page.

python 02_src/run_inference.py --model 04_models/merged/quickstart --prompt "What is ROP?"
python 02_src/run_inference.py --model 04_models/adapters/quickstart --both --json < questions.txt
python 02_src/run_inference.py --model 04_models/merged/quickstart --batch q.jsonl --output a.jsonl
python 02_src/run_inference.py --model 04_models/exported/quickstart/quickstart-q8_0.gguf
python 02_src/run_inference.py --config 00_configs/quickstart.json --prompt "What is ROP?"
python 02_src/run_inference.py --model 04_models/adapters/quickstart --web 8000

Without --prompt and --batch it reads standard input, or converses at a terminal: /base, /tuned
and /both choose who answers.
"""

import argparse
import sys
from pathlib import Path

import errors  # first: from here on Ctrl-C is one line
from chat_models import Chat, load_base_chat, load_chat
from chat_session import answer_file, answer_lines, answer_once, converse
from errors import UserError
from utils.formatting import format_prompt

LONGEST_ANSWER = 1 << 20  # tokens


def ask(folder: str | Path, question: str, context: str | None = None) -> str:
    """One answer of a run, merged model or GGUF, as text."""
    return "".join(load_chat(folder).ask(format_prompt(question, context))).strip()


def parse_arguments() -> argparse.Namespace:
    """The command line, checked before anything is loaded."""
    parser = argparse.ArgumentParser(description="Ask a trained model.")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--model", help="adapter run, merged model folder, or exported .gguf")
    source.add_argument("--config", help="ask this config's untrained base model")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--prompt", help="one question; else standard input, else interactive")
    where.add_argument("--batch", metavar="FILE", help="JSON Lines with instruction or messages")
    where.add_argument("--web", type=int, metavar="PORT", help="a page on 127.0.0.1; 0: any port")
    parser.add_argument("--context", help="text put before the question of --prompt")
    parser.add_argument("--system", help="system prompt of --prompt")
    parser.add_argument("--output", help="file for --batch; else standard output")
    who = parser.add_mutually_exclusive_group()
    who.add_argument("--base", action="store_true", help="ask the untrained base instead")
    who.add_argument("--both", action="store_true", help="ask base and tuned model")
    parser.add_argument("--json", action="store_true", help="one JSON object per question")
    parser.add_argument("--max-new-tokens", type=int, help="longest answer")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy")
    arguments = parser.parse_args()
    tokens = 1 if arguments.max_new_tokens is None else arguments.max_new_tokens
    if not 0 <= arguments.temperature <= 100 or not 1 <= tokens <= LONGEST_ANSWER:
        raise UserError("--temperature must be from 0 to 100 and --max-new-tokens >= 1")
    if arguments.prompt is not None and not arguments.prompt.strip():
        raise UserError("--prompt: is empty; ask something")
    if arguments.web is not None and not 0 <= arguments.web <= 65535:
        raise UserError(f"--web {arguments.web}: a port is from 0 to 65535")
    return arguments


def load(arguments: argparse.Namespace) -> Chat:
    """The chat that the command line asks for."""
    if arguments.config:
        chat = load_base_chat(arguments.config)
    else:
        chat = load_chat(arguments.model, arguments.base)
    chat.temperature = arguments.temperature
    chat.max_new_tokens = arguments.max_new_tokens or chat.max_new_tokens
    return chat


def main() -> int:
    """Parse, load, answer."""
    arguments = parse_arguments()
    chat = load(arguments)
    base_only = arguments.base or bool(arguments.config)
    sides = (True, False) if arguments.both else (base_only,)
    if arguments.web is not None:
        from chat_page import serve

        serve(chat, arguments.web)
    elif arguments.batch:
        count = answer_file(chat, arguments.batch, arguments.output, sides)
        if arguments.output:
            print(f"{count} answers: {arguments.output}")
    elif arguments.prompt is not None:
        prompt = format_prompt(arguments.prompt, arguments.context, arguments.system)
        answer_once(chat, prompt, sides, arguments.json)
    elif sys.stdin.isatty():
        converse(chat)
    else:
        answer_lines(chat, sys.stdin, sides, arguments.json)
    return 0


if __name__ == "__main__":
    errors.run_main(main)
