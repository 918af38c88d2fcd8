"""Model of the wait at the staleness bound: a ring of learners, their crashes, and a supervisor.

Each learner publishes, then takes its neighbour's newest message, or goes on without; at the bound
it waits for one, unless its neighbour does not live. The supervisor counts out whom it finds dead
or done, and starts the dead anew or leaves them be. Final is a world in which every process has
come to its end: from anywhere else a way must lead there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from tests.models.explorer import DEAD, DONE, Model, Program, World


class Memory(NamedTuple):
    """One entry per learner in each."""

    unread: tuple[int, ...]
    """Whether its mailbox holds news of its present incarnation: all of its words in one."""
    alive: tuple[int, ...]


class Learner(NamedTuple):
    at: str
    staleness: int = 0
    round: int = 0
    """Outlives a crash, as its counters in shared memory do."""


class Supervisor(NamedTuple):
    at: str = "watch"
    learner: int = 0
    """Whom it has found dead."""
    ended: tuple[int, ...] = ()
    """Those who are done, or will not be started anew."""


@dataclass(frozen=True)
class Rules:
    """How the protocol is played; every default is as in `galamp.gossip.mixing`."""

    learners: int = 3
    rounds: int = 2
    bound: int = 1
    crashes: int = 2
    looks_at_alive: bool = True
    """A learner that waits asks whether the neighbour incarnations."""
    publishes_first: bool = True
    """A learner publishes before it waits, not after."""
    supervisor_crashes: bool = False
    die_with_supervisor: bool = True
    """The kernel ends the learners when the supervisor is dead."""


def model(rules: Rules) -> Model:
    count = rules.learners
    memory = Memory(unread=(0,) * count, alive=(1,) * count)
    start = World(memory, (*[Learner(first_step(rules))] * count, Supervisor()), rules.crashes)
    programs = [*[LearnerSteps(rules).program()] * count, SupervisorSteps(rules).program()]
    crashable = frozenset(range(count + rules.supervisor_crashes))
    return Model(start, programs, crashable, all_ended)


def all_ended(world: World) -> bool:
    return all(process.at in (DONE, DEAD) for process in world.processes)


def first_step(rules: Rules) -> str:
    return "publish" if rules.publishes_first else "mix"


def put(values: tuple[int, ...], at: int, value: int) -> tuple[int, ...]:
    return (*values[:at], value, *values[at + 1 :])


class LearnerSteps:
    def __init__(self, rules: Rules) -> None:
        self._rules = rules

    def program(self) -> Program:
        return {"publish": self.publish, "mix": self.mix, "wait": self.wait}

    def publish(self, world: World, me: int) -> Iterator[World]:
        learner = world.processes[me]
        first = self._rules.publishes_first
        moved = learner._replace(at="mix") if first else self.ended_round(learner)
        yield world.after(me, moved, unread=put(world.memory.unread, me, 1))

    def mix(self, world: World, me: int) -> Iterator[World]:
        """Take the neighbour's newest message, or do without, or wait."""
        unread, learner, neighbour = world.memory.unread, world.processes[me], self.neighbour_of(me)
        if unread[neighbour]:
            moved = self.after_mix(learner._replace(staleness=0))
            yield world.after(me, moved, unread=put(unread, neighbour, 0))
        elif learner.staleness < self._rules.bound:
            yield world.after(me, self.without_news(learner))
        else:
            yield world.after(me, learner._replace(at="wait"))

    def wait(self, world: World, me: int) -> Iterator[World]:
        learner = world.processes[me]
        waits = world.memory.alive[self.neighbour_of(me)] or not self._rules.looks_at_alive
        yield world.after(me, learner._replace(at="mix") if waits else self.without_news(learner))

    def neighbour_of(self, me: int) -> int:
        return (me - 1) % self._rules.learners

    def without_news(self, learner: Learner) -> Learner:
        staleness = min(learner.staleness + 1, self._rules.bound)
        return self.after_mix(learner._replace(staleness=staleness))

    def after_mix(self, learner: Learner) -> Learner:
        first = self._rules.publishes_first
        return self.ended_round(learner) if first else learner._replace(at="publish")

    def ended_round(self, learner: Learner) -> Learner:
        at = DONE if learner.round + 1 >= self._rules.rounds else first_step(self._rules)
        return learner._replace(at=at, round=learner.round + 1)


class SupervisorSteps:
    def __init__(self, rules: Rules) -> None:
        self._rules = rules

    def program(self) -> Program:
        program = {
            "watch": self.watch,
            "judge": self.judge,
            "open incarnation": self.open_incarnation,
            "count in": self.count_in,
            "start": self.start,
        }
        return program | ({DEAD: self.end_all} if self._rules.die_with_supervisor else {})

    def watch(self, world: World, me: int) -> Iterator[World]:
        """Count out a learner that has ended; those that are all done end the run."""
        supervisor, alive = world.processes[me], world.memory.alive
        for rank in set(range(self._rules.learners)) - set(supervisor.ended):
            at, counted_out = world.processes[rank].at, put(alive, rank, 0)
            if at == DEAD:
                found = supervisor._replace(at="judge", learner=rank)
                yield world.after(me, found, alive=counted_out)
            elif at == DONE:
                yield world.after(me, without(supervisor, rank), alive=counted_out)
        if len(supervisor.ended) == self._rules.learners:
            yield world.after(me, supervisor._replace(at=DONE))

    def judge(self, world: World, me: int) -> Iterator[World]:
        """Start it anew, or let it be: it may have died too often."""
        supervisor = world.processes[me]
        yield world.after(me, supervisor._replace(at="open incarnation"))
        yield world.after(me, without(supervisor, supervisor.learner))

    def open_incarnation(self, world: World, me: int) -> Iterator[World]:
        supervisor = world.processes[me]
        unread = put(world.memory.unread, supervisor.learner, 0)
        yield world.after(me, supervisor._replace(at="count in"), unread=unread)

    def count_in(self, world: World, me: int) -> Iterator[World]:
        supervisor = world.processes[me]
        alive = put(world.memory.alive, supervisor.learner, 1)
        yield world.after(me, supervisor._replace(at="start"), alive=alive)

    def start(self, world: World, me: int) -> Iterator[World]:
        supervisor = world.processes[me]
        learner = world.processes[supervisor.learner]
        fresh = Learner(first_step(self._rules), round=learner.round)
        started = world.after(supervisor.learner, fresh)
        yield started.after(me, Supervisor(ended=supervisor.ended))

    def end_all(self, world: World, me: int) -> Iterator[World]:
        """What the kernel does when the supervisor is dead."""
        for rank in range(self._rules.learners):
            world = world.after(rank, Learner(DEAD))
        yield world


def without(supervisor: Supervisor, rank: int) -> Supervisor:
    return Supervisor(ended=tuple(sorted((*supervisor.ended, rank))))
