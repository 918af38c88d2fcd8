"""The crew: every child of a run, each place filled by one life after another.

    Crew.start --> Post: Worker, Watch --reap--> Ended --> supervisor: restart, or give up
                    ^                                                     |
                    +---------- restart_due: a new life <-----------------+

Runs in the supervisor. The order at a death is what the shared memory relies on: the dead process
is reaped, it is marked dead, and only then a new life begins: no two ever write to one place.
"""

from __future__ import annotations

import multiprocessing.connection
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch.multiprocessing

from galamp.arena import Arena
from galamp.budget import Budget, Loss
from galamp.forking import METHOD
from galamp.metrics import MetricsRow, Phase
from galamp.worker import Context, Worker, WorkerFailure, WorkerSpec, out_of_memory_kills

TICK_S = 0.05
KILL_WAIT_S = 5.0
"""Whom the kernel has not ended so long after a kill, it will not: it waits for a disk, say."""
BOOT_LIMIT_S = 120.0
HANG_GAPS = 20.0
"""Who shows no progress for the limit, and for so many times its usual gap, is taken to hang."""
ABSENT_AFTER_S, ABSENT_GAPS = 2.0, 5.0
"""A learner without a turn for so long, and for so many usual turns, is not waited for by peers."""
FORGETTING = 0.99
"""How much of the longest gap is remembered from one count to the next."""


class Watch:
    """How long a count has stood still, in time that the supervisor itself was awake."""

    def __init__(self, count: Callable[[], int]) -> None:
        self.still_s = 0.0
        self._count, self._last = count, count()
        self._usual_s = 0.0

    def look(self, passed_s: float) -> None:
        """Take note of `passed_s` more seconds.

        A gap in the supervisor's own time (a paused machine) counts for a few ticks only.
        """
        count = self._count()
        if count == self._last:
            self.still_s += min(passed_s, 4 * TICK_S)
        else:
            self._usual_s = max(self.still_s, FORGETTING * self._usual_s)
            self.still_s = 0.0
        self._last = count

    def exceeds(self, least_s: float, gaps: float) -> bool:
        """Whether it has stood still for `least_s` and for so many times its usual gap."""
        return self.still_s > max(least_s, gaps * self._usual_s)


class Post:
    """The place of one child, and who fills it now."""

    def __init__(self, arena: Arena, rank: int, worker: int | None, most_restarts: int) -> None:
        """Make the place of learner `rank`, or of one of its simulators; nobody fills it yet."""
        self.rank, self.number = rank, worker
        self.role = "learner" if worker is None else "simulator"
        self.life = 0
        self.worker: Worker | None = None
        self.due_s: float | None = None
        """When the next life begins; None: none is wanted."""
        index = rank if worker is None else arena.count + arena.simulator_index(rank, worker)
        self.row = MetricsRow(arena.arrays, index)
        self.beats = self.turns = Watch(lambda: 0)
        self.given_up = False
        self._arena, self._budget = arena, Budget(most_restarts)
        self._at_first = self._at_birth = self.work

    @property
    def title(self) -> str:
        """Role and rank in words: `learner 0`, `simulator 0.1`."""
        return f"{self.role} {self.rank}" + ("" if self.number is None else f".{self.number}")

    @property
    def work(self) -> int:
        """What its lives have done together: turns of a learner, agent steps of a simulator."""
        return self.row["turns" if self.role == "learner" else "agent_steps"]

    @property
    def has_worked(self) -> bool:
        """Whether any of its lives since this start of the run has done any work."""
        return self.work > self._at_first

    @property
    def staffed(self) -> bool:
        """Whether somebody is here, or is to come."""
        return not self.given_up and (self.worker is not None or self.due_s is not None)

    def fill(self, context: Context) -> None:
        """Begin the present life.

        Raises:
            OSError: the machine has no room for another process.
        """
        self.due_s = None
        self.row.vacate()
        self._announce()
        self._at_birth = self.work
        self.beats = Watch(lambda: self.row["beat"])
        self.turns = Watch(lambda: self.row["turns"])
        self.worker = Worker(*self._spec_and_task(), context)
        try:
            self.worker.start()
        except BaseException:
            self.worker = None
            self.mark_dead()
            raise

    def mark_dead(self) -> None:
        """Tell the others that nobody is here: they do not wait."""
        control = self._arena.control
        if self.number is None:
            control.set_alive(self.rank, False)
        else:
            control.set_simulator_life(self._arena.simulator_index(self.rank, self.number), None)
            self._arena.wake_learner(self.rank)

    def empty(self) -> None:
        """Leave the place of a child that has ended to its next life."""
        if self.worker is not None:
            self.worker.close()
        self.worker = None
        self.life += 1

    def give_up(self) -> None:
        """Want nobody here any more."""
        self.given_up, self.due_s = True, None
        if self.worker is not None:
            self.worker.kill()

    def delay_s(self, failure: WorkerFailure) -> float | None:
        """Return how long to wait before the next life after this failure; None for never."""
        loss = Loss(failure.cause, self.work - self._at_birth, failure.deliberate)
        return self._budget.delay_s(loss, time.monotonic())

    def _spec_and_task(self) -> tuple[WorkerSpec, Any]:
        if self.number is None:
            return self._arena.learner(self.rank, self.life)
        return self._arena.simulator(self.rank, self.number, self.life)

    def _announce(self) -> None:
        """Tell the others who is about to live here; a learner counts once it has come up."""
        control = self._arena.control
        if self.number is None:
            control.set_incarnation(self.rank, self.life)
            # In lock-step all begin anew together, and wait for one another from the start.
            in_step = self._arena.plan.config.gossip.lock_step
            control.set_alive(self.rank, in_step or self.life == 0)
        else:
            index = self._arena.simulator_index(self.rank, self.number)
            control.set_simulator_life(index, self.life)


