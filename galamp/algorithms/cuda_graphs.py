"""Work on a GPU that is recorded once, as a CUDA graph, and then launched as a whole.

    work, three times in a stream of its own --Graphs.record--> launch --> the same work again

Runs in learners on GPUs. Each act and each update is the same kernels on the same memory, and the
host takes longer to launch most of them than the GPU to run them; a graph is launched at once.

Work that is recorded makes no choice on the host and waits for nothing. What it reads, and what is
read of it, lies in memory that was there before; all else that it allocates is scratch, which the
graphs of a learner share: never do two of them run at a time, and none goes by what another left.

Written after torch's documentation and sources; not yet run on a GPU.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

Launch = Callable[[], None]
"""Starts work in the current stream, and waits for nothing."""

WARM_UPS = 3
"""Libraries set themselves up and try which of their kernels are quickest: no graph may do that."""

FAILED: list[torch.cuda.CUDAGraph] = []
"""Captures that have failed live on: torch's allocator has not let go of them (2.11)."""


class Graphs:
    """Records work for the current device.

    After PyTorch's notes on CUDA graphs ("Whole-network capture", "Graph memory management").
    """

    def __init__(self) -> None:
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()

    def record(
        self, work: Callable[[], object], generator: torch.Generator | None = None
    ) -> Launch:
        """Return what starts `work` again.

        It is done a few times on the way: what it changes, is changed. `generator` is what it draws
        from; that is as it was before, and what is launched goes on from wherever it is then, as
        the work itself would.

        Raises:
            RuntimeError: torch cannot record it, for one of many reasons. `generator` may be of no
                use any more then, and a new one has to go on from its state.
        """
        drawn = None if generator is None else generator.get_state()
        stream = torch.cuda.current_stream()
        graph = torch.cuda.CUDAGraph()
        try:
            self._stream.wait_stream(stream)
            # The same stream as in the capture: cuBLAS has its workspace for each, and autograd
            # adds gradients up in the one where a graph of its own was made.
            with torch.cuda.stream(self._stream):
                for _ in range(WARM_UPS):
                    work()
            stream.wait_stream(self._stream)
            if generator is not None:
                _register(graph, generator)
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
                work()
            stream.wait_stream(self._stream)  # where torch has prepared the generator
        except BaseException:
            FAILED.append(graph)
            raise
        finally:
            # A capture that fails leaves its own stream the current one.
            torch.cuda.set_stream(stream)
        if generator is not None and drawn is not None:
            generator.set_state(drawn)
        return graph.replay


def _register(graph: torch.cuda.CUDAGraph, generator: torch.Generator) -> None:
    """Have every launch of `graph` draw on from where `generator` is."""
    if not hasattr(graph, "register_generator_state"):
        return
    with warnings.catch_warnings():
        # Newer torch finds out by itself, and deprecates this (pytorch #176753).
        warnings.simplefilter("ignore")
        graph.register_generator_state(generator)


def finish() -> None:
    """Wait until all is done that was started in the current stream."""
    torch.cuda.current_stream().synchronize()


def page_locked(count: int, dtype: torch.dtype) -> Tensor:
    """Return zeros `[count]` in memory of the host that a GPU copies from and to by itself.

    Where the driver has none to give it is ordinary memory: copies take a detour then, and no work
    with such a copy in it can be recorded.
    """
    try:
        return torch.zeros(count, dtype=dtype, pin_memory=True)
    except RuntimeError:
        return torch.zeros(count, dtype=dtype)
