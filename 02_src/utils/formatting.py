"""Turn a pair into chat messages: the one place to change what the model is asked.

Training, validation, evaluation and inference all come through here. Adapt `format_prompt` to
your own prompt; the chat template that renders these messages is the model's own, or the file
named by the config key `chat_template`.
"""

from typing import Any

Message = dict[str, str]


def format_prompt(
    instruction: str, context: str | None = None, system: str | None = None
) -> list[Message]:
    """Messages of one question: `context`, where given, stands before it in the user's turn.

    `system` overrides the config's system_prompt for this question only.
    """
    user = f"{context.strip()}\n\n{instruction.strip()}" if context else instruction.strip()
    messages = [{"role": "user", "content": user}]
    return [{"role": "system", "content": system.strip()}, *messages] if system else messages


def format_row(row: dict[str, Any]) -> tuple[list[Message], str, str]:
    """One data row as (prompt messages, chosen answer, rejected answer).

    Understands instruction/chosen/rejected(/context/system), TRL's prompt/chosen/rejected, and
    conversations, where the prompt may be the common start of chosen and rejected.

    Raises:
        ValueError: the row has none of these forms; the text says what is missing.
    """
    chosen, rejected = row["chosen"], row["rejected"]
    if isinstance(chosen, list) or isinstance(rejected, list):
        return format_conversation(row.get("prompt"), chosen, rejected)
    prompt = row.get("instruction", row.get("prompt"))
    if isinstance(prompt, list):
        return check_prompt(prompt), chosen.strip(), rejected.strip()
    return (
        format_prompt(prompt, row.get("context"), row.get("system")),
        chosen.strip(),
        rejected.strip(),
    )


def format_conversation(
    prompt: list[Message] | str | None, chosen: list[Message], rejected: list[Message]
) -> tuple[list[Message], str, str]:
    """TRL's conversational form; without a prompt it is what both answers begin with."""
    chosen, rejected = check_messages(chosen, "chosen"), check_messages(rejected, "rejected")
    if prompt is None:
        shared = 0
        while shared < min(len(chosen), len(rejected)) and chosen[shared] == rejected[shared]:
            shared += 1
        prompt, chosen, rejected = chosen[:shared], chosen[shared:], rejected[shared:]
    if isinstance(prompt, str):
        prompt = format_prompt(prompt)
    if not prompt or len(chosen) != 1 or len(rejected) != 1:
        raise ValueError("chosen and rejected must differ in exactly one last assistant message")
    prompt = check_prompt(prompt)
    for field, (message,) in (("chosen", chosen), ("rejected", rejected)):
        if message["role"] != "assistant" or not message["content"].strip():
            raise ValueError(f"{field} must end in an assistant message that is not empty")
    return prompt, chosen[0]["content"].strip(), rejected[0]["content"].strip()


def check_prompt(messages: Any) -> list[Message]:
    """Messages that end in a question; ValueError otherwise."""
    messages = check_messages(messages, "prompt")
    if messages[-1]["role"] != "user" or not messages[-1]["content"].strip():
        raise ValueError("prompt must end in a user message that is not empty")
    return messages


def check_messages(messages: Any, field: str) -> list[Message]:
    """Messages reduced to role and content; ValueError where they are not messages."""
    if not isinstance(messages, list) or not messages:
        raise ValueError(f"{field} must be text or a list of messages")
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("content"), str):
            raise ValueError(f'{field} must hold messages {{"role": ..., "content": "..."}}')
        if message.get("role") not in ("system", "user", "assistant"):
            raise ValueError(f"{field} has a message with role {message.get('role')!r}")
    return [{"role": m["role"], "content": m["content"]} for m in messages]
