"""General texts as blocks of tokens that training rehearses (see fast.rehearsal)."""

import math
from collections.abc import Sequence

from config import Config
from errors import UserError
from fast.rehearsal import BLOCK, MOST_STATES, USES, Rehearsal, cut_blocks, spread_blocks
from general_texts import GeneralText
from prompt_contract import answer_ending, render_text
from tokenization import encode


def make_rehearsal(
    config: Config, texts: Sequence[GeneralText], pairs: int, tokenizer, state_bytes: int
) -> Rehearsal | None:
    """The blocks and how they enter the loss; None without texts. How many are used is said.

    Which ones does not depend on how a batch is split into micro-steps.

    Args:
        pairs: in the training set; a short run prepares no more blocks than it has use for.
        state_bytes: of one of the reference's hidden states, which are kept for all blocks.

    Raises:
        UserError: the texts are shorter than one block.
    """
    if not texts:
        return None
    ids = encode(tokenizer, render_texts(texts, tokenizer))
    found = cut_blocks(ids, find_opening(tokenizer))
    if not len(found):
        raise UserError(f"{config.rehearsal_file}: holds fewer than {BLOCK} tokens; add texts")
    steps = config.max_steps or math.inf
    seen = min(steps * config.effective_batch, config.num_train_epochs * pairs)
    wanted = max(config.rehearsal_blocks, math.ceil(seen * config.rehearsal_per_pair / USES))
    blocks = spread_blocks(found, min(wanted, MOST_STATES // (BLOCK * state_bytes)))
    print(f"rehearsal: {len(blocks)} of {len(found)} blocks of {config.rehearsal_file}")
    return Rehearsal(blocks, config.rehearsal_weight, min(config.rehearsal_blocks, len(blocks)))


def find_opening(tokenizer) -> list[int]:
    """What the tokenizer itself puts before any text: the BOS of Llama or Gemma, often nothing.

    Without it such a model predicts next to nothing (EleutherAI/lm-evaluation-harness, pull 1465).
    """
    whole, bare = (tokenizer("a", add_special_tokens=add)["input_ids"] for add in (True, False))
    before = len(whole) - len(bare)
    return whole[:before] if whole[before:] == bare else []


def render_texts(texts: Sequence[GeneralText], tokenizer) -> list[str]:
    """Each text as the model sees it: bare, or a whole turn of its chat template."""
    ending = answer_ending(tokenizer)
    return [
        render_text(tokenizer, t.prompt) + t.text + ending if t.prompt else f"{t.text}\n\n"
        for t in texts
    ]
