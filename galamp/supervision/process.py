"""A child process as its parent sees it: started, watched, ended, and why it ended.

supervisor: Worker.start --fork--> galamp.workers.child: child_main(spec, task)
supervisor: ChildProcess.failure() <-- exit code, signal, the child's own crash report and log
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

STACKS_S = 0.3
"""A hung child has so long to write down its stacks."""


@dataclass(frozen=True)
class ChildFailure:
    """Why a child ended: one line, and its own traceback or stacks where it left any."""

    title: str
    cause: str
    details: str = ""
    deliberate: bool = False
    """Whether the child itself found that it could not go on."""
    external: bool = False
    """Whether it was none of its doing: SIGKILL, the end of its server, or it never began."""

    def __str__(self) -> str:
        return f"{self.title} {self.cause}"


class ChildProcess:
    """The parent's view of one child."""

    def __init__(self, spec: ChildSpec, task: Any) -> None:
        self.spec = dataclasses.replace(spec, incarnation_id=secrets.token_hex(8))
        self._process = ForkedProcess(
            target=child_main, args=(self.spec, PickledTask(task)), name=f"galamp: {spec.title}"
        )
        self._stuck: str | None = None
        self._stuck_since_s = 0.0

    def start(self, hurried: Callable[[], bool]) -> None:
        """Have the server fork the child; signals are noted meanwhile.

        Args:
            hurried: whether this is to be left off, for something else is to be looked at first.

        Raises:
            Hurried: it was left off.
            OSError, EOFError: it could not be done.
        """
        ensure_tracker()
        wake_server()
        self._process.hurried = hurried
        self._process.start()

    @property
    def pid(self) -> int:
        """The child's process id."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def sentinel(self) -> int:
        """A descriptor that is ready once the child has ended."""
        return self._process.sentinel

    @property
    def running(self) -> bool:
        """Whether the child still runs; until it does not, nobody may take its place."""
        if self._process.is_alive():
            return True
        # Its server is no more and cannot tell; the kernel ends the child, but not at once.
        return self._process.server_lost and not _is_over(self.pid)

    @property
    def stuck(self) -> bool:
        """Whether the child hung, and was or is to be ended for it."""
        return self._stuck is not None

    @property
    def stuck_s(self) -> float:
        """How long it has been known to hang."""
        return time.monotonic() - self._stuck_since_s if self.stuck else 0.0

    def declare_stuck(self, cause: str) -> None:
        """Have a hung child leave its stacks in its log; `end_stuck` then ends it."""
        self._stuck, self._stuck_since_s = cause, time.monotonic()
        if self._process.is_alive():  # else its id may be another one's by now
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, STACK_SIGNAL)

    def end_stuck(self) -> None:
        """End a hung child, once it has had time to leave its stacks."""
        if self.stuck_s > STACKS_S:
            self.kill()

    def kill(self) -> None:
        """End the child now."""
        self._process.kill()

    def join(self, timeout_s: float) -> bool:
        """Wait for the child's end, at most `timeout_s`; returns whether it has ended."""
        self._process.join(timeout_s)
        if self.running and self._process.server_lost:  # then the line above does not wait
            time.sleep(timeout_s)
        return not self.running

    def close(self) -> None:
        """Give back what is held for a child that has ended."""
        self._process.close()

    def failure(self) -> ChildFailure | None:
        """Say why the child ended; None while it runs or if it ended well."""
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
    """Whether a process that has lost its parent has ended; takes leave of it if it is ours now."""
    try:
        over = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True
    with contextlib.suppress(ChildProcessError):
        # A process whose first thread has ended looks over, and is not while it has others.
        return os.waitpid(pid, os.WNOHANG) != (0, 0)
    return over
