"""Invariant monitor: observes a run under faults, and checks the invariants.

    Supervisor: rows, slots, children   --every tick-->  NoTornReads, MonotonicCounters,
                                                         LearnersProgress, FiniteParameters,
                                                         BoundedStaleness
    /proc: children, files, memory      --at intervals-> ExpectedProcesses, NoLeaks
    checkpoints, named memory           --in a thread--> CheckpointsVerify, NoLeaks

Runs in the supervisor. Slow checks are done in a thread, so that no learner is delayed.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from galamp.core.errors import CheckpointError
from galamp.core.processes.allocator import keep_nothing_spare
from galamp.gossip.transport.parameter_slots import ParameterSlots
from galamp.storage import checkpoint
from galamp.supervision.child import Child
from galamp.supervision.children import TICK_S
from galamp.supervision.restart_policy import MAX_DELAY_S
from galamp.tools.chaos import procfs
from galamp.tools.chaos.clock import Clock
from galamp.tools.chaos.injector import Injector
from galamp.tools.chaos.invariants import (
    MIN_GAP_S,
    PAUSE_S,
    USUAL_GAPS,
    BoundedStaleness,
    Breach,
    CheckpointsVerify,
    ExpectedProcesses,
    FiniteParameters,
    Invariant,
    LearnerSeen,
    LearnersProgress,
    MonotonicCounters,
    NoLeaks,
    NoTornReads,
)
from galamp.tools.chaos.link_invariants import LEASE_S
from galamp.tools.chaos.link_watch import LinkWatch
from galamp.tools.chaos.schedule import LINK, MACHINE
from galamp.training.supervisor import Supervisor

PROC_EVERY_S, VECTORS_EVERY_S, FILES_EVERY_S = 0.5, 0.25, 3.0
BOOT_S = 30.0
"""A restarted learner makes its first turn within this time."""
NEWEST = 2
COUNTERS = ("agent_steps", "turns", "updates")


class FileChecks(NamedTuple):
    """Results of the thread."""

    verified: int
    damaged: tuple[str, ...]
    names: set[str]


def inspect_files(folder: Path, pids: list[int]) -> FileChecks:
    """Verify the newest checkpoints and list the shared memory of processes; slow."""
    verified, damaged = check_newest(folder)
    names: set[str] = set().union(*(procfs.named_memory(pid) for pid in pids))
    return FileChecks(verified, damaged, names)


def check_newest(folder: Path) -> tuple[int, tuple[str, ...]]:
    """Return how many of the newest checkpoints are whole, and the errors of the others."""
    newest = sorted(folder.glob("ckpt-*"), key=lambda path: path.name)[-NEWEST:]
    verified, damaged = 0, []
    for path in newest:
        try:
            checkpoint.load(path, learners=())
            verified += 1
        except CheckpointError as error:
            if path.exists():  # else it was removed meanwhile as too old
                damaged.append(str(error))
    return verified, tuple(damaged)


class InvariantMonitor:
    """All invariants of one run."""

    def __init__(
        self,
        supervisor: Supervisor,
        injector: Injector,
        folder: Path,
        link: LinkWatch | None = None,
    ) -> None:
        """Start to observe a run in which every learner works and no fault was injected yet."""
        self._link = link
        keep_nothing_spare()
        run_layout = supervisor.run_layout
        gossip, resources = run_layout.plan.config.gossip, run_layout.plan.config.resources
        self._run_layout, self._children, self._saver = (
            run_layout,
            supervisor.children,
            supervisor.saver,
        )
        self._injector, self._checkpoints = injector, folder / "checkpoints"
        edges = run_layout.topology.edges()
        self._senders = [[s for s, r in edges if r == rank] for rank in range(run_layout.count)]
        self._slots = [ParameterSlots(run_layout.arrays, rank) for rank in range(run_layout.count)]
        self._incarnations = {child.title: child.incarnation for child in self._children.all}
        limit_s = resources.hang_after_s + MAX_DELAY_S + BOOT_S
        self.whole, self.rising, self.finite = (
            NoTornReads(),
            MonotonicCounters(),
            FiniteParameters(),
        )
        self.running, self.flat, self.saved = ExpectedProcesses(), NoLeaks(), CheckpointsVerify()
        self.turning = LearnersProgress(run_layout.count, limit_s, MIN_GAP_S)
        bounded = gossip.max_staleness is not None and run_layout.topology.period() == 1
        self.fresh = (
            BoundedStaleness(run_layout.count, gossip.max_staleness or 0) if bounded else None
        )
        self._bounded = gossip.max_staleness is not None
        self._verifies = gossip.verify_gossip
        self._proc, self._vectors, self._slow = map(
            Clock, (PROC_EVERY_S, VECTORS_EVERY_S, FILES_EVERY_S)
        )
        self._next_rank, self._proc_s, self._now_s = 0, 0.0, 0.0
        self._thread = ThreadPoolExecutor(1)
        self._file_checks: Future[FileChecks] | None = None

    @property
    def invariants(self) -> list[Invariant]:
        """All of them, in order."""
        known = (self.whole, self.rising, self.turning, self.finite, self.running, self.flat)
        of_link = [] if self._link is None else self._link.invariants
        return [*known, self.saved, *([self.fresh] if self.fresh else []), *of_link]

    @property
    def breach(self) -> Breach | None:
        """The first breach; None if there is none."""
        return next((each.breach for each in self.invariants if each.breach), None)

    def set_usual_turn(self, usual_turn_s: float) -> None:
        """Set the usual duration of a turn, once the warm-up is over."""
        self.turning.bound_s = max(MIN_GAP_S, USUAL_GAPS * usual_turn_s)
        if self._link is not None:
            busy, pause_s = self._link.busy, PAUSE_S * self._link.busy + usual_turn_s
            self.turning.pause_s = self.turning.untold_pause_s = pause_s
            if self._bounded:  # they wait at their bound until the lease has passed
                self.turning.untold_pause_s += LEASE_S * busy
            self._link.set_usual_turn(usual_turn_s)

    def tick(self, now_s: float) -> None:
        """Do the checks that are due."""
        passed_s = now_s - self._now_s if self._now_s else 0.0
        self._now_s = now_s
        awake_s = min(passed_s, 4 * TICK_S)
        self._check_ends()
        self._check_rows(passed_s, awake_s)
        if self._link is not None:
            self._link.check(awake_s)
        self._proc_s += awake_s
        if self._vectors.due(now_s):
            self._check_vector()
        if self._proc.due(now_s):
            self._check_processes(self._proc_s)
            self._proc_s = 0.0
        self._check_files(now_s)

    def weigh(self) -> None:
        """Compare files and memory held now with those of the first call."""
        of_link = 0 if self._link is None else self._link.descriptors
        self.flat.observe_descriptors(procfs.descriptors() - of_link)
        self.flat.observe_memory(procfs.own_bytes())
        self.flat.observe_children(sum(map(procfs.pss_bytes, self._pids())))
        if self._link is not None:
            self._link.weigh()

    def close(self) -> None:
        """End the thread, once its current work is done, and what the link needs."""
        self._thread.shutdown(wait=False)
        if self._link is not None:
            self._link.close()

    @property
    def quiet(self) -> bool:
        """Whether all children run, and no file is open only temporarily."""
        filled = all(child.has_process or child.given_up for child in self._children.all)
        return filled and not self._saver.busy and self._file_checks is None

    def _check_ends(self) -> None:
        """Check that only processes that were hit have ended."""
        for child in self._children.all:
            if child.incarnation > self._incarnations[child.title]:
                self._incarnations[child.title] = child.incarnation
                hit = any(injected.may_end(child) for injected in self._injector.open)
                self.running.end_of(child.title, hit)

    def _check_rows(self, passed_s: float, awake_s: float) -> None:
        rows, control = [child.row for child in self._children.learners], self._run_layout.control
        if self._verifies:
            self.whole.observe(
                sum(r.metrics["torn"] for r in rows), sum(r.metrics["received"] for r in rows)
            )
        children = self._children.all
        names = (
            (f"{name} of {child.title}", child.row[name]) for child in children for name in COUNTERS
        )
        self.rising.observe(dict(names))
        self.turning.observe(awake_s, [self._seen(child) for child in self._children.learners])
        if self.fresh is not None:
            peers = [all(map(control.alive, senders)) for senders in self._senders]
            self.fresh.observe(passed_s, [row["staleness"] for row in rows], peers)

    def _seen(self, learner: Child) -> LearnerSeen:
        group = [learner, *self._children.simulators_of(learner.rank)]
        hit = [child for injected in self._injector.open for child in injected.children]
        roles = {each.fault.role for each in self._injector.open}
        away = not roles.isdisjoint((LINK, MACHINE))
        return LearnerSeen(
            turns=learner.row["turns"],
            expected=all(child.has_process or child.given_up for child in group),
            hit=any(child in group for child in hit),
            others_hit=away or any(child not in group for child in hit),
            away=away and not hit,
            untold=LINK in roles,
        )

    def _check_vector(self) -> None:
        """Check the publication of one learner, the next one at each call."""
        self._next_rank = (self._next_rank + 1) % len(self._slots)
        slots = self._slots[self._next_rank]
        vector = slots.copy(slots.payload.shape[1])
        if vector is not None:
            self.finite.observe(self._next_rank, vector)

    def _check_processes(self, passed_s: float) -> None:
        meant = {child.pid: child.title for child in self._children.all if child.pid is not None}
        self.running.observe(passed_s, list(self._mismatches(meant)), list(left_behind(meant)))
        self.running.helpers = self._children.orphans.ended

    def _mismatches(self, meant: dict[int, str]) -> Iterator[str]:
        """Yield as text which children are not as expected."""
        for pid, title in meant.items():
            if procfs.process(pid) is None:
                yield f"{title} ({pid}) has ended, and counts as running"
        yield from (f"{child.title} was given up" for child in self._children.all if child.given_up)

    def _pids(self) -> list[int]:
        return [child.pid for child in self._children.all if child.pid is not None]

    def _check_files(self, now_s: float) -> None:
        if self._file_checks is not None and self._file_checks.done():
            found, self._file_checks = self._file_checks.result(), None
            self.saved.observe(found.verified, found.damaged)
            self.flat.observe_names(found.names)
        elif self._file_checks is None and self._slow.due(now_s):
            pids = [os.getpid(), *self._pids()]
            # RuntimeError: no room for a thread now; the next call tries again.
            with contextlib.suppress(RuntimeError):
                self._file_checks = self._thread.submit(inspect_files, self._checkpoints, pids)


def left_behind(meant: Collection[int]) -> Iterator[str]:
    """Yield as text which processes belong to no child, or have ended and were not reaped."""
    servers = {server for server in map(procfs.server_of, meant) if server is not None}
    for child in procfs.children({os.getpid(), *servers}):
        if child.zombie:
            yield f"process {child.pid} ({child.name}) is a zombie"
        elif child.parent != os.getpid() and child.pid not in meant:
            yield f"process {child.pid} ({child.name}) runs, and belongs to no child"