class Ended(NamedTuple):
    """A life that is over; `failure` is None where it ended well."""

    post: Post
    failure: WorkerFailure | None


class Crew:
    """All places of a run."""

    def __init__(self, arena: Arena) -> None:
        resources = arena.plan.config.resources
        self._arena, self._hang_after_s = arena, resources.hang_after_s
        self._lock_step = arena.plan.config.gossip.lock_step
        self._context = torch.multiprocessing.get_context(METHOD)
        self._out_of_memory = out_of_memory_kills()
        ranks, workers = range(arena.count), range(arena.shape.workers)
        most = resources.max_restarts
        self.learners = [Post(arena, rank, None, most) for rank in ranks]
        self.simulators = [Post(arena, rank, w, most) for rank in ranks for w in workers]

    @property
    def posts(self) -> list[Post]:
        """All places, learners first: they take longest to start."""
        return [*self.learners, *self.simulators]

    def manned(self) -> Iterator[tuple[Post, Worker]]:
        """Yield the places where somebody is, with who it is."""
        return ((post, post.worker) for post in self.posts if post.worker is not None)

    @property
    def learning(self) -> bool:
        """Whether any learner lives, or is to be started anew."""
        return any(post.worker is not None or post.due_s is not None for post in self.learners)

    def simulators_of(self, rank: int) -> list[Post]:
        """Return the places of learner `rank`'s simulators."""
        return [post for post in self.simulators if post.rank == rank]

    def call_up(self) -> None:
        """Have everyone's first life begin."""
        for post in self.posts:
            post.due_s = time.monotonic()

    def call_off(self) -> None:
        """Let no further life begin."""
        for post in self.posts:
            post.due_s = None

    def wait(self) -> None:
        """Sleep until a child ends, for a tick at most."""
        sentinels = [worker.sentinel for _, worker in self.manned()]
        if sentinels:
            multiprocessing.connection.wait(sentinels, TICK_S)
        else:
            time.sleep(TICK_S)

    def reap(self) -> list[Ended]:
        """Take leave of the children that have ended: they are marked dead, their places empty."""
        ended = []
        for post, worker in self.manned():
            if not worker.running:
                post.mark_dead()
                failure = self._named(worker.failure())
                if failure is None and not post.row["done"]:
                    failure = WorkerFailure(post.title, "left before the run was over")
                post.empty()
                ended.append(Ended(post, failure))
        return ended

    def start_due(self, now_s: float) -> list[Ended]:
        """Begin the lives that are due; returns the places where that could not be done."""
        failed = []
        for post in self.posts:
            if post.due_s is not None and now_s >= post.due_s:
                try:
                    post.fill(self._context)
                except (OSError, EOFError) as error:
                    post.empty()
                    why = WorkerFailure(post.title, f"could not be started: {error}")
                    failed.append(Ended(post, why))
        return failed

    def check(self, passed_s: float) -> None:
        """Look for progress: who shows none for long is ended; nobody waits for who is absent."""
        for post, worker in self.manned():
            post.beats.look(passed_s)
            post.turns.look(passed_s)
            if self._hangs(post) and not worker.stuck:
                worker.declare_stuck(
                    f"hung: no progress for {post.beats.still_s:.0f} s "
                    f"in phase {post.row.phase.name.lower()}"
                )
            if post.role == "learner" and post.row.phase is not Phase.BOOT and not self._lock_step:
                absent = post.turns.exceeds(ABSENT_AFTER_S, ABSENT_GAPS)
                self._arena.control.set_alive(post.rank, not absent)

    def _hangs(self, post: Post) -> bool:
        # A learner's first turn may load libraries and choose kernels.
        young = post.row.phase is Phase.BOOT or (post.role == "learner" and not post.work)
        if young:
            return post.beats.exceeds(BOOT_LIMIT_S, 0.0)
        return post.beats.exceeds(self._hang_after_s, HANG_GAPS)

    def kill(self) -> None:
        """End everyone now."""
        for _, worker in self.manned():
            worker.kill()

    def end(self, patience_s: float) -> None:
        """Leave no child behind: wait a moment, kill, reap."""
        self._join(patience_s)
        self.kill()
        self._join(KILL_WAIT_S)

    def _join(self, patience_s: float) -> None:
        """Wait for everyone's end, all together for so long at most."""
        deadline_s = time.monotonic() + patience_s
        for _, worker in self.manned():
            worker.join(max(0.0, deadline_s - time.monotonic()))

    def _named(self, failure: WorkerFailure | None) -> WorkerFailure | None:
        """Say so if the kernel has ended a child for want of memory."""
        kills = out_of_memory_kills()
        before, self._out_of_memory = self._out_of_memory, kills
        if failure is None or kills == before or "SIGKILL" not in failure.cause:
            return failure
        why = "was ended by the kernel: out of memory (use fewer --learners or --num-envs)"
        return WorkerFailure(failure.title, why, failure.details)
