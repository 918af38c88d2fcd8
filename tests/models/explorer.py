"""A small explicit-state model checker: every interleaving, and a crash before every step.

A model is a start `World`, a program per process, and what makes a world final. A program maps the
name of a step to a function from world and process to the worlds that it can lead to: none while
it has to wait, several where it depends on luck. A step touches at most one shared word, since only
words are atomic. A process's private state is a NamedTuple whose `at` names its next step; one that
crashed is at `DEAD`, where its program may have a step too: being started anew.

`explore` looks for two kinds of fault, and no further than the worlds that are final. A step that
raises `Violated` says that the protocol was broken there. And a world from which no final one can
be reached any more, however lucky the processes are, is stuck: nobody can move, or someone waits in
vain for ever.
"""

from __future__ import annotations

import contextlib
import gc
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

DEAD = "dead"
DONE = "done"
STUCK = "stuck"
MOST_WORLDS = 400_000


class Violated(Exception):
    """A step that a sound protocol never takes; its first argument is the kind of fault."""


class World(NamedTuple):
    """All there is: shared memory, each process's private state, and the crashes still to come."""

    memory: Any
    processes: tuple[Any, ...]
    crashes_left: int

    def after(self, process: int, private: Any, **words: Any) -> World:
        """The world in which `process` has moved on to `private`, having written `words`."""
        processes = (*self.processes[:process], private, *self.processes[process + 1 :])
        memory = self.memory._replace(**words) if words else self.memory
        return World(memory, processes, self.crashes_left)


Step = Callable[[World, int], Iterable[World]]
Program = Mapping[str, Step]


@dataclass(frozen=True)
class Model:
    """What is explored: see the head of this file."""

    start: World
    programs: Sequence[Program]
    crashable: frozenset[int]
    is_final: Callable[[World], bool]


class Finding(NamedTuple):
    """How many worlds were seen, and the shortest way to a fault, if there is one."""

    worlds: int
    fault: str | None
    trace: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join([f"{self.fault} among {self.worlds:,} worlds", *self.trace])


class _Explored:
    """The worlds found so far, numbered in order, and which leads to which."""

    def __init__(self, start: World) -> None:
        self.worlds = [start]
        self.numbers = {start: 0}
        self.found_from: list[tuple[int, str]] = [(-1, "start")]
        self.came_from: list[list[int]] = [[]]

    def add(self, world: World, origin: int, label: str, *, by_crash: bool) -> None:
        number = self.numbers.setdefault(world, len(self.worlds))
        if number == len(self.worlds):
            assert number < MOST_WORLDS, "the model is too large to be explored"
            self.worlds.append(world)
            self.found_from.append((origin, label))
            self.came_from.append([])
        if not by_crash:  # nobody may count on a crash to get on
            self.came_from[number].append(origin)

    def trace(self, number: int) -> tuple[str, ...]:
        labels = []
        while number >= 0:
            number, label = self.found_from[number]
            labels.append(label)
        return tuple(reversed(labels))


def explore(model: Model) -> Finding:
    """Visit every reachable world, nearest first."""
    with without_garbage_collection():
        return _explore(model)


@contextlib.contextmanager
def without_garbage_collection() -> Iterator[None]:
    """A fifth of the time would go into looking at the worlds again, which have no cycles."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _explore(model: Model) -> Finding:
    explored = _Explored(model.start)
    queue = deque([0])
    while queue:
        number = queue.popleft()
        if model.is_final(explored.worlds[number]):
            continue
        known = len(explored.worlds)
        fault = _expand(model, explored, number)
        if fault is not None:
            return Finding(len(explored.worlds), fault[0], (*explored.trace(number), fault[1]))
        queue.extend(range(known, len(explored.worlds)))
    return _judge(model, explored)


def _expand(model: Model, explored: _Explored, number: int) -> tuple[str, str] | None:
    """Add all that one world leads to; returns kind and label of a step that broke the protocol."""
    world = explored.worlds[number]
    for process, program in enumerate(model.programs):
        private = world.processes[process]
        step = program.get(private.at)
        if step is not None:
            label = f"{process}: {private.at}"
            try:
                for following in step(world, process):
                    explored.add(following, number, label, by_crash=False)
            except Violated as broken:
                return str(broken), label
        may_crash = world.crashes_left and process in model.crashable
        if may_crash and private.at not in (DEAD, DONE):
            dead = world.after(process, private._replace(at=DEAD))
            dead = dead._replace(crashes_left=world.crashes_left - 1)
            explored.add(dead, number, f"{process}: crashes at {private.at}", by_crash=True)
    return None


def _judge(model: Model, explored: _Explored) -> Finding:
    """Look for the first world from which no final one is reached."""
    reaches_end = [model.is_final(world) for world in explored.worlds]
    queue = deque(number for number, end in enumerate(reaches_end) if end)
    while queue:
        for origin in explored.came_from[queue.popleft()]:
            if not reaches_end[origin]:
                reaches_end[origin] = True
                queue.append(origin)
    total = len(reaches_end)
    if all(reaches_end):
        return Finding(total, None, ())
    stuck = reaches_end.index(False)
    where = "ends up at " + ", ".join(str(p.at) for p in explored.worlds[stuck].processes)
    return Finding(total, STUCK, (*explored.trace(stuck), where))
