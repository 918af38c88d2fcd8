"""What a learner's row tells of that a user should know: said once in every start of a run.

    StatusRow of each learner --Notices.look--> the recorder's `tell`

Runs in the supervisor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from galamp.memory.status import StatusRow

REFUSALS = {
    1: "cudaErrorInvalidValue",
    2: "cudaErrorMemoryAllocation",
    712: "cudaErrorHostMemoryAlreadyRegistered",
    801: "cudaErrorNotSupported",
}
"""Names of the CUDA runtime's errors with which it may refuse to page-lock memory."""


class Notices:
    """Remembers what was said."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._told: set[str] = set()

    def observe(self, rows: Sequence[StatusRow]) -> None:
        """Say what holds of some learner and was not said yet, with the first one it holds of."""
        for counter, words in WORDS.items():
            rank = next((rank for rank, row in enumerate(rows) if row[counter]), None)
            if rank is not None and counter not in self._told:
                self._told.add(counter)
                self._tell(f"learner {rank}: {words(rows[rank][counter])}")


def _overflow(count: int) -> str:
    return (
        "the gradient is too large for float32, such updates change nothing: scale the rewards, "
        "or train with --clip-rewards"
    )


def _refusal(code: int) -> str:
    name = REFUSALS.get(code, f"CUDA error {code}")
    return (
        f"the driver does not page-lock shared memory ({name}): copies to and from the GPU take "
        "longer; a limit on locked memory (ulimit -l), a sandbox or WSL may be why"
    )


def _no_graphs(_: int) -> str:
    return (
        "what its GPU does cannot be recorded as CUDA graphs (its log says why): kernels are "
        "launched one by one, which takes longer; with --no-graphs it is not tried"
    )


WORDS = {
    "overflows": _overflow,
    "page_lock_refusal": _refusal,
    "graph_refusal": _no_graphs,
}
"""Counters of a row, and what is said once one is not 0."""
