"""Conversations at the terminal, piped questions and files of questions."""

import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path

from chat_models import Chat
from config import resolve_path, show_path, write_text
from errors import UserError, escape_controls
from utils.formatting import Message, check_prompt, format_prompt

HELP = """ask a question; each answer sees what came before
/base    the untrained base answers from here on, the last question first
/tuned   the tuned model answers again
/both    both answer; the conversation goes on with the tuned model's answer
/new     forget the conversation
/quit    end (as an empty line and Ctrl-D do); Ctrl-C stops an answer"""
SIDES = {"/tuned": (False,), "/base": (True,), "/both": (True, False)}
LABELS = {True: "base", False: "tuned"}


def converse(chat: Chat) -> None:
    """Read questions until /quit, an empty line or Ctrl-D."""
    print(HELP)
    sides = SIDES["/base"] if chat.use_base else SIDES["/tuned"]
    history: list[Message] = []
    while True:
        try:
            line = input("> ").strip()
        except EOFError:
            print()
            return
        if line in ("", "/quit"):
            return
        if line == "/new":
            history = []
        elif line in SIDES:
            sides = SIDES[line]
            if history:  # the last question again, to the other side
                answer_turn(chat, history[:-1], sides)
        elif line.startswith("/"):
            print(HELP)
        else:
            question = [*history, *format_prompt(line)]
            answer = answer_turn(chat, question, sides)
            history = [*question, {"role": "assistant", "content": answer}]


def answer_turn(chat: Chat, prompt: list[Message], sides: tuple[bool, ...]) -> str:
    """Print each side's answer as it comes; return the last one, the tuned model's where asked."""
    answer = ""
    for use_base in sides:
        if len(sides) > 1 or use_base:
            print(f"{LABELS[use_base]}: ", end="")
        answer = print_answer(chat, prompt, use_base)
    return answer


def print_answer(chat: Chat, prompt: list[Message], use_base: bool | None = None) -> str:
    """Print an answer as it comes; return it. Ctrl-C ends the answer, not the conversation."""
    pieces = []
    stream = chat.ask(prompt, use_base)
    try:
        for piece in stream:
            print(escape_controls(piece), end="", flush=True)
            pieces.append(piece)
    except KeyboardInterrupt:
        stream.close()
        if not sys.stdin.isatty():
            raise
    print()
    return "".join(pieces).strip()


def answer_lines(chat: Chat, lines: Iterable[str], sides: tuple[bool, ...], as_json: bool) -> None:
    """Answer each non-empty line of standard input, on a line of its own."""
    for line in lines:
        if line.strip():
            answer_once(chat, format_prompt(line), sides, as_json)


def answer_once(chat: Chat, prompt: list[Message], sides: tuple[bool, ...], as_json: bool) -> None:
    """One answer of each side: streamed text, or one JSON object."""
    if not as_json:
        answer_turn(chat, prompt, sides) if len(sides) > 1 else print_answer(chat, prompt, sides[0])
        return
    answers = {LABELS[side]: "".join(chat.ask(prompt, side)).strip() for side in sides}
    print(json.dumps({"question": prompt[-1]["content"], **answers}, ensure_ascii=False))


def answer_file(chat: Chat, file: str, output: str | None, sides: tuple[bool, ...]) -> int:
    """Answer a JSON Lines file of questions; returns how many.

    Args:
        chat: what to ask.
        file: rows with instruction (and context, system), prompt, or messages.
        output: file for the rows with the answers added; None: standard output.
        sides: who answers; the fields are called base and tuned.

    Raises:
        UserError: a row is not a question (file:line), or the output is the input.
    """
    path = resolve_input(file)
    if output and os.path.realpath(resolve_path(output)) == os.path.realpath(path):
        raise UserError(f"--output {output}: is the input; name another file")
    rows = read_questions(path)
    prompts = [prompt for _, prompt in rows]
    for side in sides:
        for (row, _), answer in zip(rows, chat.ask_all(prompts, side), strict=True):
            row[LABELS[side]] = answer
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row, _ in rows)
    if output:
        write_text(resolve_path(output), text)
    else:
        sys.stdout.write(text)
    return len(rows)


def resolve_input(file: str) -> Path:
    """A question file, from the working directory or the repository; UserError where absent."""
    path = Path(file) if Path(file).is_file() else resolve_path(file)
    if not path.is_file():
        raise UserError(f"--batch {show_path(path)}: no such file")
    return path


def read_questions(path: Path) -> list[tuple[dict, list[Message]]]:
    """(row, prompt) per line; UserError names the line that holds no question."""
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1):
        if line.strip():
            try:
                row = json.loads(line)
                rows.append((row, read_question(row)))
            except (ValueError, TypeError, AttributeError) as error:
                raise UserError(f"{show_path(path)}:{number}: not a question: {error}") from None
    if not rows:
        raise UserError(f"{show_path(path)}: holds no questions")
    return rows


def read_question(row: dict) -> list[Message]:
    """The prompt of one row; ValueError where it has none."""
    if "messages" in row or isinstance(row.get("prompt"), list):
        return check_prompt(row.get("messages") or row["prompt"])
    text = row.get("instruction", row.get("prompt"))
    if not isinstance(text, str) or not text.strip():
        raise ValueError("needs instruction, prompt or messages")
    return format_prompt(text, row.get("context"), row.get("system"))
