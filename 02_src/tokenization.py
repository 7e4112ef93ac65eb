"""Pairs as token ids: the rendered prompt, and each answer up to its end-of-turn token.

Lengths are cut here, before TRL sees the data, and every cut is counted.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

from config import Config
from errors import UserError
from preferences import Pair
from prompt_contract import answer_ending, render_text
from token_cache import name_tokens, read_tokens, write_tokens
from utils.formatting import Message

SMALLEST_CACHED = 200  # pairs; fewer are tokenised as fast as they are looked up


@dataclass
class TokenizedPairs:
    """Rows with prompt_ids, chosen_ids, rejected_ids, the pairs they came from, and the cuts."""

    rows: list[dict[str, list[int]]]
    pairs: list[Pair]
    notices: list[str] = field(default_factory=list)


def tokenize_pairs(pairs: Sequence[Pair], tokenizer, config: Config) -> TokenizedPairs:
    """Token ids of `pairs` under the prompt contract and the config's length limits.

    max_prompt_length drops the start of the user's text and renders again, so the template stays
    whole. max_target_length and max_seq_length cut the end of an answer. A pair whose prompt
    leaves no room for an answer is left out. Done once: the ids are kept on disk (token_cache).
    """
    if len(pairs) < SMALLEST_CACHED:
        return tokenize_afresh(pairs, tokenizer, config)[0]
    file = name_tokens(pairs, tokenizer, config)
    cached = read_tokens(file)
    if cached is not None:
        rows, kept, notices = cached
        return TokenizedPairs(rows, [pairs[i] for i in kept], notices)
    done, kept = tokenize_afresh(pairs, tokenizer, config)
    write_tokens(file, done.rows, kept, done.notices)
    return done


def tokenize_afresh(
    pairs: Sequence[Pair], tokenizer, config: Config
) -> tuple[TokenizedPairs, list[int]]:
    """Token ids of `pairs`, and the index of each pair that was kept."""
    if config.num_proc:
        os.environ["RAYON_NUM_THREADS"] = str(config.num_proc)  # read when tokenizers starts
    ending = answer_ending(tokenizer)
    prompts = encode(tokenizer, [render_text(tokenizer, pair.prompt) for pair in pairs])
    chosen = encode(tokenizer, [pair.chosen + ending for pair in pairs])
    rejected = encode(tokenizer, [pair.rejected + ending for pair in pairs])
    done = TokenizedPairs([], [])
    cuts: dict[str, list[str]] = {"prompt": [], "answer": [], "dropped": []}
    kept = []
    for index, (pair, *ids) in enumerate(zip(pairs, prompts, chosen, rejected, strict=True)):
        row, cut = fit_lengths(pair, ids, tokenizer, config)
        for name in cut:
            cuts[name].append(pair.source)
        if row:
            done.rows.append(row)
            done.pairs.append(pair)
            kept.append(index)
    done.notices += describe_cuts(cuts, config)
    return done, kept


def require_rows(done: TokenizedPairs, config: Config) -> list[dict[str, list[int]]]:
    """The rows; UserError when there are none."""
    if not done.rows:
        raise UserError(
            f"max_seq_length: {config.max_seq_length} leaves no pair to train on; raise it"
        )
    return done.rows


def encode(tokenizer, texts: list[str]) -> list[list[int]]:
    """Token ids of each text, no special tokens added."""
    return tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []


def fit_lengths(
    pair: Pair, ids: Sequence[list[int]], tokenizer, config: Config
) -> tuple[dict[str, list[int]] | None, set[str]]:
    """(row, what was cut): the row is None where no answer fits behind the prompt."""
    prompt, chosen, rejected = ids
    cut = set()
    if config.max_prompt_length and len(prompt) > config.max_prompt_length:
        prompt = shorten_prompt(pair.prompt, tokenizer, config.max_prompt_length)
        cut.add("prompt")
    room = config.max_seq_length - len(prompt)
    if room < 1:
        return None, {"dropped"}
    room = min(room, config.max_target_length or room)
    if max(len(chosen), len(rejected)) > room:
        cut.add("answer")
    return {
        "prompt_ids": prompt,
        "chosen_ids": chosen[:room],
        "rejected_ids": rejected[:room],
    }, cut


def shorten_prompt(messages: list[Message], tokenizer, limit: int) -> list[int]:
    """Render with the start of the last user text dropped until the prompt has `limit` tokens."""
    *before, last = messages
    words = encode(tokenizer, [last["content"]])[0]
    ids = encode(tokenizer, [render_text(tokenizer, messages)])[0]
    while len(ids) > limit and words:
        words = words[max(1, len(ids) - limit) :]
        shorter = {**last, "content": tokenizer.decode(words)}
        ids = encode(tokenizer, [render_text(tokenizer, [*before, shorter])])[0]
    return ids


def describe_cuts(cuts: dict[str, list[str]], config: Config) -> list[str]:
    """One notice for each kind of cut, with the first place and the key that changes it."""
    texts = {
        "prompt": f"prompts were shortened to max_prompt_length={config.max_prompt_length}",
        "answer": "pairs had an answer cut (max_target_length, max_seq_length="
        f"{config.max_seq_length})",
        "dropped": f"pairs were left out: the prompt alone fills max_seq_length="
        f"{config.max_seq_length}",
    }
    return [
        f"{len(places)} {texts[kind]}; first at {places[0]}"
        for kind, places in cuts.items()
        if places
    ]
