"""All children of a run: their starts, ends, failures and hangs.

    schedule_all, start_due --> Child: process, ProgressMonitor --reap--> Ended --> supervisor
                 ^                                                                       |
                 +------------- next incarnation, when it is due <-----------------------+

Runs in the supervisor. The shared memory relies on the order at an end: the dead process is reaped,
it is marked dead, and only then the next incarnation starts: two processes never write to the same
arrays.
"""

from __future__ import annotations

import multiprocessing.connection
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import torch.multiprocessing  # noqa: F401  # tasks may hold tensors: it knows how to send them

from galamp.core.processes.reaper import Orphans
from galamp.memory.status import Phase
from galamp.supervision.child import KILL_TIMEOUT_S, BridgeChild, Child
from galamp.supervision.child_failure import ChildFailure
from galamp.supervision.launching import READINESS, StartPostponed, standard_children
from galamp.supervision.layout import RunLayout
from galamp.supervision.memory_kills import MemoryKills
from galamp.supervision.presence import BridgePresence, LearnerPresence, SimulatorPresence
from galamp.workers.forkserver import SERVER, left_behind, send_server, server_pid, wake_server

if TYPE_CHECKING:
    from galamp.memory.cluster_board import ClusterBoard

TICK_S = 0.05
SERVER_TICK_S = 0.005
"""Poll interval while the fork server loads: every start waits for it."""
ORPHANS_TIMEOUT_S = 1.0
"""Longest wait at the end for killed orphans."""
ORPHANS_EVERY_S = 1.0
"""Interval of the search for orphans; every end of a child starts one, too."""
MAX_LISTED_FAILURES = 4
"""More failures of the same cause at once are reported in one line."""
SERVER_END_TIMEOUT_S = 1.0
"""Longest wait for children whose fork server was killed at the end."""
BOOT_TIMEOUT_S, BOOT_TIMES = 120.0, 10.0
"""Start-up limits: the first incarnation may take `BOOT_TIMEOUT_S` at least; later ones may take
`BOOT_TIMES` the first one's start-up time."""
HANG_GAPS = 20.0
"""Hang = no progress for max(hang_after_s, HANG_GAPS x usual gap)."""
ABSENT_TIMEOUT_S, ABSENT_GAPS = 2.0, 5.0
"""Absent learner = no turn for max(ABSENT_TIMEOUT_S, ABSENT_GAPS x usual gap): peers do not wait.
"""


class Ended(NamedTuple):
    """An incarnation that has ended; `failure` is None where it ended well."""

    child: Child
    failure: ChildFailure | None


class Limit(NamedTuple):
    """Hang limit: max(timeout_s, gaps x usual gap), and the flag that sets it."""

    timeout_s: float
    gaps: float
    flag: str


