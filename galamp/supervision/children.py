"""The crew: every child of a run, each place filled by one life after another.

    call_up, start_due --> Child: Worker, Watch --reap--> Ended --> supervisor: again, or give up
                 ^                                                      |
                 +----------------- a new life, when it is due <--------+

Runs in the supervisor. The order at a death is what the shared memory relies on: the dead process
is reaped, it is marked dead, and only then a new life begins: no two ever write to one place.
"""

from __future__ import annotations

import multiprocessing.connection
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch.multiprocessing  # noqa: F401  # tasks may hold tensors: it knows how to send them

from galamp.core.machine.memory import out_of_memory_kills
from galamp.core.processes.reaper import Orphans
from galamp.memory.status import Phase
from galamp.supervision.child import KILL_WAIT_S, Child
from galamp.supervision.launching import READINESS, Hurried, standard_children
from galamp.supervision.layout import RunLayout
from galamp.supervision.process import ChildFailure, ChildProcess
from galamp.workers.forkserver import SERVER, left_behind, send_server, server_pid, wake_server

TICK_S = 0.05
SERVER_TICK_S = 0.005
"""While the server loads it is looked at so often: everyone waits for it."""
ORPHANS_WAIT_S = 1.0
"""What children leave behind is waited for so long at the end, after it was killed."""
ORPHANS_EVERY_S = 1.0
"""Orphans are looked for so often, and after every end."""
MOST_TOLD = 4
"""More losses of the same cause at once are told together."""
SERVER_END_WAIT_S = 1.0
"""Children whose server was killed at the end are waited for so long."""
BOOT_LIMIT_S, BOOT_TIMES = 120.0, 10.0
"""A first life may take so long to come up at least, whatever one environment may; later lives so
many times as long as the first took."""
HANG_GAPS = 20.0
"""Who shows no progress for the limit, and for so many times its usual gap, is taken to hang."""
ABSENT_AFTER_S, ABSENT_GAPS = 2.0, 5.0
"""A learner without a turn for so long, and for so many usual turns, is not waited for by peers."""


class Ended(NamedTuple):
    """A life that is over; `failure` is None where it ended well."""

    child: Child
    failure: ChildFailure | None


class Limit(NamedTuple):
    """So long, and for so many usual gaps, may somebody show no progress; the flag that says so."""

    least_s: float
    gaps: float
    flag: str


