"""The learner: invites a simulator, acts on its rows, uses them all in the update."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.models.explorer import DEAD, DONE, Program, Violated, World
from tests.models.handshake.world import HALF, LEARNER, NUM_SLOTS, Cells, Learner, Rules


class LearnerSteps:
    def __init__(self, rules: Rules, where: Cells) -> None:
        self._rules, self._where = rules, where

    def program(self) -> Program:
        return {
            "see incarnation": self.see_incarnation,
            "write ticket row": self.write_ticket_row,
            "write ticket": self.write_ticket,
            "start rollout": self.start_rollout,
            "await": self.await_row,
            "ask": self.ask,
            "use": self.use,
            "send": self.send,
            "update": self.update,
            DEAD: self.resume,
        }

    # Inviting

    def invite(self, learner: Learner) -> Learner:
        """Ask the simulator, once it is known which, to join at a coming rollout."""
        knows = self._rules.watches != "incarnation since invitation"
        return learner._replace(at=self.first_of_ticket() if knows else "see incarnation")

    def first_of_ticket(self) -> str:
        return "write ticket row" if self._rules.row_first else "write ticket"

    def after_ticket(self, learner: Learner) -> str:
        return "update" if learner.rollout >= 0 else "start rollout"

    def see_incarnation(self, world: World, me: int) -> Iterator[World]:
        joining = self._rules.watches == "incarnation since joining"
        at = "await" if joining else self.first_of_ticket()
        yield from move(
            world, world.processes[me]._replace(at=at, incarnation=world.memory.incarnation)
        )

    def write_ticket_row(self, world: World, me: int) -> Iterator[World]:
        learner, rules = world.processes[me], self._rules
        at = "write ticket" if rules.row_first else self.after_ticket(learner)
        rollout = learner.rollout + rules.ahead if learner.rollout >= 0 else 0
        yield from move(world, learner._replace(at=at), ticket_row=rollout * rules.steps)

    def write_ticket(self, world: World, me: int) -> Iterator[World]:
        learner, ticket = world.processes[me], world.memory.ticket + 1
        at = self.after_ticket(learner) if self._rules.row_first else "write ticket row"
        yield from move(world, learner._replace(at=at), ticket=ticket)

    # Collecting

    def start_rollout(self, world: World, me: int) -> Iterator[World]:
        """Go on with a simulator that is present; look whether an absent one has joined."""
        resume_point, memory = world.processes[me], world.memory
        learner = Learner(
            "await",
            resume_point.rollout + 1,
            incarnation=resume_point.incarnation,
            end=resume_point.end,
        )
        first = self.first_row(learner)
        if learner.rollout == resume_point.end:
            yield from move(world, Learner(DONE))
        elif resume_point.present:
            yield from move(world, learner._replace(present=True, wrote=resume_point.wrote))
        elif memory.ticket_row == first and self.has_joined(world):
            at = (
                "see incarnation" if self._rules.watches == "incarnation since joining" else "await"
            )
            yield from move(world, learner._replace(at=at, present=True))
        elif memory.ticket_row > first:
            yield from move(world, learner._replace(at="update"))
        else:
            yield from move(world, self.invite(learner))

    def has_joined(self, world: World) -> bool:
        joined = world.memory.joined == world.memory.ticket
        return joined or not self._rules.acknowledged

    def first_row(self, learner: Learner) -> int:
        return learner.rollout * self._rules.steps

    def await_row(self, world: World, me: int) -> Iterator[World]:
        learner = world.processes[me]
        if world.memory.committed > self.first_row(learner) + learner.step:
            yield from move(world, learner._replace(at="use"))
        elif self._rules.patient:
            yield from move(world, learner._replace(at="ask"))
        else:
            yield from self.leave_out(world, learner)

    def ask(self, world: World, me: int) -> Iterator[World]:
        learner, memory = world.processes[me], world.memory
        if (
            memory.alive
            if self._rules.watches == "alive"
            else memory.incarnation == learner.incarnation
        ):
            yield from move(world, learner._replace(at="await"))
        else:
            yield from self.leave_out(world, learner)

    def leave_out(self, world: World, learner: Learner) -> Iterator[World]:
        yield from move(world, self.invite(learner._replace(present=False)))

    def use(self, world: World, me: int) -> Iterator[World]:
        """Act on the newest row."""
        learner = self.used(world, world.processes[me], "observation", world.processes[me].step)
        at = "update" if learner.step == self._rules.steps else "send"
        yield from move(world, learner._replace(at=at, valid_mask=learner.step + 1))

    def send(self, world: World, me: int) -> Iterator[World]:
        learner = world.processes[me]
        moved = learner._replace(at="await", step=learner.step + 1)
        yield from move(world, moved, sent=self.first_row(learner) + moved.step)

    # Learning

    def update(self, world: World, me: int) -> Iterator[World]:
        """Use all that was trusted in this rollout once more, piece by piece."""
        learner = world.processes[me]
        outcomes = max(0, learner.valid_mask - 1)
        if learner.used < learner.valid_mask:
            learner = self.used(world, learner, "observation", learner.used)
        elif learner.used < learner.valid_mask + outcomes:
            learner = self.used(world, learner, "outcome", learner.used - learner.valid_mask)
        else:
            yield from move(world, learner._replace(at="start rollout"))
            return
        yield from move(world, learner._replace(used=learner.used + 1))

    def used(self, world: World, learner: Learner, kind: str, step: int) -> Learner:
        row, incarnation = world.memory.cells[self._where[kind, learner.rollout % NUM_SLOTS, step]]
        if (row, incarnation) == HALF:
            raise Violated("torn")
        if row != self.first_row(learner) + step:
            raise Violated("another row")
        if learner.wrote not in (None, incarnation):
            raise Violated("two incarnations")
        return learner._replace(wrote=incarnation)

    # Living again

    def resume(self, world: World, me: int) -> Iterator[World]:
        """A new incarnation knows what is in memory, and counts nobody present."""
        memory, rules = world.memory, self._rules
        if rules.learner_resumes != "beyond":
            sent = 0 if "nothing sent" in rules.learner_resumes else memory.sent
            yield from move(world, self.invite(Learner(end=rules.rollouts)), sent=sent)
            return
        farthest = max(memory.sent, memory.committed, memory.ticket_row)
        rollout = farthest // rules.steps + 1
        fresh = Learner(rollout=rollout - 1, end=rollout + rules.rollouts - 1)
        yield from move(world, self.invite(fresh))


def move(world: World, learner: Learner, **words: Any) -> Iterator[World]:
    yield world.after(LEARNER, learner, **words)