class Children:
    """All children of a run."""

    bridge: BridgeChild | None = None
    """To the other nodes, in a run on several machines."""
    _board: ClusterBoard | None = None
    _remote = range(0)
    _in_lock_step = False

    def __init__(self, run_layout: RunLayout) -> None:
        resources = run_layout.plan.config.resources
        self._control, self._hang_after_s = run_layout.control, resources.hang_after_s
        self._start_timeout_s = resources.start_timeout_s
        self._in_lock_step = run_layout.plan.config.gossip.exchanges_in_lock_step
        self._server = READINESS
        self.orphans = Orphans(SERVER)
        self._orphans_due_s = 0.0
        self._memory_kills = MemoryKills()
        ranks, workers = range(run_layout.count), range(run_layout.shape.workers)
        self.learners = [_learner(run_layout, rank) for rank in ranks]
        self.simulators = [_simulator(run_layout, rank, w) for rank in ranks for w in workers]
        if run_layout.board is not None:
            self.bridge, self._board = _bridge(run_layout), run_layout.board
            self._remote = run_layout.plan.ranks.remote

    @property
    def all(self) -> list[Child]:
        """All children, learners before simulators: they take longest to start."""
        bridges = [] if self.bridge is None else [self.bridge]
        return [*bridges, *self.learners, *self.simulators]

    def with_process(self) -> Iterator[Child]:
        """Yield each child that has a process."""
        return (child for child in self.all if child.has_process)

    @property
    def learning(self) -> bool:
        """Whether a learner runs or will be restarted; those given up do not count."""
        return any(child.expected for child in self.learners)

    def simulators_of(self, rank: int) -> list[Child]:
        """Return the simulators of learner `rank`."""
        return [child for child in self.simulators if child.rank == rank]

    def schedule_all(self) -> None:
        """Schedule the first start of every child; all are announced before the first one starts.

        Otherwise a learner could begin without those that start after it.
        """
        for child in self.all:
            child.announce()
            child.due_s = time.monotonic()

    def cancel_all(self) -> None:
        """Cancel all scheduled starts: nobody waits for these children any more."""
        for child in self.all:
            if child.due_s is not None:
                child.mark_dead()
            child.due_s = None

    def wait(self) -> None:
        """Sleep until a child ends, for one tick at most."""
        sentinels = [child.sentinel for child in self.with_process()]
        if sentinels:
            multiprocessing.connection.wait(sentinels, TICK_S)
        else:
            time.sleep(SERVER_TICK_S if self._server.awaited else TICK_S)

    def reap(self) -> list[Ended]:
        """Reap the children that have ended: they are marked dead and released.

        In lock-step a learner that has failed is not marked dead yet. The caller does it, once no
        other one can run on without it and overwrite the turn that all have saved.
        """
        ended = []
        for child in self.with_process():
            if not child.running:
                waits = self._in_lock_step and child.role == "learner"
                if not waits:
                    child.mark_dead()  # before files are read for the failure: a disk may be slow
                failure = self._memory_kills.explain(child.failure(), time.monotonic())
                if child.hung and child.row["done"]:
                    failure = None  # its work was done: it has only hung at its exit
                if failure is None and not child.row["done"]:
                    failure = ChildFailure(child.title, "left before the run was over")
                if waits and failure is None:
                    child.mark_dead()
                child.release()
                ended.append(Ended(child, failure))
                self._orphans_due_s = 0.0
        return ended

    def start_due(self, now_s: float, postpone: Callable[[], bool]) -> list[Ended]:
        """Start the children that are due; returns those that could not be started.

        Starts none while the fork server still loads. Stops early if `postpone` says that another
        event has to be handled first, and in lock-step after a learner that could not be started:
        the first ones would train without it meanwhile.
        """
        due = [child for child in self.all if child.due_s is not None and now_s >= child.due_s]
        try:
            if not due or not self._server.poll():
                return []
        except OSError as error:
            return [_not_started(child, error) for child in due]
        failed = []
        for child in due:
            if postpone():
                break
            try:
                child.start(postpone)
            except StartPostponed:
                child.due_s = now_s
                break
            except (OSError, EOFError) as error:
                failed.append(_not_started(child, error))
                if self._in_lock_step and child.role == "learner":
                    break
        return failed

    def look_for_orphans(self, now_s: float) -> None:
        """End orphans if a child has ended or the interval has passed."""
        if now_s >= self._orphans_due_s:
            self._orphans_due_s = 0.0 if self.end_orphans() else now_s + ORPHANS_EVERY_S

    def end_orphans(self) -> int:
        """Kill processes that children have left behind; returns how many still exist."""
        server = server_pid()
        known = [child.pid for child in self.all if child.pid is not None]
        forker = server if self._server.loaded(server) else None
        return self.orphans.end(forker, known, standard_children())

    def check(self, passed_s: float) -> None:
        """Check every child for progress: end hung ones, mark learners without turns as absent."""
        self._memory_kills.poll(time.monotonic())
        for child in self.with_process():
            first = not child.has_worked and child.row.phase is not Phase.BOOT
            child.beats.observe(passed_s, first=first)
            child.turns.observe(passed_s, first=first)
            child.note_boot(passed_s)
            if child.hung:
                child.end_hung(passed_s)
            elif child.beats.exceeds((limit := self._limit(child)).timeout_s, limit.gaps):
                wake_server()  # a stopped server would report no end
                child.declare_hung(
                    f"hung: no progress for {child.beats.still_s:.0f} s "
                    f"in phase {child.row.phase.name.lower()} (more time: {limit.flag})"
                )
            if (
                child.role == "learner"
                and not child.given_up
                and child.row.phase is not Phase.BOOT
                and not self._in_lock_step
            ):
                absent = child.turns.exceeds(ABSENT_TIMEOUT_S, ABSENT_GAPS)
                self._control.set_alive(child.rank, child.has_begun and not absent)
        if self._board is not None:
            self._follow_bridge(self._board)

    def _follow_bridge(self, board: ClusterBoard) -> None:
        """Mark which other nodes' learners are there; none if the bridge does not say so now."""
        bridge = self.bridge
        told = bridge is not None and bridge.has_process
        told = told and bridge is not None and bridge.beats.still_s < ABSENT_TIMEOUT_S
        for rank in self._remote:
            self._control.set_alive(rank, told and bool(board.rank(rank, "alive")))

    def _limit(self, child: Child) -> Limit:
        """Return the hang limit of a child."""
        # The first turn may load libraries and choose kernels.
        if not child.has_worked:
            return Limit(max(BOOT_TIMEOUT_S, self._start_timeout_s), 0.0, "--start-timeout-s")
        if child.row.phase is Phase.BOOT:
            return Limit(max(self._hang_after_s, BOOT_TIMES * child.boot_s), 0.0, "--hang-after-s")
        if not child.has_begun:  # its first step or turn is as slow as the first incarnation's was
            timeout_s = max(self._hang_after_s, self._start_timeout_s)
            return Limit(timeout_s, HANG_GAPS, "--start-timeout-s")
        return Limit(self._hang_after_s, HANG_GAPS, "--hang-after-s")

    def kill(self) -> None:
        """Kill all children now."""
        wake_server()  # a stopped server would report no end
        for child in self.all:
            child.kill()

    def end(self, timeout_s: float) -> None:
        """End all children and their orphans: wait up to `timeout_s`, kill, reap."""
        self._join(timeout_s)
        self.kill()
        if not self._join(KILL_TIMEOUT_S):
            send_server(signal.SIGKILL)  # it may hang; its children are adopted
            self._join(SERVER_END_TIMEOUT_S)
        left_behind.update(
            child.pid for child in self.all if child.running and child.pid is not None
        )
        until_s = time.monotonic() + ORPHANS_TIMEOUT_S
        while self.end_orphans() and time.monotonic() < until_s:
            wake_server()
            time.sleep(SERVER_TICK_S)

    def _join(self, timeout_s: float) -> bool:
        """Wait for all children, `timeout_s` in total; returns whether all have ended."""
        until_s = time.monotonic() + timeout_s
        while left := [child for child in self.all if child.running]:
            left_s = until_s - time.monotonic()
            if left_s <= 0:
                return False
            wake_server()
            left[0].join(min(TICK_S, left_s))
        return True


