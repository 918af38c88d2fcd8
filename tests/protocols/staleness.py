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

from tests.protocols.explorer import DEAD, DONE, Model, Program, World


class Memory(NamedTuple):
    """One entry per learner in each."""

    unread: tuple[int, ...]
    """Whether its mailbox holds news of its present life: head, tail and incarnation in one."""
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
    """A learner that waits asks whether the neighbour lives."""
    publishes_first: bool = True
    """A learner publishes before it waits, not after."""
    supervisor_crashes: bool = False
    die_with_supervisor: bool = True
    """The kernel ends the learners when the supervisor is dead."""


def model(rules: Rules) -> Model:
    count = rules.learners
    memory = Memory(unread=(0,) * count, alive=(1,) * count)
    start = World(memory, (*[Learner(first_step(rules))] * count, Supervisor()), rules.crashes)
    programs = [*[learner_program(rules)] * count, supervisor_program(rules)]
    crashable = frozenset(range(count + rules.supervisor_crashes))
    return Model(start, programs, crashable, all_ended)


def all_ended(world: World) -> bool:
    return all(process.at in (DONE, DEAD) for process in world.processes)


def first_step(rules: Rules) -> str:
    return "publish" if rules.publishes_first else "mix"


def put(values: tuple[int, ...], at: int, value: int) -> tuple[int, ...]:
    return (*values[:at], value, *values[at + 1 :])


def learner_program(rules: Rules) -> Program:
    def publish(world: World, me: int) -> Iterator[World]:
        learner = world.processes[me]
        moved = learner._replace(at="mix") if rules.publishes_first else ended_round(learner)
        yield world.after(me, moved, unread=put(world.memory.unread, me, 1))

    def mix(world: World, me: int) -> Iterator[World]:
        """Take the neighbour's newest message, or do without, or wait."""
        unread, learner, neighbour = world.memory.unread, world.processes[me], neighbour_of(me)
        if unread[neighbour]:
            moved = after_mix(learner._replace(staleness=0))
            yield world.after(me, moved, unread=put(unread, neighbour, 0))
        elif learner.staleness + 1 < rules.bound:
            yield world.after(me, without_news(learner))
        else:
            yield world.after(me, learner._replace(at="wait"))

    def wait(world: World, me: int) -> Iterator[World]:
        learner = world.processes[me]
        waits = world.memory.alive[neighbour_of(me)] or not rules.looks_at_alive
        yield world.after(me, learner._replace(at="mix") if waits else without_news(learner))

    def neighbour_of(me: int) -> int:
        return (me - 1) % rules.learners

    def without_news(learner: Learner) -> Learner:
        staleness = min(learner.staleness + 1, rules.bound)
        return after_mix(learner._replace(staleness=staleness))

    def after_mix(learner: Learner) -> Learner:
        return ended_round(learner) if rules.publishes_first else learner._replace(at="publish")

    def ended_round(learner: Learner) -> Learner:
        at = DONE if learner.round + 1 >= rules.rounds else first_step(rules)
        return learner._replace(at=at, round=learner.round + 1)

    return {"publish": publish, "mix": mix, "wait": wait}


def supervisor_program(rules: Rules) -> Program:
    def watch(world: World, me: int) -> Iterator[World]:
        """Count out a learner that has ended; those that are all done end the run."""
        supervisor, alive = world.processes[me], world.memory.alive
        for rank in set(range(rules.learners)) - set(supervisor.ended):
            at, counted_out = world.processes[rank].at, put(alive, rank, 0)
            if at == DEAD:
                found = supervisor._replace(at="judge", learner=rank)
                yield world.after(me, found, alive=counted_out)
            elif at == DONE:
                yield world.after(me, without(supervisor, rank), alive=counted_out)
        if len(supervisor.ended) == rules.learners:
            yield world.after(me, supervisor._replace(at=DONE))

    def judge(world: World, me: int) -> Iterator[World]:
        """Start it anew, or let it be: it may have died too often."""
        supervisor = world.processes[me]
        yield world.after(me, supervisor._replace(at="open life"))
        yield world.after(me, without(supervisor, supervisor.learner))

    def open_life(world: World, me: int) -> Iterator[World]:
        supervisor = world.processes[me]
        unread = put(world.memory.unread, supervisor.learner, 0)
        yield world.after(me, supervisor._replace(at="count in"), unread=unread)

    def count_in(world: World, me: int) -> Iterator[World]:
        supervisor = world.processes[me]
        alive = put(world.memory.alive, supervisor.learner, 1)
        yield world.after(me, supervisor._replace(at="start"), alive=alive)

    def start(world: World, me: int) -> Iterator[World]:
        supervisor = world.processes[me]
        learner = world.processes[supervisor.learner]
        fresh = Learner(first_step(rules), round=learner.round)
        started = world.after(supervisor.learner, fresh)
        yield started.after(me, Supervisor(ended=supervisor.ended))

    def end_all(world: World, me: int) -> Iterator[World]:
        """What the kernel does when the supervisor is dead."""
        for rank in range(rules.learners):
            world = world.after(rank, Learner(DEAD))
        yield world

    program = {
        "watch": watch,
        "judge": judge,
        "open life": open_life,
        "count in": count_in,
        "start": start,
    }
    return program | ({DEAD: end_all} if rules.die_with_supervisor else {})


def without(supervisor: Supervisor, rank: int) -> Supervisor:
    return Supervisor(ended=tuple(sorted((*supervisor.ended, rank))))
