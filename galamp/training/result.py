"""How an attempt of a run ended, and why.

    Supervisor.run --RunResult--> Session: another attempt, or summary.json and the exit code

Plain values.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass

from galamp.core.errors import EXIT_FAILURE, EXIT_OK
from galamp.supervision.child_failure import ChildFailure


@dataclass(frozen=True)
class StopReason:
    """Why a run ended: `ended_by` and `reason` in summary.json.

    Attributes:
        kind: `total-steps`, `max-time`, `stop-score`, `stop-when-flat`, `signal`, `failure`,
            `request` (of the program that trains), or `scale`.
        text: the same as a sentence, with its figures.
    """

    kind: str
    text: str

    @property
    def is_early(self) -> bool:
        """Whether a limit of time has cut the run short: it is stopped, not finished."""
        return self.kind == "max-time"


ALL_DONE = StopReason("total-steps", "all agent steps are done")
BY_REQUEST = StopReason("request", "the program that trains has ended it")


@dataclass(frozen=True)
class RunResult:
    """How an attempt ended: finished, stopped (by a signal or its time limit), failed, or rescaled.

    Rescaled: another number of learners was requested, `scale_to`, and the run is ready for it. A
    failed attempt may have been stopped by a signal as well: `is_stopped`.
    """

    status: str
    exit_code: int
    failure: ChildFailure | None = None
    scale_to: int | None = None
    is_stopped: bool = False
    reason: StopReason | None = None


def result_of(
    failure: ChildFailure | None,
    stopped_by: int | None,
    scale_to: int | None,
    reason: StopReason | None,
) -> RunResult:
    """Return how an attempt has ended.

    Args:
        failure: the failure that has ended it.
        stopped_by: the number of the first signal.
        scale_to: the number of learners that was requested.
        reason: why the supervisor was asked to finish; None: no one asked, so the total is reached.
    """
    is_stopped = stopped_by is not None
    if failure is not None:
        why = StopReason("failure", str(failure))
        return RunResult("failed", EXIT_FAILURE, failure, None, is_stopped, why)
    if stopped_by is not None:
        why = StopReason("signal", signal.Signals(stopped_by).name)
        return RunResult("stopped", 128 + stopped_by, is_stopped=True, reason=why)
    if scale_to is not None:
        why = StopReason("scale", f"the number of learners becomes {scale_to}")
        return RunResult("rescaled", EXIT_OK, scale_to=scale_to, reason=why)
    why = reason or ALL_DONE
    return RunResult("stopped" if why.is_early else "finished", EXIT_OK, reason=why)
