"""Why a child process ended: from its exit code, its own crash report, and the end of its log.

    exit code, RUN/logs/*.crash-<pid>.json, log --failure_of--> ChildFailure --> supervisor

Runs in the supervisor.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass

from galamp.core.errors import EXIT_FAILURE, EXIT_OK
from galamp.core.processes.exit_reports import read_report, signal_name, tail
from galamp.workers.child import ChildSpec


@dataclass(frozen=True)
class ChildFailure:
    """Why a child ended: one line, and its traceback or stacks if it left any."""

    title: str
    cause: str
    details: str = ""
    deliberate: bool = False
    """Whether the child itself found that it could not continue."""
    external: bool = False
    """Whether the cause was outside the child: SIGKILL, the end of its server, or it never started;
    or is unknown, since the child could not write it.
    """
    killed: bool = False
    """Whether SIGKILL has ended it, or may have."""

    def __str__(self) -> str:
        return f"{self.title} {self.cause}"


def failure_of(
    spec: ChildSpec, pid: int, code: int | None, *, server_lost: bool
) -> ChildFailure | None:
    """Return why process `pid` of a child ended; None while it runs or if it ended well.

    Args:
        spec: identity of the incarnation, with the present place of its log.
        pid: its process id.
        code: its exit code, or the negative number of the signal that ended it; None: it runs.
        server_lost: whether its fork server ended before it could report the exit code.
    """
    if code is None or code == EXIT_OK:
        return None
    report = read_report(spec.report(pid), spec.incarnation_id)
    if report is not None:
        return ChildFailure(spec.title, *report)
    if server_lost:
        cause = "ended with the server that it was forked from"
        return ChildFailure(spec.title, cause, external=True, killed=True)
    cause = f"called exit({code}) from native code"
    if code < 0:
        cause = f"was ended by {signal_name(-code)}"
    elif code == EXIT_FAILURE:
        cause = "failed, and could not write why"
    killed = code == -signal.SIGKILL
    external = killed or code == EXIT_FAILURE
    return ChildFailure(spec.title, cause, tail(spec.log), external=external, killed=killed)