class Children:
    """All places of a run."""

    def __init__(self, run_layout: RunLayout) -> None:
        resources = run_layout.plan.config.resources
        self._run_layout, self._hang_after_s = run_layout, resources.hang_after_s
        self._start_timeout_s = resources.start_timeout_s
        self._coupled = run_layout.plan.config.gossip.coupled
        self._server = READINESS
        self.orphans = Orphans(SERVER)
        self._orphans_due_s = 0.0
        self._out_of_memory = out_of_memory_kills()
        ranks, workers = range(run_layout.count), range(run_layout.shape.workers)
        most = resources.max_restarts
        self.learners = [Child(run_layout, rank, None, most) for rank in ranks]
        self.simulators = [Child(run_layout, rank, w, most) for rank in ranks for w in workers]

    @property
    def all(self) -> list[Child]:
        """All places, learners first: they take longest to start."""
        return [*self.learners, *self.simulators]

    def running(self) -> Iterator[tuple[Child, ChildProcess]]:
        """Yield the places where somebody is, with who it is."""
        return ((child, child.process) for child in self.all if child.process is not None)

    @property
    def learning(self) -> bool:
        """Whether a learner lives or is to be started anew; who cannot be ended does not count."""
        return any(child.expected and not child.unkillable for child in self.learners)

    def simulators_of(self, rank: int) -> list[Child]:
        """Return the places of learner `rank`'s simulators."""
        return [child for child in self.simulators if child.rank == rank]

    def schedule_all(self) -> None:
        """Have everyone's first life begin."""
        for child in self.all:
            child.due_s = time.monotonic()

    def cancel_all(self) -> None:
        """Let no further life begin."""
        for child in self.all:
            child.due_s = None

    def wait(self) -> None:
        """Sleep until a child ends, for a tick at most."""
        sentinels = [process.sentinel for _, process in self.running()]
        if sentinels:
            multiprocessing.connection.wait(sentinels, TICK_S)
        else:
            time.sleep(SERVER_TICK_S if self._server.awaited else TICK_S)

    def reap(self) -> list[Ended]:
        """Take leave of the children that have ended: they are marked dead, their places empty."""
        ended = []
        for child, process in self.running():
            if not process.running:
                child.mark_dead()
                failure = self._named(process.failure())
                if failure is None and not child.row["done"]:
                    failure = ChildFailure(child.title, "left before the run was over")
                child.release()
                ended.append(Ended(child, failure))
                self._orphans_due_s = 0.0
        return ended

    def start_due(self, now_s: float, hurried: Callable[[], bool]) -> list[Ended]:
        """Begin the lives that are due; returns the places where that could not be done.

        None while the server still loads. With `hurried` it leaves off: something else is to be
        looked at first.
        """
        due = [child for child in self.all if child.due_s is not None and now_s >= child.due_s]
        try:
            if not due or not self._server.look():
                return []
        except OSError as error:
            return [_not_started(child, error) for child in due]
        failed = []
        for child in due:
            if hurried():
                break
            try:
                child.start(hurried)
            except Hurried:
                child.due_s = now_s
                break
            except (OSError, EOFError) as error:
                failed.append(_not_started(child, error))
        return failed

    def look_for_orphans(self, now_s: float) -> None:
        """End what children have left behind, if any has ended or it is time to look again."""
        if now_s >= self._orphans_due_s:
            self._orphans_due_s = 0.0 if self.end_orphans() else now_s + ORPHANS_EVERY_S

    def end_orphans(self) -> int:
        """End what children have left behind; returns how many of it are not gone yet."""
        server = server_pid()
        known = [process.pid for _, process in self.running()]
        forking = server if self._server.loaded(server) else None
        return self.orphans.end(forking, known, standard_children())

    def check(self, passed_s: float) -> None:
        """Look for progress: who shows none for long is ended; nobody waits for who is absent."""
        for child, process in self.running():
            first = not child.has_worked and child.row.phase is not Phase.BOOT
            child.beats.observe(passed_s, first=first)
            child.turns.observe(passed_s, first=first)
            child.note_boot(passed_s)
            if process.stuck:
                process.end_stuck()
            elif child.beats.exceeds((limit := self._limit(child)).least_s, limit.gaps):
                wake_server()  # should it be the one that was stopped, nobody's end is heard of
                process.declare_stuck(
                    f"hung: no progress for {child.beats.still_s:.0f} s "
                    f"in phase {child.row.phase.name.lower()} (more time: {limit.flag})"
                )
            if child.role == "learner" and child.row.phase is not Phase.BOOT and not self._coupled:
                absent = child.turns.exceeds(ABSENT_AFTER_S, ABSENT_GAPS)
                self._run_layout.control.set_alive(child.rank, child.has_begun and not absent)

    def _limit(self, child: Child) -> Limit:
        """Return how long somebody may show no progress."""
        # The first turn may load libraries and choose kernels.
        if not child.has_worked:
            return Limit(max(BOOT_LIMIT_S, self._start_timeout_s), 0.0, "--start-timeout-s")
        if child.row.phase is Phase.BOOT:
            return Limit(max(self._hang_after_s, BOOT_TIMES * child.boot_s), 0.0, "--hang-after-s")
        return Limit(self._hang_after_s, HANG_GAPS, "--hang-after-s")

    def kill(self) -> None:
        """End everyone now."""
        wake_server()  # a stopped one would tell of no end
        for _, process in self.running():
            process.kill()

    def end(self, patience_s: float) -> None:
        """Leave no child behind, and nothing of theirs: wait a moment, kill, reap."""
        self._join(patience_s)
        self.kill()
        if not self._join(KILL_WAIT_S):
            send_server(signal.SIGKILL)  # it may hang: whom it has not reaped is adopted
            self._join(SERVER_END_WAIT_S)
        left_behind.update(process.pid for _, process in self.running() if process.running)
        until_s = time.monotonic() + ORPHANS_WAIT_S
        while self.end_orphans() and time.monotonic() < until_s:
            wake_server()
            time.sleep(SERVER_TICK_S)

    def _join(self, patience_s: float) -> bool:
        """Wait for everyone's end, all together for so long at most; returns whether all have."""
        until_s = time.monotonic() + patience_s
        while left := [process for _, process in self.running() if process.running]:
            left_s = until_s - time.monotonic()
            if left_s <= 0:
                return False
            wake_server()
            left[0].join(min(TICK_S, left_s))
        return True

    def _named(self, failure: ChildFailure | None) -> ChildFailure | None:
        """Say so if the kernel has ended a child for want of memory."""
        kills = out_of_memory_kills()
        more, self._out_of_memory = kills > self._out_of_memory, max(kills, self._out_of_memory)
        if failure is None or not more or not failure.external:
            return failure
        why = "was ended by the kernel: out of memory (use fewer --learners or --num-envs)"
        return ChildFailure(failure.title, why, failure.details)


def words_for(lost: Sequence[Ended]) -> list[str]:
    """Return what to tell of each: what many have in common is told of the first one only."""
    alike = Counter(failure.cause for _, failure in lost if failure is not None)
    words = []
    for _, failure in lost:
        if failure is None or not (count := alike[failure.cause]):
            words.append("")
        elif count > MOST_TOLD:
            words.append(f"{count} learners and simulators: each {failure.cause}")
            alike[failure.cause] = 0
        else:
            words.append(str(failure))
    return words


def _not_started(child: Child, error: Exception) -> Ended:
    """Leave a place, whose life could not be begun, to its next one."""
    child.due_s = None
    child.release()
    cause = f"could not be started: {error}"
    return Ended(child, ChildFailure(child.title, cause, external=True))
