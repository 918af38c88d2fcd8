"""One child of a run: its process, its progress, its restart policy, through all incarnations.

    Child.start: announce, fork --> galamp.workers.child: child_main(spec, task) in a new process
          running, hung? failure <-- exit code, heartbeat, crash report, log
          mark_dead, release --> next incarnation

Runs in the supervisor.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from galamp.core.disk import Where
from galamp.core.processes.exit_reports import tail
from galamp.core.processes.titles import title_of
from galamp.memory.status import Phase, StatusRow
from galamp.supervision.child_failure import ChildFailure, failure_of
from galamp.supervision.launching import ForkedProcess, StartPostponed
from galamp.supervision.presence import Presence
from galamp.supervision.progress_monitor import MAX_TICK_S, ProgressMonitor
from galamp.supervision.restart_policy import Failure, RestartPolicy
from galamp.workers.child import BRIDGE, STACK_SIGNAL, ChildSpec, PickledTask, child_main
from galamp.workers.forkserver import ensure_tracker, wake_server

KILL_TIMEOUT_S = 5.0
"""A process that outlives SIGKILL for this long is stuck in the kernel, in disk I/O for example."""
UNKILLABLE_S = 20.0
"""A hung process that is not gone by then is given up: longer than a GPU's driver takes to free the
memory of one that was killed."""
STACK_DUMP_GRACE_S = 0.3
"""Time for a hung child to write its stacks to its log."""

Prepare = Callable[[int], tuple[ChildSpec, Any]]
"""Returns the specification and the task of an incarnation, counted from 0."""


class Child:
    """One child: learner `rank`, or its simulator `number`."""

    def __init__(
        self,
        rank: int,
        number: int | None,
        row: StatusRow,
        presence: Presence,
        prepare: Prepare,
        max_restarts: int,
        where: Where,
    ) -> None:
        """Create a child; no process runs yet.

        Args:
            rank: its learner.
            number: its number among that learner's simulators; None: it is the learner.
            row: its status row.
            presence: what other processes are told of it.
            prepare: makes the specification and the task of each incarnation.
            max_restarts: see `RestartPolicy`.
            where: returns where its log is now.
        """
        self.rank, self.number, self.row = rank, number, row
        self.role = self._role()
        self.incarnation = 0
        self.due_s: float | None = None
        """time.monotonic() of the next start; None: no start is scheduled."""
        self.given_up = False
        self.boot_s = 0.0
        """Start-up time of the first incarnation, in seconds."""
        self.beats = self.turns = ProgressMonitor(lambda: 0)
        self._presence, self._prepare, self._where = presence, prepare, where
        self._restart_policy = RestartPolicy(max_restarts)
        self._process: ForkedProcess | None = None
        self._spec: ChildSpec | None = None
        self._hang: str | None = None
        self.hung_s = 0.0
        """Seconds that the supervisor has run since the process was declared hung."""
        self._work_at_run_start = self._work_at_start = self.work

    def _role(self) -> str:
        return "learner" if self.number is None else "simulator"

    @property
    def title(self) -> str:
        """Role and rank: `learner 0`, `simulator 0.1`."""
        return title_of(self.role, self.rank, self.number)

    # Work, and whether more is expected

    @property
    def work(self) -> int:
        """Agent steps of all incarnations together; never decreases."""
        return self.row["agent_steps"]

    @property
    def has_worked(self) -> bool:
        """Whether any incarnation has made agent steps since this attempt began."""
        return self.work > self._work_at_run_start

    @property
    def has_begun(self) -> bool:
        """Whether the current incarnation has made agent steps; always true for the first one."""
        return self.incarnation == 0 or self.work > self._work_at_start

    @property
    def expected(self) -> bool:
        """Whether a process runs or its start is scheduled."""
        return not self.given_up and (self.has_process or self.due_s is not None)

    def note_boot(self, passed_s: float) -> None:
        """Add `passed_s` seconds to `boot_s` while the first incarnation still starts up.

        A pause of the supervisor itself counts for `MAX_TICK_S` at most.
        """
        if self.incarnation == 0 and self.row.phase is Phase.BOOT:
            self.boot_s += min(passed_s, MAX_TICK_S)

    # The process of the current incarnation

    def start(self, postpone: Callable[[], bool]) -> None:
        """Have the fork server fork the current incarnation; signals are only recorded meanwhile.

        Args:
            postpone: whether to leave off the start, as another event has to be handled first.

        Raises:
            StartPostponed: the start was left off; start again later.
            OSError, EOFError: the system cannot create another process, or the fork server fails.
        """
        self.due_s = self._hang = None
        self.row.clear()
        self.announce()
        self._work_at_start = self.work
        self.beats = ProgressMonitor(lambda: self.row["beat"], self.beats.usual_s)
        self.turns = ProgressMonitor(lambda: self.row["turns"], self.turns.usual_s)
        try:
            self._process = self._forked(postpone)
        except StartPostponed:
            raise  # to be started in the next tick: still announced
        except BaseException:
            self.mark_dead()
            raise

    def _forked(self, postpone: Callable[[], bool]) -> ForkedProcess:
        spec, task = self._prepare(self.incarnation)
        self._spec = dataclasses.replace(spec, incarnation_id=secrets.token_hex(8))
        process = ForkedProcess(
            target=child_main, args=(self._spec, PickledTask(task)), name=f"galamp: {self.title}"
        )
        ensure_tracker()
        wake_server()
        process.postpone = postpone
        process.start()
        return process

    @property
    def has_process(self) -> bool:
        """Whether there is a process, running or not yet released."""
        return self._process is not None

    @property
    def pid(self) -> int | None:
        """Its process id; None without a process."""
        return None if self._process is None else self._process.pid

    @property
    def sentinel(self) -> int:
        """A descriptor that becomes readable once the process has ended."""
        assert self._process is not None
        return self._process.sentinel

    @property
    def running(self) -> bool:
        """Whether the process still runs; the next incarnation has to wait until it does not."""
        return self._process is not None and self._process.running

    @property
    def hung(self) -> bool:
        """Whether the process was declared hung."""
        return self._hang is not None

    @property
    def unkillable(self) -> bool:
        """Whether the hung process ignores SIGKILL (stuck in uninterruptible I/O)."""
        return self.has_process and self.hung and self.hung_s > UNKILLABLE_S

    def declare_hung(self, cause: str) -> None:
        """Have the hung process write its stacks to its log; `end_hung` then kills it."""
        self._hang, self.hung_s = cause, 0.0
        process = self._process
        if process is not None and process.is_alive():  # else another may have this id by now
            assert process.pid is not None
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, STACK_SIGNAL)

    def end_hung(self, passed_s: float) -> None:
        """Note that `passed_s` have passed; after `STACK_DUMP_GRACE_S` kill the hung process.

        A pause of the supervisor itself counts for `MAX_TICK_S` at most: it has sent no kill, or
        could not see the end.
        """
        self.hung_s += min(passed_s, MAX_TICK_S)
        if self.hung_s > STACK_DUMP_GRACE_S:
            self.kill()

    def kill(self) -> None:
        """Kill the process now, if there is one."""
        if self._process is not None:
            self._process.kill()

    def join(self, timeout_s: float) -> None:
        """Wait at most `timeout_s` for the end of the process, if there is one."""
        if self._process is not None:
            self._process.join(timeout_s)

    def failure(self) -> ChildFailure | None:
        """Return why the process ended; None while it runs or if it ended well."""
        process, spec = self._process, self._spec
        assert process is not None
        assert process.pid is not None
        assert spec is not None
        spec = dataclasses.replace(spec, log=str(self._where(Path(spec.log)) or spec.log))
        if self._hang is not None:
            return ChildFailure(self.title, self._hang, tail(spec.log))
        return failure_of(spec, process.pid, process.exitcode, server_lost=process.server_lost)

    def release(self) -> None:
        """Release the process that has ended; the next incarnation may start."""
        if self._process is not None:
            self._process.close()
        self._process = None
        self.incarnation += 1

    # What others are told of it

    def announce(self) -> None:
        """Announce the incarnation that starts."""
        self._presence.announce(self.incarnation)

    def mark_dead(self) -> None:
        """Announce that this child does not run: other processes stop waiting for it."""
        self._presence.mark_dead()

    # Restarts

    def give_up(self) -> None:
        """Stop this child for good; nobody waits for it, even if its process does not end."""
        self.given_up, self.due_s = True, None
        self.mark_dead()
        self.kill()

    def expect_failure(self) -> None:
        """Announce an injected failure: the restart policy takes it for no repetition."""
        self._restart_policy.expect_failure()

    @property
    def repeats(self) -> bool:
        """Whether the last two incarnations have failed in the same way at the same agent step."""
        return self._restart_policy.repeats

    def delay_s(self, failure: ChildFailure) -> float | None:
        """Return the seconds until the restart after this failure; None: do not restart."""
        progress = self.work - self._work_at_start
        ended = Failure(failure.cause, progress, failure.deliberate, failure.external)
        return self._restart_policy.delay_s(ended, time.monotonic())


class BridgeChild(Child):
    """The bridge of a node to the others; its rank has no meaning, and its work are its loops."""

    def _role(self) -> str:
        return BRIDGE

    @property
    def title(self) -> str:
        """Its role: a node has one."""
        return BRIDGE

    @property
    def work(self) -> int:
        """Loops of all incarnations together."""
        return self.row["turns"]
