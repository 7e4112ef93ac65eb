"""Rehearsal: the divergence is exact, rides in packed rows and graphs, and keeps what it is for."""

import copy
import json
import re

import pytest
import torch
from test_fast import MODELS, assert_close, make_rows, make_trainer
from test_graphs import FakeRecorder, assert_same, use_graphs
from tokenizers.processors import TemplateProcessing
from torch.nn import functional as F

from config import REPOSITORY, load_config
from errors import UserError
from fast import head
from fast.head import Divergence
from fast.rehearsal import BLOCK, METRIC, Rehearsal, cut_blocks, spread_blocks
from general_texts import GeneralText, load_texts
from rehearsal_texts import find_opening, make_rehearsal, render_texts


def make_blocks(count: int, weight: float = 2.0, drawn: int | None = None) -> Rehearsal:
    """Blocks of random tokens; all of them go with each batch unless `drawn` says fewer."""
    draw = torch.Generator().manual_seed(5)
    blocks = torch.randint(1, 96, (count, BLOCK), generator=draw)
    return Rehearsal(blocks, weight, count if drawn is None else drawn)


def run_training_step(trainer, numbers=None) -> tuple[list[float], dict[str, torch.Tensor]]:
    """([loss, divergence], gradients) of one training batch; of all rows without `numbers`."""
    trainer.model.train()
    trainer.model.zero_grad()
    rows = [trainer.train_dataset[i] for i in numbers or range(len(trainer.train_dataset))]
    loss = trainer.compute_loss(trainer.model, trainer.collate(rows, training=True))
    loss.backward()
    named = trainer.model.named_parameters()
    gradients = {name: p.grad.clone() for name, p in named if p.requires_grad}
    return [loss.item(), trainer._metrics["train"][METRIC][-1]], gradients


@pytest.mark.parametrize("softcap, scale, biased", [(None, 1.0, False), (4.0, 0.5, True)])
def test_divergence_and_its_gradient_equal_torchs(softcap, scale, biased, monkeypatch):
    monkeypatch.setattr(head, "DIVERGING_AT_ONCE", 3 * 50)  # four chunks
    torch.manual_seed(0)
    hidden, states = torch.randn(11, 16).requires_grad_(), torch.randn(11, 16)
    weight, bias = torch.randn(50, 16), torch.randn(50) if biased else None
    slopes = torch.randn(11)

    def predict(x: torch.Tensor) -> torch.Tensor:
        logits = F.linear(x, weight, bias) * scale
        return (logits if softcap is None else softcap * (logits / softcap).tanh()).log_softmax(-1)

    found = Divergence.apply(hidden, states, weight, bias, softcap, scale)
    expected = F.kl_div(predict(hidden), predict(states), log_target=True, reduction="none").sum(-1)
    assert torch.allclose(found, expected, atol=1e-5)
    (slope,) = torch.autograd.grad(found, hidden, slopes)
    (exact,) = torch.autograd.grad(expected, hidden, slopes)
    assert (slope - exact).norm() <= 1e-5 * exact.norm()


@pytest.mark.parametrize("name", MODELS)
def test_blocks_in_packed_rows_equal_a_forward_of_their_own(name, tmp_path, tokenizer):
    options = {"loss_type": ["sigmoid", "sft"], "rehearsal": make_blocks(3)}
    rows = make_rows(6)
    packed = make_trainer(tmp_path, name, True, tokenizer, rows, **dict(options))
    apart = make_trainer(tmp_path, name, False, tokenizer, rows, **dict(options))
    assert packed.fast_obstacle is None
    found, expected = run_training_step(packed), run_training_step(apart)
    assert_same(found, expected)
    assert found[0][1] > 1e-4
    usual = packed.compute_loss(packed.model.eval(), packed.collate(packed.train_dataset.to_list()))
    assert_close([found[0][0]], [usual.item() + 2.0 * found[0][1]])  # eval: TRL's loss alone


def test_an_untrained_adapter_diverges_nowhere(tmp_path, tokenizer):
    trainer = make_trainer(
        tmp_path, "llama", True, tokenizer, make_rows(4), rehearsal=make_blocks(2)
    )
    for name, parameter in trainer.model.named_parameters():
        if "lora_B" in name:
            parameter.data.zero_()
    assert abs(run_training_step(trainer)[0][1]) < 1e-6


