"""CUDA graphs: work on a GPU that is recorded once, and then launched as a whole.

    work, three times in a stream of its own --Graphs.record--> launch --> the same work again

Runs in learners on GPUs. Each act and each update runs the same kernels on the same memory. For
most kernels the launch takes the host longer than the run takes the GPU; a graph needs only one
launch.

Recorded work must not make decisions on the host, and must not wait. Its inputs and outputs are in
memory that was allocated before; memory that it allocates itself is scratch memory, which all that
one `Graphs` has recorded shares: no two of these run at the same time, and none reads what another
has left.

Written from torch's documentation and sources; not yet run on a GPU.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

Launch = Callable[[], None]
"""Starts recorded work in the current stream, without waiting."""

WARM_UPS = 3
"""Runs before the capture: libraries initialise and measure kernels, which no capture can hold."""

FAILED: list[torch.cuda.CUDAGraph] = []
"""Failed captures, kept alive: torch's allocator still refers to them (2.11)."""


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
        """Record `work` and return its launch.

        The work runs a few times during the recording, with all its effects. `generator` is the
        random generator that it uses: its state is restored after the recording, and a launch draws
        from its state at that time, as the work itself would.

        Raises:
            RuntimeError: torch cannot record it, for one of many reasons. `generator` may then be
                unusable: replace it by a new one with the same state.
        """
        drawn = None if generator is None else generator.get_state()
        stream = torch.cuda.current_stream()
        graph = torch.cuda.CUDAGraph()
        try:
            self._stream.wait_stream(stream)
            # The same stream as in the capture: cuBLAS has one workspace per stream, and autograd
            # accumulates gradients in the stream of the forward pass.
            with torch.cuda.stream(self._stream):
                for _ in range(WARM_UPS):
                    work()
            stream.wait_stream(self._stream)
            if generator is not None:
                _register(graph, generator)
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
                work()
            stream.wait_stream(self._stream)  # torch has prepared the generator there
        except BaseException:
            FAILED.append(graph)
            raise
        finally:
            # A failed capture leaves its own stream as the current one.
            torch.cuda.set_stream(stream)
        if generator is not None and drawn is not None:
            generator.set_state(drawn)
        return graph.replay


def _register(graph: torch.cuda.CUDAGraph, generator: torch.Generator) -> None:
    """Make every launch of `graph` draw from the current state of `generator`."""
    if not hasattr(graph, "register_generator_state"):
        return
    with warnings.catch_warnings():
        # Newer torch does this by itself, and deprecates the call (pytorch #176753).
        warnings.simplefilter("ignore")
        graph.register_generator_state(generator)


def finish() -> None:
    """Wait until all work in the current stream is done."""
    torch.cuda.current_stream().synchronize()


def page_locked(count: int, dtype: torch.dtype) -> Tensor:
    """Return zeros `[count]` in page-locked host memory, which a GPU can access directly.

    If the driver refuses, the memory is ordinary: copies are then slower, and work that contains
    such a copy cannot be recorded.
    """
    try:
        return torch.zeros(count, dtype=dtype, pin_memory=True)
    except RuntimeError:
        return torch.zeros(count, dtype=dtype)
