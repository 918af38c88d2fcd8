"""The simulator: joins where it is invited to, then writes a row for each that it is sent."""

from __future__ import annotations

from collections.abc import Iterator

from tests.models.explorer import Program, World
from tests.models.handshake.world import HALF, NUM_SLOTS, Cells, Rules, Simulator, Stamp


class SimulatorSteps:
    def __init__(self, rules: Rules, where: Cells) -> None:
        self._rules, self._where = rules, where

    def program(self) -> Program:
        return {
            "boot": self.boot,
            "await ticket": self.await_ticket,
            "await actions": self.await_actions,
            "see row": self.see_row,
            "write": self.write,
            "commit": self.commit,
            "join": self.join,
        }

    def boot(self, world: World, me: int) -> Iterator[World]:
        memory, simulator = world.memory, world.processes[me]
        seen = {
            "what was joined": memory.joined,
            "nothing": 0,
            "the present ticket": memory.ticket if simulator.incarnation else 0,
        }[self._rules.remembers]
        yield world.after(me, simulator._replace(at="await ticket", seen=seen))

    def await_ticket(self, world: World, me: int) -> Iterator[World]:
        simulator, ticket = world.processes[me], world.memory.ticket
        if ticket != simulator.seen:
            yield world.after(me, simulator._replace(at="see row", seen=ticket, joining=True))
        elif simulator.row is not None:
            yield world.after(me, simulator._replace(at="await actions"))

    def await_actions(self, world: World, me: int) -> Iterator[World]:
        simulator = world.processes[me]
        if world.memory.sent > simulator.row:
            yield from self.start_row(world, me, simulator._replace(row=simulator.row + 1))
        else:
            yield world.after(me, simulator._replace(at="await ticket"))

    def see_row(self, world: World, me: int) -> Iterator[World]:
        simulator = world.processes[me]._replace(row=world.memory.ticket_row)
        yield from self.start_row(world, me, simulator)

    def start_row(self, world: World, me: int, simulator: Simulator) -> Iterator[World]:
        at = "commit" if self._rules.commits_first else "write"
        cells = self.with_row(world, simulator, HALF)
        yield world.after(me, simulator._replace(at=at), cells=cells)

    def write(self, world: World, me: int) -> Iterator[World]:
        simulator = world.processes[me]
        at = self.after_commit(simulator) if self._rules.commits_first else "commit"
        cells = self.with_row(world, simulator, (simulator.row, simulator.incarnation))
        yield world.after(me, simulator._replace(at=at), cells=cells)

    def with_row(self, world: World, simulator: Simulator, stamp: Stamp) -> tuple[Stamp, ...]:
        """The cells with the observation of the row that it comes to, and what led there."""
        row, steps = simulator.row, self._rules.steps
        assert row is not None
        (rollout, step), cells = divmod(row, steps), list(world.memory.cells)
        cells[self._where["observation", rollout % NUM_SLOTS, step]] = stamp
        if step == 0 and rollout > 0:
            cells[self._where["observation", (rollout - 1) % NUM_SLOTS, steps]] = stamp
        if not simulator.joining:
            rollout, step = divmod(row - 1, steps)
            outcome = stamp if stamp == HALF else (row - 1, simulator.incarnation)
            cells[self._where["outcome", rollout % NUM_SLOTS, step]] = outcome
        return tuple(cells)

    def commit(self, world: World, me: int) -> Iterator[World]:
        simulator = world.processes[me]
        at = "write" if self._rules.commits_first else self.after_commit(simulator)
        yield world.after(me, simulator._replace(at=at), committed=simulator.row + 1)

    def after_commit(self, simulator: Simulator) -> str:
        return "join" if simulator.joining else "await ticket"

    def join(self, world: World, me: int) -> Iterator[World]:
        simulator = world.processes[me]
        moved = simulator._replace(at="await ticket", joining=False)
        yield world.after(me, moved, joined=simulator.seen)
