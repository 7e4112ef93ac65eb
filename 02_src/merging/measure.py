"""A candidate against the model that was trained: the adapter on its 4-bit base.

Per answer token KL(trained || candidate) over the whole vocabulary, top-1 agreement and the
largest difference of a logit; then what users see: grounding accuracy of free answers, and drift,
the perplexity on neutral text as a multiple of the untrained base's.
"""

import gc
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from tqdm.auto import tqdm

from attention_plans import without_cudnn_plans
from config import Config
from evaluation.drift import measure_drift
from generation import generate_answers
from grounding import GROUNDED, judge_answer
from hardware import Device
from merging.sample import Sample
from statistics_of_runs import Share, share_of
from tokenization import tokenize_pairs
from trained_models import load_adapter, load_merged

ANSWER_TOKENS = 32  # scored per answer, at most: bounds the memory of the trained model's logits


@dataclass(frozen=True)
class Trained:
    """What the trained model did on the sample; the yardstick."""

    logits: list[torch.Tensor]  # per pair [T, V], on the CPU, in the model's own dtype
    grounding: Share
    drift: float | None
    base_perplexity: float | None

    def to_dict(self) -> dict:
        """For merge_report.json."""
        return {"grounding": self.grounding.to_dict(), "drift": self.drift}


@dataclass(frozen=True)
class Comparison:
    """A candidate's figures against the trained model's."""

    mean_kl: float  # nats per answer token
    max_kl: float
    top1_agreement: float
    largest_logit_difference: float
    tokens: int
    grounding: Share
    drift: float | None  # perplexity on neutral text over the untrained base's

    def to_dict(self) -> dict:
        """For merge_report.json."""
        return asdict(self)


def measure_trained(run_folder: Path, device: Device, sample: Sample) -> Trained:
    """The yardstick: the finished run, computed by PEFT and none of our own layers."""
    model, tokenizer, config = load_adapter(run_folder, device)
    logits = list(read_logits(model, tokenizer, config, sample, "trained model"))
    grounding = measure_grounding(model, tokenizer, config, sample, "trained model")
    perplexity = measure_perplexity(model, tokenizer, sample, "trained model")
    with model.disable_adapter():
        base = measure_perplexity(model, tokenizer, sample, "base")
    del model
    free_memory()
    drift = perplexity / base if base else None
    return Trained(logits, grounding, drift, base)


def measure_candidate(
    folder: Path, device: Device, config: Config, sample: Sample, trained: Trained
) -> Comparison:
    """A merged folder, loaded as anyone would load it, against the trained model."""
    model, tokenizer = load_merged(folder, device)
    compared = compare_model(model, tokenizer, config, sample, trained, folder.name)
    del model
    free_memory()
    return compared


def compare_model(
    model, tokenizer, config: Config, sample: Sample, trained: Trained, label: str
) -> Comparison:
    """A loaded model against the trained one."""
    kls, agreements, largest = [], [], 0.0
    rows = read_logits(model, tokenizer, config, sample, label)
    for before, after in zip(trained.logits, rows, strict=True):
        kl, same, difference = compare_logits(before.float(), after.float())
        kls.append(kl)
        agreements.append(same)
        largest = max(largest, difference)
    kl = torch.cat(kls)
    perplexity = measure_perplexity(model, tokenizer, sample, label)
    return Comparison(
        mean_kl=kl.mean().item(),
        max_kl=kl.max().item(),
        top1_agreement=torch.cat(agreements).float().mean().item(),
        largest_logit_difference=largest,
        tokens=len(kl),
        grounding=measure_grounding(model, tokenizer, config, sample, label),
        drift=perplexity / trained.base_perplexity if perplexity else None,
    )


def compare_logits(
    before: torch.Tensor, after: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, float]:
    """(KL(before || after) per token [T], same most likely token [T], largest difference)."""
    first, second = before.log_softmax(-1), after.log_softmax(-1)  # [T, V]
    kl = (first.exp() * (first - second)).sum(-1)
    same = before.argmax(-1) == after.argmax(-1)
    return kl, same, (before - after).abs().max().item()


@torch.inference_mode()
def read_logits(model, tokenizer, config: Config, sample: Sample, label: str):
    """Yield, per pair, the logits [T, V] that predict the chosen answer's first tokens."""
    rows = tokenize_pairs(sample.pairs, tokenizer, config).rows
    for row in tqdm(rows, desc=f"{label}: answer tokens", unit="pair", leave=False):
        prompt, answer = row["prompt_ids"], row["chosen_ids"][:ANSWER_TOKENS]
        ids = torch.tensor([prompt + answer], device=model.device)
        with without_cudnn_plans():
            logits = model(input_ids=ids, use_cache=False).logits[0]
        yield logits[len(prompt) - 1 : -1].cpu()


def measure_grounding(model, tokenizer, config: Config, sample: Sample, label: str) -> Share:
    """Share of the asked questions whose free, greedy answer says an accepted expansion."""
    prompts = [pair.prompt for pair in sample.asked]
    answers = generate_answers(
        model, tokenizer, prompts, config.max_new_tokens, config.generation_batch_size,
        label=f"{label}: answers",
    )  # fmt: skip
    return share_of(list(judge_all(sample, answers)))


def judge_all(sample: Sample, answers: list[str]):
    """Yield whether each answer to an asked question is right."""
    for pair, answer in zip(sample.asked, answers, strict=True):
        competing = pair.row.get("competing") or []
        yield judge_answer(answer, pair.row["accepted"], competing).outcome == GROUNDED


def measure_perplexity(model, tokenizer, sample: Sample, label: str) -> float | None:
    """Perplexity per token on the neutral passages; None without any."""
    if not sample.passages:
        return None
    name = f"{label}: neutral text"
    found = measure_drift(model, tokenizer, sample.passages, False, name, batch_size=2)
    return math.exp(sum(f["nll"] for f in found) / sum(f["tokens"] for f in found))


def free_memory() -> None:
    """Give the memory of a model that is no longer referenced back before the next one loads."""
    gc.collect()
    torch.cuda.empty_cache()
