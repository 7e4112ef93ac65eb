"""CUDA graphs of the packed forward and backward: one launch instead of four thousand.

A step at laptop batch sizes is 26 ms of GPU work inside 200 ms of Python and kernel launches. Per
shape (rows, width, completion tokens; rounded up to a few buckets) one graph holds backbone and
head, a second one their backward. All graphs share one memory pool: a forward is always followed
by its own backward before another bucket runs.

Gradients: the graph works on copies of the trainable parameters in the compute dtype, refreshed
from the fp32 masters by its first kernels, so that an optimizer step is seen by the next replay.
The backward adds into one flat fp32 buffer whose views become the parameters' .grad: gradient
accumulation, clipping and any optimizer work as without graphs.
"""

from collections.abc import Callable

import torch

from fast.buckets import Bucket, Packed, fill_inputs, split_inputs
from fast.graph_recorder import GraphRecorder
from fast.rows import round_to_bucket
from fast.trainable_copies import TrainableCopies

Score = Callable[[Packed], torch.Tensor]
MOST_RESTARTS = 3  # times that all graphs are dropped because memory ran out
MOST_BUCKETS = 24  # captured shapes kept; each costs about 0.7 s and some MB
SLACK_SHARE, SLACK_TOKENS = 1.1, 320  # a bucket serves batches this much smaller at any time


class GraphedScorer:
    """Scores packed batches by replaying graphs, captured when no captured shape fits.

    The very first batch runs eagerly and warms up the kernels. An eager run beside captured
    graphs would need its memory twice, so later shapes are captured at once. Any failure to
    capture switches graphs off for good and says so.
    """

    def __init__(
        self, model: torch.nn.Module, score: Score, dtype: torch.dtype, recorder: GraphRecorder
    ) -> None:
        """
        Args:
            model: the causal LM on its device, adapters included.
            score: packed tensors -> [4, M + N] fp32 results, the differentiable ones first.
            dtype: compute dtype; parameters in another one are copied to it.
        """
        self.score, self.dtype, self.recorder = score, dtype, recorder
        self.trainable = TrainableCopies(model, dtype)
        self.device = self.trainable.gradient.device
        self.buckets: list[Bucket] = []
        self.asked: set[tuple[int, int, int, int]] = set()  # shapes of all batches so far
        self.restarts = 0
        self.warm = False  # has a batch run eagerly, so that libraries and kernels are set up
        self.failure: str | None = None
        self.staging: HostStaging | None = None
        self.anchor = torch.zeros((), requires_grad=True)

    def __call__(self, packed: Packed) -> torch.Tensor | None:
        """[4, M + N] results on the batch's device, or None when this batch has to run eagerly."""
        bucket = None if self.failure else self.find_bucket(packed)
        if bucket is None:
            return None
        self.load(bucket, packed)
        logps, rest = Replay.apply(self.anchor, self, bucket, packed["ids"].device)
        count = packed["sources"].shape[0]
        return torch.cat([logps[None, :count], rest[:, :count]])

    def find_bucket(self, packed: Packed) -> Bucket | None:
        """A captured bucket that holds the batch; captured now when there is none.

        A shape much smaller than all buckets is captured when it comes again: for one batch, such
        as an epoch's last, a larger bucket costs less than a capture.
        """
        rows, width = packed["ids"].shape
        count, recited = packed["sources"].shape[0], packed["lessons"].shape[0]
        size = rows * width + count
        limit = max(SLACK_SHARE * size, size + SLACK_TOKENS)
        fitting = [bucket for bucket in self.buckets if bucket.holds(rows, width, count, recited)]
        best = min(fitting, key=lambda bucket: bucket.cost, default=None)
        predicted = round_to_bucket(count - recited, 32)
        shape = (round_to_bucket(rows), width, recited + predicted, recited)
        first = shape not in self.asked
        self.asked.add(shape)
        if best and (best.cost <= limit or first):
            return best
        if not self.warm or len(self.buckets) >= MOST_BUCKETS:
            self.warm = True
            return best
        return self.try_capture(shape)

    def try_capture(self, shape: tuple[int, int, int, int]) -> Bucket | None:
        """A new bucket, or None and no more graphs when the capture fails.

        Memory may be missing because the pool holds it in blocks too small for this shape. So
        graphs captured before are dropped first; captured again, they fit into this one's blocks.
        """
        bucket, problem = self.attempt(shape)
        if problem and self.buckets and self.restarts < MOST_RESTARTS:
            self.restarts += 1
            self.buckets.clear()
            self.recorder.start_over()
            bucket, problem = self.attempt(shape)
        if problem:
            self.failure = problem
            self.buckets.clear()
            print(f"CUDA graphs are off: {self.failure}; going on without them")
            return None
        self.buckets.append(bucket)
        return bucket

    def attempt(self, shape: tuple[int, int, int, int]) -> tuple[Bucket | None, str | None]:
        """(bucket, None), or (None, why it cannot be captured)."""
        try:
            return self.capture(*shape), None
        except RuntimeError as error:  # torch's base class of CUDA and out-of-memory errors
            return None, str(error).strip().splitlines()[0]

    def capture(self, rows: int, width: int, count: int, recited: int) -> Bucket:
        """Record forward and backward for one shape."""
        flat = torch.zeros(3 * rows * width + 2 * count, dtype=torch.long, device=self.device)
        slopes = torch.zeros(count, device=self.device)
        bucket = Bucket(rows, width, count, recited, flat, slopes)
        bucket.forward_graph = self.recorder.record(lambda: self.run_forward(bucket))
        bucket.backward_graph = self.recorder.record(lambda: self.run_backward(bucket))
        return bucket

    def run_forward(self, bucket: Bucket) -> None:
        """What the forward graph holds: refresh the copies, score the static inputs."""
        kind, half = self.device.type, self.dtype != torch.float32
        self.trainable.refresh()
        with (
            self.trainable.installed(),
            torch.autocast(kind, self.dtype, enabled=half, cache_enabled=False),
        ):
            bucket.live = self.score(split_inputs(bucket.flat, *bucket.shape))
        bucket.stats = bucket.live.detach()

    def run_backward(self, bucket: Bucket) -> None:
        """What the backward graph holds: gradients of the copies, added to the flat one.

        Checkpointed layers run again here, so the copies have to be installed here, too.
        """
        copies = self.trainable.copies
        with self.trainable.installed():
            gradients = torch.autograd.grad(
                bucket.live[0], copies, bucket.grad_logps, materialize_grads=True
            )
        self.trainable.add_gradients(gradients)
        bucket.live = None

    def load(self, bucket: Bucket, packed: Packed) -> None:
        """Copy a batch into the bucket's static inputs."""
        if packed["ids"].device == self.device:
            fill_inputs(bucket.flat, bucket.shape, packed)
            return
        self.staging = self.staging or HostStaging()
        self.staging.send(bucket, packed)


