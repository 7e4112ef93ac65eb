"""How far a model has drifted on neutral text: perplexity, and KL from the reference, per token."""

from contextlib import nullcontext

import torch
from tqdm.auto import tqdm

from attention_plans import without_cudnn_plans
from shrinking_batches import for_batches

LONGEST_PASSAGE = 512  # tokens


@torch.inference_mode()
def measure_drift(
    model, tokenizer, texts: list[str], with_kl: bool, label: str, batch_size: int = 8
) -> list[dict]:
    """Per passage: tokens predicted, summed -log p, summed KL(policy || reference).

    The text is scored bare, without the chat template. With `with_kl` the model carries an
    adapter, and the reference is the adapter switched off; else kl is None.
    """
    found: list[dict] = []
    with tqdm(total=len(texts), desc=label, unit="passage", leave=False) as bar:

        def measure(batch: list[str]) -> None:
            found.extend(measure_batch(model, encode_passages(tokenizer, batch), with_kl))
            bar.update(len(batch))

        for_batches(texts, batch_size, measure)
    return found


def encode_passages(tokenizer, texts: list[str]):
    """Token ids and mask [B, S], padded on the right; with BOS where the tokenizer adds one."""
    return tokenizer(
        texts, padding=True, padding_side="right", truncation=True, max_length=LONGEST_PASSAGE,
        return_tensors="pt",
    )  # fmt: skip


def measure_batch(model, inputs, with_kl: bool) -> list[dict]:
    """measure_drift for one batch; the softmax runs passage by passage, to bound memory."""
    inputs = {name: inputs[name].to(model.device) for name in ("input_ids", "attention_mask")}
    with without_cudnn_plans():
        logits = model(**inputs, use_cache=False).logits  # [B, S, V]
        with model.disable_adapter() if with_kl else nullcontext():
            reference = model(**inputs, use_cache=False).logits if with_kl else None
    found = []
    for row, mask in enumerate(inputs["attention_mask"]):
        length = int(mask.sum())
        logps = logits[row, : length - 1].float().log_softmax(-1)  # [T, V]
        targets = inputs["input_ids"][row, 1:length]
        kl = None
        if reference is not None:
            other = reference[row, : length - 1].float().log_softmax(-1)
            kl = (logps.exp() * (logps - other)).sum().item()
        nll = -logps.gather(1, targets[:, None]).sum().item()
        found.append({"tokens": length - 1, "nll": nll, "kl": kl})
    return found
