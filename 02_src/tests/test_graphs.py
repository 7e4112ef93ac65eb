"""The graph machinery without a GPU: recorded runs are run again, all else is the real code."""

import functools

import pytest
import torch
from test_fast import make_rows, make_trainer

from fast.forward import score_packed
from fast.gradients import find_flat_gradient
from fast.graphs import GraphedScorer
from fast.rows import round_to_bucket


class FakeGraph:
    """Runs again what was recorded; like a CUDA graph it reads and writes static tensors."""

    def __init__(self, run) -> None:
        self.replay = torch.enable_grad()(run)


class FakeRecorder:
    """Records without running, as CUDA does."""

    def start_over(self) -> None:
        """Nothing is held here."""

    def record(self, run) -> FakeGraph:
        return FakeGraph(run)


class FullRecorder(FakeRecorder):
    """A device whose memory holds one bucket (two graphs) at a time."""

    def __init__(self) -> None:
        self.held = 0

    def start_over(self) -> None:
        self.held = 0

    def record(self, run) -> FakeGraph:
        self.held += 1
        if self.held > 2:
            raise torch.OutOfMemoryError("out of memory")
        return super().record(run)


class BrokenRecorder(FakeRecorder):
    """A device that cannot capture."""

    def record(self, run) -> FakeGraph:
        raise RuntimeError("operation not permitted when stream is capturing\nmore text")


def use_graphs(trainer, recorder) -> GraphedScorer:
    """Put a GraphedScorer where the packed forward looks for it; tiny models run on the CPU."""
    model = trainer.model.get_base_model()
    scorer = trainer.packed_scorer
    scorer.graphs = True
    scorer.graphed = GraphedScorer(
        model, functools.partial(score_packed, model, states=scorer.states), torch.float32, recorder
    )
    trainer.data_collator.fix_width(trainer.train_dataset, 3)
    return scorer.graphed


def accumulate(trainer, batches: list[list[int]]) -> tuple[list[float], dict[str, torch.Tensor]]:
    """(loss of each micro-step, summed gradients)."""
    trainer.model.train()
    trainer.model.zero_grad()
    losses = []
    for rows in batches:
        loss = trainer.compute_loss(
            trainer.model, trainer.collate([trainer.train_dataset[i] for i in rows])
        )
        loss.backward()
        losses.append(loss.item())
    named = trainer.model.named_parameters()
    return losses, {name: p.grad.clone() for name, p in named if p.requires_grad}


def assert_same(found, expected) -> None:
    """Losses and gradients agree to fp32 rounding."""
    assert found[0] == pytest.approx(expected[0], rel=1e-5, abs=1e-6)
    for name, gradient in expected[1].items():
        assert (found[1][name] - gradient).norm() <= 1e-5 * gradient.norm(), name


