"""Packed rows are trees of sequences: what each token may see, where each result goes."""

import pickle
import random

import pytest
import torch
from datasets import Dataset
from trl.trainer.dpo_trainer import DataCollatorForPreference

from fast.collator import PackedPreferenceCollator
from fast.columns import ID_COLUMNS, measure_pairs
from fast.layout import PairIds, build_attention_mask, pack_pairs
from fast.reference import reference_key
from fast.rows import (
    ATTENTION_WIDTH,
    WIDTH_STEP,
    choose_rows,
    choose_width,
    count_reference_tokens,
    fill_rows,
    list_widths,
    round_to_bucket,
)


def test_rows_fill_first_fit_decreasing_and_shared_prompts_cost_nothing():
    apart = [[0] * 5 for _ in range(5)]
    assert fill_rows([5, 4, 3, 3, 9], apart, 8) == [[4], [0, 2], [1, 3]]
    shared = [[0, 3, 0], [3, 0, 0], [0, 0, 0]]
    assert fill_rows([5, 5, 2], shared, 8) == [[0, 1], [2]]


def test_layout_is_the_tree_of_all_sequences():
    pairs = [PairIds([7, 8, 9], [1, 2, 5], [1, 3]), PairIds([7, 6], [4], [1, 2])]
    packed = pack_pairs(pairs, 7, 0)
    assert packed["packed_ids"].shape == (1, WIDTH_STEP)
    assert packed["packed_ids"][0, :8].tolist() == [7, 6, 1, 8, 9, 1, 2, 0]
    assert packed["packed_positions"][0, :8].tolist() == [0, 1, 2, 1, 2, 3, 4, 0]
    assert packed["packed_ends"][0, :8].tolist() == [7, 3, 3, 7, 7, 7, 7, 0]
    found = [packed[f"packed_{name}"].tolist() for name in ("sources", "targets", "places")]
    assert sorted(zip(*found, strict=True)) == [
        (1, 1, 19), (1, 4, 7), (2, 2, 20),
        (4, 1, 2), (4, 1, 14), (5, 2, 3), (5, 3, 15), (6, 5, 4),
    ]  # fmt: skip
    mask = build_attention_mask(packed["packed_ends"])[0, 0].int()
    assert torch.equal(mask[7:], torch.eye(WIDTH_STEP, dtype=torch.int)[7:])
    assert mask[:7, :7].tolist() == [
        [1, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0],
        [1, 0, 0, 1, 0, 0, 0],
        [1, 0, 0, 1, 1, 0, 0],
        [1, 0, 0, 1, 1, 1, 0],
        [1, 0, 0, 1, 1, 1, 1],
    ]


@pytest.mark.parametrize("max_length", [None, 9])
def test_the_padded_tensors_are_those_of_trls_collator(max_length):
    draw = random.Random(1)
    rows = [
        {name: [draw.randrange(1, 9) for _ in range(draw.randrange(1, 8))] for name in ID_COLUMNS}
        for _ in range(7)
    ]
    for number, row in enumerate(rows):
        row |= {"ref_chosen_logps": -float(number), "ref_rejected_logps": number / 3}
    expected = DataCollatorForPreference(pad_token_id=0, max_length=max_length)(rows)
    found = PackedPreferenceCollator(pad_token_id=0, max_length=max_length)(rows)
    assert "packed_ids" in found
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name
        assert found[name].dtype == tensor.dtype


def test_pairs_are_measured_and_keyed_without_lists():
    rows = [{name: [3] * (k + i) for k, name in enumerate(ID_COLUMNS)} for i in range(5)]
    data = Dataset.from_list(rows)
    assert measure_pairs(data) == [3 + 3 * i for i in range(5)]
    picked = data.select([4, 0, 2])
    assert measure_pairs(picked) == [15, 3, 9]
    keys = {reference_key("w", part, {}) for part in (data, picked, data.select([0, 4, 2]))}
    assert len(keys) == 3
    same = Dataset.from_list([rows[4], rows[0], rows[2]])
    assert reference_key("w", picked, {}) == reference_key("w", same, {})


def test_with_dropout_pairs_share_nothing():
    pairs = [PairIds([7, 8], [1], [2]), PairIds([7, 8], [3, 4], [3, 4])]
    packed = pack_pairs(pairs, 4, 0, share=False)
    used = packed["packed_ids"][packed["packed_ends"] > 0]
    assert sorted(used.tolist()) == [3, 7, 7, 8, 8]
    together = pack_pairs(pairs, 4, 0)
    assert together["packed_ids"][0, :4].tolist() == [7, 8, 3, 0]