def test_graphs_replay_rehearsal_too(tmp_path, tokenizer):
    rows, blocks = make_rows(6), make_blocks(9, drawn=2)
    eager, graphed = (
        make_trainer(tmp_path, "llama", True, tokenizer, rows, rehearsal=blocks) for _ in range(2)
    )
    scorer = use_graphs(graphed, FakeRecorder())
    for numbers in ([0, 1, 2], [5, 1, 2], [3, 4, 0], [1, 0, 5]):  # the first one runs eagerly
        assert_same(run_training_step(graphed, numbers), run_training_step(eager, numbers))
    assert [bucket.recited for bucket in scorer.buckets] == [2 * BLOCK]
    assert scorer.failure is None


def test_states_come_from_the_cache_the_second_time(tmp_path, tokenizer, capsys):
    for said in (1, 0):
        make_trainer(tmp_path, "llama", True, tokenizer, make_rows(4), rehearsal=make_blocks(2))
        assert ("general text" in capsys.readouterr().err) == bool(said)
    other = make_blocks(3)
    make_trainer(tmp_path, "llama", True, tokenizer, make_rows(4), rehearsal=other)
    assert "general text" in capsys.readouterr().err


def test_states_of_other_weights_or_another_config_are_computed_again(tmp_path, tokenizer, capsys):
    trainer = make_trainer(
        tmp_path, "llama", True, tokenizer, make_rows(4), rehearsal=make_blocks(2)
    )
    model = trainer.model.get_base_model()
    model.config.rms_norm_eps *= 2
    assert relearn(trainer, capsys) == 1
    assert relearn(trainer, capsys) == 0
    with torch.no_grad():
        model.lm_head.weight[0, 0] += 1
    assert relearn(trainer, capsys) == 1


def relearn(trainer, capsys) -> int:
    """How many reference passes it takes to learn the states again."""
    capsys.readouterr()
    trainer.__dict__.pop("weights_fingerprint", None)
    trainer.learn_states()
    return int("general text" in capsys.readouterr().err)


def test_training_keeps_what_it_rehearses(tmp_path, tokenizer):
    left = {}
    for weight in (1e-9, 100.0):
        trainer = make_trainer(
            tmp_path / str(weight), "llama", True, tokenizer, make_rows(6), max_steps=25,
            learning_rate=1e-2, save_strategy="no", rehearsal=make_blocks(8, weight, drawn=4),
        )  # fmt: skip
        trainer.train()
        left[weight] = run_training_step(trainer)[0][1]
    assert left[100.0] < left[1e-9] / 3


def pad_ids(*rows: list[int]) -> dict[str, torch.Tensor]:
    """A padded batch of token ids."""
    length = max(map(len, rows))
    ids = [row + [0] * (length - len(row)) for row in rows]
    mask = [[1] * len(row) + [0] * (length - len(row)) for row in rows]
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}


def test_which_blocks_follows_from_the_batch_alone():
    blocks = make_blocks(9, drawn=3)
    assert blocks.draw(pad_ids([1, 2], [3])) == blocks.draw(pad_ids([1, 2], [3]))
    drawn = [tuple(blocks.draw(pad_ids([7], [7, i]))) for i in range(40)]
    assert len(set(drawn)) > 20 and all(len(set(numbers)) == 3 for numbers in drawn)


def test_each_batch_draws_its_own_blocks_on_both_paths(tmp_path, tokenizer):
    drawn = []
    for fast in (True, False):
        trainer = make_trainer(
            tmp_path, "llama", fast, tokenizer, make_rows(8), rehearsal=make_blocks(30, drawn=2)
        )
        for row in range(8):
            batch = trainer.collate([trainer.train_dataset[row]], training=True)
            if fast:
                numbers = (batch["packed_lessons"].view(-1, BLOCK)[:, 0] // BLOCK).tolist()
            drawn.append(sorted(numbers if fast else trainer.rehearsal.draw(batch)))
    assert drawn[:8] == drawn[8:]
    assert len({tuple(numbers) for numbers in drawn}) > 5


def test_texts_are_joined_and_cut_into_blocks():
    texts = [list(range(100)), list(range(100, 150))]
    assert cut_blocks(texts).flatten().tolist() == list(range(2 * BLOCK))
    assert cut_blocks([[1] * 63]).shape == (0, BLOCK)


def test_every_block_opens_as_the_model_expects():
    blocks = cut_blocks([[9, *range(100)], list(range(100, 150))], [9])
    assert blocks[:, 0].tolist() == [9, 9]
    assert blocks[:, 1:].flatten().tolist() == list(range(2 * (BLOCK - 1)))


def test_fewer_blocks_come_from_all_parts_of_the_texts():
    blocks = torch.arange(100)[:, None].expand(-1, BLOCK)
    assert spread_blocks(blocks, 5)[:, 0].tolist() == [0, 25, 50, 74, 99]
    assert len(spread_blocks(blocks, 100)) == len(spread_blocks(blocks, 300)) == 100


def test_the_opening_is_what_the_tokenizer_puts_there_itself(tokenizer):
    assert find_opening(tokenizer) == []
    like_llama = copy.deepcopy(tokenizer)
    bos = tokenizer.bos_token_id
    like_llama.backend_tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", bos)]
    )
    assert find_opening(like_llama) == [bos]


