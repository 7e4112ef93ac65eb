"""General texts as blocks of tokens that training rehearses (see fast.rehearsal)."""

import math
from collections.abc import Sequence

from config import Config
from errors import UserError
from fast.rehearsal import BLOCK, USES, Rehearsal, cut_blocks
from general_texts import GeneralText
from prompt_contract import answer_ending, render_text
from tokenization import encode


def make_rehearsal(
    config: Config, texts: Sequence[GeneralText], pairs: int, tokenizer, model
) -> Rehearsal | None:
    """The blocks and how they enter the loss; None without texts.

    Args:
        pairs: to train on; a short run prepares no more blocks than it has use for.

    Raises:
        UserError: the texts are shorter than one block.
    """
    if not texts:
        return None
    ids = encode(tokenizer, render_texts(texts, tokenizer))
    hidden = model.config.get_text_config().hidden_size
    blocks = cut_blocks(ids, hidden, 2 if config.bf16 or config.fp16 else 4)
    if not len(blocks):
        raise UserError(f"{config.rehearsal_file}: holds fewer than {BLOCK} tokens; add texts")
    count = min(config.rehearsal_blocks, len(blocks))
    micro_steps = config.num_train_epochs * pairs / config.per_device_train_batch_size
    wanted = max(count, math.ceil(micro_steps * count / USES))
    return Rehearsal(blocks[:wanted], config.rehearsal_weight, count)


def render_texts(texts: Sequence[GeneralText], tokenizer) -> list[str]:
    """Each text as the model sees it: bare, or a whole turn of its chat template."""
    ending = answer_ending(tokenizer)
    return [
        render_text(tokenizer, t.prompt) + t.text + ending if t.prompt else f"{t.text}\n\n"
        for t in texts
    ]