def check_pair_tokens(packed: dict, pairs: list[PairIds], width: int) -> int:
    """Each predicting token sees its own sequence, in order; the number of them."""
    masks = build_attention_mask(packed["packed_ends"])[:, 0]
    ids, positions = packed["packed_ids"], packed["packed_positions"]
    names = ("sources", "targets", "places")
    for source, target, place in zip(*(packed[f"packed_{n}"].tolist() for n in names), strict=True):
        row, at = divmod(source, ids.shape[1])
        seen = masks[row, at].nonzero().flatten()
        index, position = divmod(place, width - 1)
        pair = pairs[index % len(pairs)]
        sequence = pair.prompt + (pair.chosen if index < len(pairs) else pair.rejected)
        assert ids[row, seen].tolist() == sequence[: position + 1]
        assert positions[row, seen].tolist() == list(range(position + 1))
        assert sequence[position + 1] == target
    return len(set(packed["packed_places"].tolist()))


@pytest.mark.parametrize("few_shapes", [False, True])
@pytest.mark.parametrize("share", [False, True])
def test_every_answer_token_sees_its_own_sequence_and_nothing_else(few_shapes, share):
    for seed in range(60):
        draw = random.Random(seed)

        def ids(low: int, high: int, draw: random.Random = draw) -> list[int]:
            return [draw.randrange(1, 3) for _ in range(draw.randint(low, high))]

        pairs = [PairIds(ids(1, 6), ids(1, 4), ids(1, 4)) for _ in range(draw.randint(1, 9))]
        width = max(len(p.prompt) + max(len(p.chosen), len(p.rejected)) for p in pairs)
        packed = pack_pairs(pairs, width, 0, few_shapes, share)
        results = check_pair_tokens(packed, pairs, width)
        assert results == sum(len(p.chosen) + len(p.rejected) for p in pairs)


def test_pairs_with_one_header_take_less_than_apart():
    pairs = [PairIds([9] * 30 + [i, i], [1, 2], [3, 4]) for i in range(8)]
    together, apart = (pack_pairs(pairs, 34, 0, share=share)["packed_ids"] for share in (1, 0))
    assert together.numel() < apart.numel() / 2


def test_one_width_suits_a_run_of_short_pairs_and_none_is_fixed_for_long_ones():
    draw = random.Random(0)
    short = [(draw.choices(range(30, 70), k=32), [[20] * 32] * 32) for _ in range(8)]
    width = choose_width(short)
    rows, counts = [choose_rows(*batch, True, width) for batch in short], []
    assert {w for _, w in rows} == {width}
    free = [choose_rows(*batch, True) for batch in short]
    counts = [sum(len(r) * w for r, w in found) for found in (rows, free)]
    assert counts[0] < 1.15 * counts[1]
    assert choose_width([(draw.choices(range(600, 900), k=8), [[20] * 8] * 8)]) is None
    longer = [width + 40, 30, 30]
    assert choose_rows(longer, [[0] * 3] * 3, True, width)[1] >= width + 40


def test_the_chosen_width_is_the_cheapest_of_all():
    draw = random.Random(1)
    for most in (40, 90, 200):
        batches = [(draw.choices(range(20, most), k=24), [[10] * 24] * 24) for _ in range(4)]
        longest = max(max(lengths) for lengths, _ in batches)
        costs = {
            width: (1 + width / ATTENTION_WIDTH)
            * sum(width * round_to_bucket(len(fill_rows(*batch, width))) for batch in batches)
            for width in list_widths(longest, 24 * most)
        }
        assert costs[choose_width(batches)] == min(costs.values())


def test_a_reference_batch_on_a_gpu_is_no_smaller_than_a_training_batch():
    lengths = [900, 100, 800, 700]
    assert count_reference_tokens(lengths, 3, 2048, "cuda") == 2400
    assert count_reference_tokens(lengths, 2, 576, "cuda") == 3 * 2048
    assert count_reference_tokens(lengths, 3, 576, "cpu") == 2048


def test_a_batch_sent_between_processes_arrives_whole():
    collator = PackedPreferenceCollator(pad_token_id=0)
    rows = [{"prompt_ids": [1, 2], "chosen_ids": [3, 4], "rejected_ids": [5]}] * 2
    batch = collator(rows)
    batch["pairs"] = 2
    arrived = pickle.loads(pickle.dumps(batch))
    assert type(arrived) is dict and arrived.keys() == batch.keys() and arrived["pairs"] == 2
    for name, tensor in batch.items():
        if name != "pairs":
            assert torch.equal(arrived[name], tensor) and arrived[name].dtype == tensor.dtype
    arrived["packed_ids"][0, 0] = 9  # its own memory, and writable
