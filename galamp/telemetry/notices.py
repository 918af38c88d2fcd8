"""Notices: conditions in a learner's status row that the user should know, logged once per attempt.

    StatusRow of each learner --Notices.observe--> Recorder.log_event

Runs in the supervisor.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from galamp.memory.status import StatusRow

REFUSALS = {
    1: "cudaErrorInvalidValue",
    2: "cudaErrorMemoryAllocation",
    712: "cudaErrorHostMemoryAlreadyRegistered",
    801: "cudaErrorNotSupported",
}
"""Names of the CUDA runtime errors with which page-locking memory may be refused."""


class LogEvent(Protocol):
    """What takes an event: `Recorder.log_event`."""

    def __call__(self, text: str, *, who: str) -> None:
        """Log that `text` happened to the process `who`."""


class Notices:
    """Logs each notice once."""

    def __init__(self, log_event: LogEvent) -> None:
        self._log_event = log_event
        self._logged: set[str] = set()

    def observe(self, rows: Sequence[StatusRow]) -> None:
        """Log each new notice, with the first learner that it applies to."""
        for counter, text_of in NOTICES.items():
            rank = next((rank for rank, row in enumerate(rows) if row.counter(counter)), None)
            if rank is not None and counter not in self._logged:
                self._logged.add(counter)
                who = f"learner {rank}"
                self._log_event(f"{who}: {text_of(rows[rank].counter(counter))}", who=who)


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


NOTICES = {
    "overflows": _overflow,
    "page_lock_refusal": _refusal,
    "graph_refusal": _no_graphs,
}
"""Counter of a status row or its metrics, and the notice that is logged when it is not 0."""
