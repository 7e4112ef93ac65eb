"""Records CUDA graphs into one memory pool."""

import gc
from collections.abc import Callable

import torch


class GraphRecorder:
    """Records what a function launches as a CUDA graph in one memory pool."""

    def __init__(self) -> None:
        self.pool = torch.cuda.graph_pool_handle()
        self.stream = torch.cuda.Stream()

    def start_over(self) -> None:
        """Give back the memory of all graphs recorded so far, which nobody holds any more."""
        gc.collect()
        torch.cuda.empty_cache()
        self.pool = torch.cuda.graph_pool_handle()

    def record(self, run: Callable[[], None]) -> torch.cuda.CUDAGraph:
        """The graph of one run; other threads may use CUDA meanwhile."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(
            graph, pool=self.pool, stream=self.stream, capture_error_mode="thread_local"
        ):
            run()
        return graph