def _learner(run_layout: RunLayout, rank: int) -> Child:
    """Create learner `rank`."""
    config = run_layout.plan.config
    return Child(
        rank,
        None,
        run_layout.status_board.learner(rank),
        LearnerPresence(run_layout.control, rank, together=config.gossip.exchanges_in_lock_step),
        partial(run_layout.learner, rank),
        config.resources.max_restarts,
        run_layout.where,
    )


def _simulator(run_layout: RunLayout, rank: int, worker: int) -> Child:
    """Create simulator `worker` of learner `rank`."""
    index = run_layout.simulator_index(rank, worker)
    return Child(
        rank,
        worker,
        run_layout.status_board.simulator(index),
        SimulatorPresence(run_layout.control, index, partial(run_layout.wake_learner, rank)),
        partial(run_layout.simulator, rank, worker),
        run_layout.plan.config.resources.max_restarts,
        run_layout.where,
    )


def _bridge(run_layout: RunLayout) -> BridgeChild:
    """Create the bridge."""
    return BridgeChild(
        0,
        None,
        run_layout.status_board.bridge(),
        BridgePresence(run_layout.control, run_layout.plan.ranks.remote),
        run_layout.bridge,
        run_layout.plan.config.resources.max_restarts,
        run_layout.where,
    )


def failure_lines(lost: Sequence[Ended]) -> list[str]:
    """Return one line per failure; "" for those that the line of an equal cause covers."""
    alike = Counter(failure.cause for _, failure in lost if failure is not None)
    words = []
    for _, failure in lost:
        if failure is None or not (count := alike[failure.cause]):
            words.append("")
        elif count > MAX_LISTED_FAILURES:
            words.append(f"{count} learners and simulators: each {failure.cause}")
            alike[failure.cause] = 0
        else:
            words.append(str(failure))
    return words


def _not_started(child: Child, error: Exception) -> Ended:
    """Release a child that could not be started; its next incarnation may be."""
    child.due_s = None
    child.mark_dead()
    child.release()
    cause = f"could not be started: {error}"
    return Ended(child, ChildFailure(child.title, cause, external=True))
