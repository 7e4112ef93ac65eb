"""Batches that shrink where a GPU's memory runs out. Only the error itself is made."""

import pytest
import torch

import generation
from errors import describe_machine_trouble
from shrinking_batches import for_batches

FULL = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")


def test_a_batch_that_does_not_fit_is_halved_and_nothing_is_done_twice(capsys):
    done, tried = [], []

    def run(batch) -> None:
        tried.append(len(batch))
        if len(batch) > 3:
            raise FULL
        done.extend(batch)

    for_batches(range(10), 8, run)
    assert done == list(range(10)) and tried == [8, 4, 2, 2, 2, 2, 2]
    assert capsys.readouterr().out.count("note: out of memory") == 2


@pytest.mark.parametrize(
    "error, tries",
    [
        (FULL, 3),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), 3),
        (RuntimeError("shapes do not match"), 1),
    ],
)
def test_what_a_single_item_or_another_error_raises_is_raised(error, tries):
    tried = []

    def run(batch) -> None:
        tried.append(len(batch))
        raise error

    with pytest.raises(RuntimeError):
        for_batches([1, 2, 3, 4], 4, run)
    assert len(tried) == tries
    line = describe_machine_trouble(error)
    assert (line is None) if tries == 1 else line.startswith("the GPU's memory ran out")


def test_answers_come_in_order_from_smaller_batches(loaded_tokenizer, monkeypatch):
    prompts = [[{"role": "user", "content": f"{n} " * n}] for n in range(1, 8)]

    def answer(model, tokenizer, texts, longest) -> list[str]:
        if len(texts) > 2:
            raise FULL
        return [str(len(text)) for text in texts]

    monkeypatch.setattr(generation, "generate_batch", answer)
    found = generation.generate_answers(None, loaded_tokenizer, prompts, batch_size=5)
    lengths = [len(generation.render_text(loaded_tokenizer, prompt)) for prompt in prompts]
    assert found == [str(length) for length in lengths]