@pytest.mark.parametrize("name", ["llama", "gemma3"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_replayed_steps_accumulate_the_gradients_of_eager_ones(
    name, checkpointing, tmp_path, tokenizer
):
    rows = make_rows(8)
    eager = make_trainer(tmp_path, name, True, tokenizer, rows, loss_type=["sigmoid", "sft"])
    graphed = make_trainer(tmp_path, name, True, tokenizer, rows, loss_type=["sigmoid", "sft"])
    scorer = use_graphs(graphed, FakeRecorder())
    if checkpointing:
        graphed.model.gradient_checkpointing_enable({"use_reentrant": False})
        graphed.model.enable_input_require_grads()
    batches = [[0, 1, 4], [4, 0, 1], [2, 3], [5, 6, 7], [1, 0, 4]]
    for _ in range(2):  # the second time every bucket is there, and grads start from None
        assert_same(accumulate(graphed, batches), accumulate(eager, batches))
    assert len(scorer.buckets) >= 2
    assert scorer.failure is None


def test_a_much_smaller_batch_is_captured_when_it_comes_again(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr("fast.graphs.SLACK_TOKENS", 0)
    rows = make_rows(8)
    eager, graphed = (make_trainer(tmp_path, "llama", True, tokenizer, rows) for _ in range(2))
    scorer = use_graphs(graphed, FakeRecorder())
    whole, short = [0, 1, 2, 3, 4, 5, 6, 7], [3]
    for batches, captured in (([whole, whole, short], 1), ([short], 2), ([whole, short], 2)):
        assert_same(accumulate(graphed, batches), accumulate(eager, batches))
        assert len(scorer.buckets) == captured


def test_graphs_see_an_optimizer_step(tmp_path, tokenizer):
    rows = make_rows(6)
    eager, graphed = (make_trainer(tmp_path, "llama", True, tokenizer, rows) for _ in range(2))
    use_graphs(graphed, FakeRecorder())
    batches = [[0, 1, 2], [2, 0, 1]]
    for trainer in (eager, graphed):
        accumulate(trainer, batches)
        with torch.no_grad():
            for parameter in trainer.model.parameters():
                if parameter.requires_grad:
                    parameter.sub_(0.1 * parameter.grad)
    assert_same(accumulate(graphed, batches), accumulate(eager, batches))


def test_the_flat_gradient_is_clipped_as_torch_clips_each(tmp_path, tokenizer):
    rows = make_rows(6)
    eager, graphed = (make_trainer(tmp_path, "llama", True, tokenizer, rows) for _ in range(2))
    use_graphs(graphed, FakeRecorder())
    norms, clipped = [], []
    for trainer in (eager, graphed):
        trainer._trainable = trainer.list_trainable()
        for most in (1e-3, 1e6):
            trainer.args.max_grad_norm = most
            accumulate(trainer, [[0, 1, 2], [2, 0, 1]])
            norms.append(trainer._clip_grad_norm(trainer.model).item())
            clipped.append([p.grad.clone() for p in trainer._trainable])
    assert find_flat_gradient(graphed._trainable) is not None
    assert find_flat_gradient(eager._trainable) is None
    assert norms[2:] == pytest.approx(norms[:2], rel=1e-5)
    for found, expected in zip(clipped[2] + clipped[3], clipped[0] + clipped[1], strict=True):
        assert (found - expected).norm() <= 1e-5 * expected.norm()


def test_a_failed_capture_falls_back_to_eager_and_is_said_once(tmp_path, tokenizer, capsys):
    rows = make_rows(6)
    eager, graphed = (make_trainer(tmp_path, "llama", True, tokenizer, rows) for _ in range(2))
    scorer = use_graphs(graphed, BrokenRecorder())
    batches = [[0, 1, 2], [2, 0, 1], [3, 4, 5], [5, 3, 4]]
    assert_same(accumulate(graphed, batches), accumulate(eager, batches))
    assert capsys.readouterr().out.count("CUDA graphs are off: operation not permitted") == 1
    assert not scorer.buckets


def test_out_of_memory_drops_older_graphs_first(tmp_path, tokenizer, capsys):
    rows = make_rows(8)
    eager, graphed = (make_trainer(tmp_path, "llama", True, tokenizer, rows) for _ in range(2))
    scorer = use_graphs(graphed, FullRecorder())
    graphed.data_collator.usual_width = None  # more shapes
    batches = [[0, 1, 2], [2, 0, 1], [5, 6, 7], [3]]
    assert_same(accumulate(graphed, batches), accumulate(eager, batches))
    assert scorer.restarts > 0
    assert len(scorer.buckets) == 1
    assert scorer.failure is None
    assert "CUDA graphs are off" not in capsys.readouterr().out


def test_bucket_sizes_pad_by_an_eighth_at_most():
    sizes = [round_to_bucket(n) for n in range(1, 3000)]
    assert all(n <= size <= 1.125 * n for n, size in enumerate(sizes, start=1))
    assert len(set(sizes)) < 90
    assert round_to_bucket(65, 16) == 80
