"""The supervisor: reaps a dead simulator, opens a new incarnation, and starts it."""

from __future__ import annotations

from collections.abc import Iterator

from tests.models.explorer import DEAD, DONE, Program, World
from tests.models.handshake.world import (
    SECOND_SIMULATOR,
    SIMULATOR,
    Rules,
    Simulator,
    Supervisor,
)


class SupervisorSteps:
    def __init__(self, rules: Rules) -> None:
        self._rules = rules

    def program(self) -> Program:
        return {
            "watch": self.watch,
            "open incarnation": self.open_incarnation,
            "count in": self.count_in,
            "start": self.start,
            "start second": self.start_second,
        }

    def watch(self, world: World, me: int) -> Iterator[World]:
        """Find a simulator dead; or, which is unsound, start another while it may still run."""
        if world.processes[SIMULATOR].at == DEAD:
            yield world.after(me, Supervisor("open incarnation"), alive=0)
        elif not self._rules.reaped_first and world.processes[SECOND_SIMULATOR].at == "unborn":
            yield world.after(me, Supervisor("start second"), incarnation=1)

    def open_incarnation(self, world: World, me: int) -> Iterator[World]:
        yield world.after(me, Supervisor("count in"), incarnation=world.memory.incarnation + 1)

    def count_in(self, world: World, me: int) -> Iterator[World]:
        yield world.after(me, Supervisor("start"), alive=1)

    def start(self, world: World, me: int) -> Iterator[World]:
        fresh = Simulator(incarnation=world.memory.incarnation)
        yield world.after(SIMULATOR, fresh).after(me, Supervisor())

    def start_second(self, world: World, me: int) -> Iterator[World]:
        yield world.after(SECOND_SIMULATOR, Simulator(incarnation=1)).after(me, Supervisor(DONE))
