"""Ask a few validation questions while the model trains: does it say it yet?

A falling loss and a rising reward accuracy are no evidence of that. Greedy generation draws no
random numbers, and train or eval mode is put back, so training goes on as if nobody had asked.
Several processes share the questions; each then knows all answers.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch

import processes
from generation import generate_answers
from grounding import judge_answer, summarize_judgements
from preferences import Pair
from scoring import score_pairs

ANSWER_TOKENS = 24  # enough for the first sentence, half the time of an evaluation's answers
FEWEST_FOR_CORRELATION = 8


class ValidationSample:
    """The first few validation pairs that say which answers count as right."""

    def __init__(self, pairs: Sequence[Pair], rows: Sequence[dict], tokenizer, count: int) -> None:
        """
        Args:
            pairs, rows: validation pairs and their token ids, in the same order.
            tokenizer: carries the prompt contract.
            count: how many to ask.
        """
        asked = [i for i, pair in enumerate(pairs) if pair.row.get("accepted")][:count]
        self.pairs, self.rows = [pairs[i] for i in asked], [rows[i] for i in asked]
        self.tokenizer = tokenizer
        self.reference: tuple[torch.Tensor, torch.Tensor] | None = None

    def __len__(self) -> int:
        return len(self.pairs)

    def measure(self, model) -> dict[str, float]:
        """Shares of right, confused and displaced answers, ready to be logged.

        Args:
            model: the PeftModel in training; left in the mode it is in.
        """
        with undisturbed(model):
            if self.reference is None:
                with model.disable_adapter():
                    self.reference = self.score(model)
            answers = self.ask(model)
            policy = self.score(model)
        return self.judge(answers) | compare_scores(policy, self.reference, self.rows)

    def ask(self, model) -> list[str]:
        """Greedy answers to all questions."""
        prompts = [pair.prompt for pair in self.pairs[processes.cut_share(len(self))]]
        label = "validation answers"
        mine = generate_answers(model, self.tokenizer, prompts, ANSWER_TOKENS, label=label)
        return [answer for part in processes.gather(mine) for answer in part]

    def score(self, model) -> tuple[torch.Tensor, torch.Tensor]:
        """Summed log-probs (chosen [n], rejected [n])."""
        rows = self.rows[processes.cut_share(len(self))]
        pad = self.tokenizer.pad_token_id
        mine = torch.stack(score_pairs(model, pad, rows, label="validation log-probs"))
        chosen, rejected = torch.cat(processes.gather(mine), dim=1)
        return chosen, rejected

    def judge(self, answers: Sequence[str]) -> dict[str, float]:
        """Shares of right and of confused answers."""
        judged = [
            judge_answer(answer, pair.row["accepted"], pair.row.get("competing") or [])
            for answer, pair in zip(answers, self.pairs, strict=True)
        ]
        shares = summarize_judgements(judged)
        return {f"eval_{name}": shares[name].value for name in ("grounding", "confusion")}


def compare_scores(
    policy: tuple[torch.Tensor, torch.Tensor],
    reference: tuple[torch.Tensor, torch.Tensor],
    rows: Sequence[dict],
) -> dict[str, float]:
    """Displacement, and how the change of the margin goes with the difference in length."""
    change = policy[0] - reference[0]
    margins = (change - (policy[1] - reference[1])).numpy()
    found = {"eval_displaced": (change < 0).float().mean().item()}
    lengths = np.array([len(row["chosen_ids"]) - len(row["rejected_ids"]) for row in rows])
    if len(rows) >= FEWEST_FOR_CORRELATION and lengths.std() > 0 and margins.std() > 0:
        found["eval_length_correlation"] = float(np.corrcoef(margins, lengths)[0, 1])
    return found


@contextmanager
def undisturbed(model) -> Iterator[None]:
    """Eval mode inside; outside, mode and random numbers are as they were."""
    modes = [(module, module.training) for module in model.modules()]
    with torch.random.fork_rng():
        model.eval()
        try:
            yield
        finally:
            for module, training in modes:
                module.training = training
