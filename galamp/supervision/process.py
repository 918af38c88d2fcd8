"""A child process as its parent sees it: start, kill, and why it ended.

supervisor: ChildProcess.start --fork--> galamp.workers.child: child_main(spec, task)
supervisor: ChildProcess.failure() <-- exit code, signal, the child's crash report and log
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import secrets
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from galamp.core.errors import EXIT_OK
from galamp.core.processes.exit_reports import (
    read_report,
    signal_name,
    tail,
)
from galamp.supervision.launching import ForkedProcess
from galamp.workers.child import STACK_SIGNAL, ChildSpec, PickledTask, child_main
from galamp.workers.forkserver import (
    ensure_tracker,
    wake_server,
)

STACK_DUMP_GRACE_S = 0.3
"""Time for a hung child to write its stacks to its log."""


@dataclass(frozen=True)
class ChildFailure:
    """Why a child ended: one line, and its traceback or stacks if it left any."""

    title: str
    cause: str
    details: str = ""
    deliberate: bool = False
    """Whether the child itself found that it could not continue."""
    external: bool = False
    """Whether the cause was outside the child: SIGKILL, the end of its server, or it never started.
    """

    def __str__(self) -> str:
        return f"{self.title} {self.cause}"


class ChildProcess:
    """The parent's handle of one child process."""

    def __init__(self, spec: ChildSpec, task: Any) -> None:
        self.spec = dataclasses.replace(spec, incarnation_id=secrets.token_hex(8))
        self._process = ForkedProcess(
            target=child_main, args=(self.spec, PickledTask(task)), name=f"galamp: {spec.title}"
        )
        self._stuck: str | None = None
        self._stuck_since_s = 0.0

    def start(self, postpone: Callable[[], bool]) -> None:
        """Have the fork server fork the child; signals are only recorded meanwhile.

        Args:
            postpone: whether to leave off the start, as another event has to be handled first.

        Raises:
            StartPostponed: the start was left off.
            OSError, EOFError: it failed.
        """
        ensure_tracker()
        wake_server()
        self._process.postpone = postpone
        self._process.start()

    @property
    def pid(self) -> int:
        """The child's process id."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def sentinel(self) -> int:
        """A descriptor that becomes readable once the child has ended."""
        return self._process.sentinel

    @property
    def running(self) -> bool:
        """Whether the child still runs; the next incarnation has to wait until it does not."""
        if self._process.is_alive():
            return True
        # Its server has ended and cannot report; the kernel ends the child, but not immediately.
        return self._process.server_lost and not _is_over(self.pid)

    @property
    def stuck(self) -> bool:
        """Whether the child was declared hung."""
        return self._stuck is not None

    @property
    def stuck_s(self) -> float:
        """Seconds since the child was declared hung; 0 if it was not."""
        return time.monotonic() - self._stuck_since_s if self.stuck else 0.0

    def declare_stuck(self, cause: str) -> None:
        """Have a hung child write its stacks to its log; `end_stuck` then kills it."""
        self._stuck, self._stuck_since_s = cause, time.monotonic()
        if self._process.is_alive():  # else another process may have this id by now
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, STACK_SIGNAL)

    def end_stuck(self) -> None:
        """Kill a hung child once `STACK_DUMP_GRACE_S` has passed."""
        if self.stuck_s > STACK_DUMP_GRACE_S:
            self.kill()

    def kill(self) -> None:
        """Kill the child now."""
        self._process.kill()

    def join(self, timeout_s: float) -> bool:
        """Wait at most `timeout_s` for the child's end; returns whether it has ended."""
        self._process.join(timeout_s)
        if self.running and self._process.server_lost:  # then the line above does not wait
            time.sleep(timeout_s)
        return not self.running

    def close(self) -> None:
        """Release the resources of a child that has ended."""
        self._process.close()

    def failure(self) -> ChildFailure | None:
        """Return why the child ended; None while it runs or if it ended well."""
        code = self._process.exitcode
        title = self.spec.title
        if self._stuck is not None:
            return ChildFailure(title, self._stuck, tail(self.spec.log))
        if code is None or code == EXIT_OK:
            return None
        report = read_report(self.spec.report(self.pid), self.spec.incarnation_id)
        if report is not None:
            return ChildFailure(title, *report)
        if self._process.server_lost:
            cause = "ended with the server that it was forked from"
            return ChildFailure(title, cause, external=True)
        cause = f"called exit({code}) from native code"
        if code < 0:
            cause = f"was ended by {signal_name(-code)}"
        external = code == -signal.SIGKILL
        return ChildFailure(title, cause, tail(self.spec.log), external=external)


def _is_over(pid: int) -> bool:
    """Return whether an orphaned process has ended; reap it if this process has adopted it."""
    try:
        over = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True
    with contextlib.suppress(ChildProcessError):
        # A process whose first thread has ended looks like a zombie while other threads still run.
        return os.waitpid(pid, os.WNOHANG) != (0, 0)
    return over
