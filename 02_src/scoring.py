"""Log-probabilities of answers: the pairs of a test split, scored through packed rows."""

from collections.abc import Sequence

import torch
from tqdm.auto import tqdm

from attention_plans import without_cudnn_plans
from fast.collator import PackedPreferenceCollator
from fast.forward import PACKED, find_obstacle, score_packed
from shrinking_batches import for_batches


@torch.inference_mode()
def score_pairs(
    model, pad_id: int, rows: Sequence[dict], batch_size: int = 16, label: str = "scoring"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Summed log-probs (chosen [n], rejected [n]) of tokenised pairs, fp32 on the CPU.

    `model` may carry an adapter; switch it off around the call for the reference. The prompt of
    a pair is computed once where the model can run packed rows, else for each answer.
    """
    collator = PackedPreferenceCollator(pad_token_id=pad_id)
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i]["prompt_ids"]))
    logps = torch.zeros(2, len(rows))
    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    score = score_padded if find_obstacle(causal) else score_packed_rows
    with tqdm(total=len(rows), desc=label, unit="pair", leave=False) as bar:

        def score_batch(chosen: Sequence[int]) -> None:
            batch = collator([rows[i] for i in chosen])
            batch = {name: tensor.to(causal.device) for name, tensor in batch.items()}
            logps[:, chosen] = score(causal, batch).float().cpu()
            bar.update(len(chosen))

        for_batches(order, batch_size, score_batch)
    return logps[0], logps[1]


def score_packed_rows(causal, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """[2, B] summed log-probs; each prompt computed once."""
    packed = {name: batch[f"packed_{name}"] for name in PACKED}
    logps = score_packed(causal, packed)[0]
    rows, width = batch["input_ids"].shape
    return (
        logps.new_zeros(rows).index_add(0, batch["packed_places"] // (width - 1), logps).view(2, -1)
    )


def score_padded(causal, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """[2, B] summed log-probs through the model's own padded forward."""
    ids, mask = batch["input_ids"], batch["completion_mask"][:, 1:]
    with without_cudnn_plans():
        logits = causal(input_ids=ids, attention_mask=batch["attention_mask"]).logits
    logits = logits[:, :-1].float()
    logps = logits.log_softmax(-1).gather(2, ids[:, 1:, None]).squeeze(2)
    return (logps * mask).sum(1).view(2, -1)