def test_texts_are_rendered_bare_or_as_a_turn(tokenizer):
    prompt = [{"role": "user", "content": "Why?"}]
    bare, turn = render_texts([GeneralText("Rain."), GeneralText("So.", prompt)], tokenizer)
    assert bare == "Rain.\n\n"
    assert turn.endswith("So.<|im_end|>") and "Why?" in turn


@pytest.mark.parametrize(
    "rows, said",
    [
        ('{"text": "a"}\n{"body": "b"}', ":2: needs field text, or instruction and answer"),
        ('{"text": " "}', ":1: field text is empty; fill it or remove the row"),
        ('{"text": 3}', ":1: field text must be text, found int; put it in quotes"),
        ('{"text": "\\ud800"}', ":1: field text holds half a character"),
        ('{"instruction": "Why?"}', ":1: needs field text, or instruction and answer"),
        ('{"instruction": "Why?", "answer": ""}', ":1: field answer is empty"),
        ("nonsense", ":1: not valid JSON"),
        ("", "holds no texts"),
        (None, "no such file; give a file with rows of text"),
    ],
)
def test_unusable_texts_are_named(rows, said, tmp_path):
    file = tmp_path / "general.jsonl"
    if rows is not None:
        file.write_text(rows, encoding="utf-8")
    config = load_config("00_configs/quickstart.json", {"rehearsal_file": str(file)})
    with pytest.raises(UserError, match=said):
        load_texts(config)


def test_shipped_texts_hold_nothing_of_a_test():
    def cut(text: str) -> set[tuple[str, ...]]:
        words = re.findall(r"[a-z0-9']+", text.lower())
        return {tuple(words[i : i + 8]) for i in range(len(words) - 7)}

    config = load_config("00_configs/quickstart.json")
    shipped = set().union(*(cut(text.text) for text in load_texts(config)))
    assert len(shipped) > 5000
    for file in (
        *REPOSITORY.glob("01_data/dpo/**/test_*"),
        *REPOSITORY.glob("01_data/study/*.jsonl"),
    ):
        for line in file.read_text(encoding="utf-8").splitlines():
            texts = [value for value in json.loads(line).values() if isinstance(value, str)]
            assert not any(cut(text) & shipped for text in texts), f"{file.name}: {line[:60]}"


def test_too_little_text_is_refused(tokenizer):
    config = load_config("00_configs/quickstart.json")
    with pytest.raises(UserError, match="fewer than 64 tokens"):
        make_rehearsal(config, [GeneralText("Short.")], 9, tokenizer, 128)
    assert make_rehearsal(config, [], 9, tokenizer, 128) is None


@pytest.mark.parametrize(
    "keys, state_bytes, found",
    [
        ({}, 128, (10, 2)),  # half of the 20 blocks it draws
        ({"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}, 128, (10, 1)),
        ({"max_steps": 3}, 128, (3, 2)),
        ({"rehearsal_per_pair": 1.0}, 2**17, (4, 4)),  # what memory has room for
    ],
)
def test_a_run_prepares_the_blocks_it_uses(keys, state_bytes, found, tokenizer, capsys):
    texts = [GeneralText("Rain falls on the sea and on the land. " * 400)]
    usual = {"num_train_epochs": 1, "per_device_train_batch_size": 4, "rehearsal_per_pair": 0.5}
    config = load_config("00_configs/quickstart.json", usual | keys)
    made = make_rehearsal(config, texts, 40, tokenizer, state_bytes)
    assert (len(made.blocks), made.count) == found
    assert f"rehearsal: {found[0]} of " in capsys.readouterr().out