class HostStaging:
    """A pinned buffer through which a batch on the host goes to the device in one copy."""

    def __init__(self) -> None:
        self.buffer = torch.empty(0, dtype=torch.long)
        self.copied = torch.cuda.Event()

    def send(self, bucket: Bucket, packed: Packed) -> None:
        """Fill the bucket's static inputs without waiting for the device."""
        self.copied.synchronize()  # the previous copy may still read the buffer
        size = bucket.flat.numel()
        if self.buffer.numel() < size:
            self.buffer = torch.empty(size, dtype=torch.long, pin_memory=True)
        fill_inputs(self.buffer[:size], bucket.shape, packed)
        bucket.flat.copy_(self.buffer[:size], non_blocking=True)
        self.copied.record()


class Replay(torch.autograd.Function):
    """Replays a bucket's graphs as one autograd node.

    Parameter gradients go to the flat gradient directly; `anchor` only makes autograd call.
    """

    @staticmethod
    def forward(ctx, anchor, scorer: GraphedScorer, bucket: Bucket, device: torch.device):
        """(log-probs [count], other results [3, count]) on `device`."""
        bucket.forward_graph.replay()
        ctx.scorer, ctx.bucket = scorer, bucket
        stats = bucket.stats.clone() if device == scorer.device else bucket.stats.to(device)
        rest = stats[1:]
        ctx.mark_non_differentiable(rest)
        return stats[0], rest

    @staticmethod
    def backward(ctx, grad_logps, _):
        """Adds the parameters' gradients; none for the arguments."""
        ctx.bucket.grad_logps.copy_(grad_logps, non_blocking=True)
        ctx.scorer.trainable.publish_gradient()
        ctx.bucket.backward_graph.replay()
        return None, None, None, None
