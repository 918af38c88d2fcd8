"""Model of how a simulator joins a learner's rollouts, is left out, dies, and joins again.

    learner     ticket_row, ticket, sent --> simulator     rows go up for ever; rollout k has rows
    simulator   rows, committed, joined  --> learner       k T to (k + 1) T, in slot k mod 2
    supervisor  alive, life              --> learner

The learner trusts what a simulator wrote from the first row of the rollout that it was invited to
until it leaves it out, and uses that twice: row by row to act, and all of it in the update. What it
uses must be whole, of that very row, and of one life. `cells` stand for what the simulator writes:
(row, life), or `HALF` while it is at it. The observation of a rollout's last row is also that of
the next one's first row; both are written in the same steps, which leaves them `HALF` for longer
than in truth. Outcome and next observation likewise.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from tests.protocols.explorer import DEAD, DONE, Model, Program, Violated, World

LEARNER, SIMULATOR, SUPERVISOR, SECOND_SIMULATOR = range(4)
SLOTS = 2
Stamp = tuple[int, int]
UNWRITTEN: Stamp = (-2, -1)
HALF: Stamp = (-1, -1)
Cells = dict[tuple[str, int, int], int]
"""Where the observation or outcome of a step in a slot lies among `cells`."""


class Memory(NamedTuple):
    cells: tuple[Stamp, ...]
    ticket: int = 0
    ticket_row: int = 0
    sent: int = 0
    committed: int = 0
    joined: int = 0
    alive: int = 1
    life: int = 0


class Learner(NamedTuple):
    at: str = "write ticket row"
    rollout: int = -1
    step: int = 0
    present: bool = False
    trusted: int = 0
    """Observations of this rollout that it may use; of outcomes one less."""
    used: int = 0
    """How many of all these the update has used so far."""
    life: int = 0
    """Of the simulator that it deals with, as far as it knows."""
    wrote: int | None = None
    """No part of the protocol: the life that wrote what has been used so far."""
    end: int = 0
    """The rollout that it does not play any more."""


class Simulator(NamedTuple):
    at: str = "boot"
    life: int = 0
    seen: int = 0
    """The last ticket that it has accepted."""
    row: int | None = None
    """Whose actions it waits for."""
    joining: bool = False


class Supervisor(NamedTuple):
    at: str = "watch"


@dataclass(frozen=True)
class Rules:
    """How the protocol is played; every default is how it is sound."""

    steps: int = 1
    rollouts: int = 3
    crashes: int = 2
    patient: bool = False
    """The learner waits for ever for a simulator that lives; else it may leave it out any time."""
    acknowledged: bool = True
    """It counts a simulator present only if that has acknowledged the present ticket."""
    ahead: int = 1
    """It invites to the rollout so many after the present one."""
    row_first: bool = True
    """It writes the row of a ticket before the ticket."""
    watches: Literal["life since invitation", "life since joining", "alive"] = (
        "life since invitation"
    )
    """By what it knows that the simulator it deals with is no more."""
    remembers: Literal["what was joined", "nothing", "the present ticket"] = "what was joined"
    """Which ticket a new life does not accept any more."""
    commits_first: bool = False
    """The simulator commits a row before it is whole."""
    reaped_first: bool = True
    """A new life starts when the former has ended, not when it is given up."""
    learner_resumes: Literal["never", "beyond", "at zero", "at zero, nothing sent"] = "never"
    """Whether the learner crashes, too, and from which row its next life goes on: beyond all rows
    that anyone has come to, or row 0, with or without resetting what was sent."""


def model(rules: Rules) -> Model:
    where = cells_of(rules)
    second = Simulator(DONE if rules.reaped_first else "unborn", life=1)
    processes = (Learner(end=rules.rollouts), Simulator(), Supervisor(), second)
    start = World(Memory((UNWRITTEN,) * len(where)), processes, rules.crashes)
    simulator = simulator_program(rules, where)
    programs = [learner_program(rules, where), simulator, supervisor_program(rules), simulator]
    is_final = lambda world: world.processes[LEARNER].at == DONE  # noqa: E731
    crashable = {SIMULATOR, SECOND_SIMULATOR}
    crashable |= {LEARNER} if rules.learner_resumes != "never" else set()
    return Model(start, programs, frozenset(crashable), is_final)


def cells_of(rules: Rules) -> Cells:
    kinds = (("observation", rules.steps + 1), ("outcome", rules.steps))
    places = [(kind, k, step) for k in range(SLOTS) for kind, n in kinds for step in range(n)]
    return {place: at for at, place in enumerate(places)}


def learner_program(rules: Rules, where: Cells) -> Program:
    def first_row(learner: Learner) -> int:
        return learner.rollout * rules.steps

    def move(world: World, learner: Learner, **words: Any) -> Iterator[World]:
        yield world.after(LEARNER, learner, **words)

    def write_ticket_row(world: World, me: int) -> Iterator[World]:
        learner = world.processes[me]
        following = "write ticket" if rules.row_first else after_inviting(learner)
        row = invited_to(learner) * rules.steps
        yield from move(world, learner._replace(at=following), ticket_row=row)

    def write_ticket(world: World, me: int) -> Iterator[World]:
        learner, ticket = world.processes[me], world.memory.ticket + 1
        following = after_inviting(learner) if rules.row_first else "write ticket row"
        yield from move(world, learner._replace(at=following), ticket=ticket)

    def invited_to(learner: Learner) -> int:
        return max(0, learner.rollout + rules.ahead) if learner.rollout >= 0 else 0

    def after_inviting(learner: Learner) -> str:
        return "update" if learner.rollout >= 0 else "begin rollout"

    def invite(learner: Learner) -> Learner:
        """Ask the simulator, once it is known which, to join at a coming rollout."""
        if rules.watches == "life since invitation":
            return learner._replace(at="see life")
        return learner._replace(at="write ticket row" if rules.row_first else "write ticket")

    def see_life(world: World, me: int) -> Iterator[World]:
        learner = world.processes[me]._replace(life=world.memory.life)
        at = "write ticket row" if rules.row_first else "write ticket"
        if rules.watches == "life since joining":
            at = "await"
        yield from move(world, learner._replace(at=at))

    def begin_rollout(world: World, me: int) -> Iterator[World]:
        """Go on with a simulator that is present; look whether an absent one has joined."""
        former = world.processes[me]
        learner = Learner("await", former.rollout + 1, life=former.life, end=former.end)
        learner = learner._replace(present=former.present)
        if learner.rollout == former.end:
            yield from move(world, Learner(DONE))
            return
        if learner.present:
            yield from move(world, learner._replace(wrote=former.wrote))
            return
        memory = world.memory
        mine = memory.ticket_row == first_row(learner)  # own words: no one else writes them
        joined = memory.joined == memory.ticket or not rules.acknowledged
        if mine and joined:
            at = "see life" if rules.watches == "life since joining" else "await"
            yield from move(world, learner._replace(at=at, present=True))
        elif memory.ticket_row > first_row(learner):
            yield from move(world, learner._replace(at="update"))
        else:
            yield from move(world, invite(learner))

    def await_row(world: World, me: int) -> Iterator[World]:
        learner = world.processes[me]
        if world.memory.committed > first_row(learner) + learner.step:
            yield from move(world, learner._replace(at="use"))
        elif rules.patient:
            yield from move(world, learner._replace(at="ask"))
        else:
            yield from move(world, invite(learner._replace(present=False)))

    def ask(world: World, me: int) -> Iterator[World]:
        learner, memory = world.processes[me], world.memory
        lives = memory.alive if rules.watches == "alive" else memory.life == learner.life
        if lives:
            yield from move(world, learner._replace(at="await"))
        else:
            yield from move(world, invite(learner._replace(present=False)))

    def use(world: World, me: int) -> Iterator[World]:
        """Act on the newest row."""
        learner = world.processes[me]
        learner = used(world, learner, "observation", learner.step)
        learner = learner._replace(trusted=learner.step + 1)
        at = "update" if learner.step == rules.steps else "send"
        yield from move(world, learner._replace(at=at))

    def send(world: World, me: int) -> Iterator[World]:
        learner = world.processes[me]
        moved = learner._replace(at="await", step=learner.step + 1)
        yield from move(world, moved, sent=first_row(learner) + moved.step)

    def update(world: World, me: int) -> Iterator[World]:
        """Use all that was trusted in this rollout once more, piece by piece."""
        learner = world.processes[me]
        outcomes = max(0, learner.trusted - 1)
        if learner.used < learner.trusted:
            learner = used(world, learner, "observation", learner.used)
        elif learner.used < learner.trusted + outcomes:
            learner = used(world, learner, "outcome", learner.used - learner.trusted)
        else:
            yield from move(world, learner._replace(at="begin rollout"))
            return
        yield from move(world, learner._replace(used=learner.used + 1))

    def used(world: World, learner: Learner, kind: str, step: int) -> Learner:
        row, life = world.memory.cells[where[kind, learner.rollout % SLOTS, step]]
        if (row, life) == HALF:
            raise Violated("torn")
        if row != first_row(learner) + step:
            raise Violated("another row")
        if learner.wrote not in (None, life):
            raise Violated("two lives")
        return learner._replace(wrote=life)

    def resume(world: World, me: int) -> Iterator[World]:
        """A new life knows what is in memory, and counts nobody present."""
        memory = world.memory
        if rules.learner_resumes != "beyond":
            sent = 0 if "nothing sent" in rules.learner_resumes else memory.sent
            yield from move(world, invite(Learner(end=rules.rollouts)), sent=sent)
            return
        farthest = max(memory.sent, memory.committed, memory.ticket_row)
        rollout = farthest // rules.steps + 1
        fresh = Learner(rollout=rollout - 1, end=rollout + rules.rollouts - 1)
        yield from move(world, invite(fresh))

    return {
        DEAD: resume,
        "write ticket row": write_ticket_row,
        "write ticket": write_ticket,
        "see life": see_life,
        "begin rollout": begin_rollout,
        "await": await_row,
        "ask": ask,
        "use": use,
        "send": send,
        "update": update,
    }


def simulator_program(rules: Rules, where: Cells) -> Program:
    def boot(world: World, me: int) -> Iterator[World]:
        memory = world.memory
        seen = {
            "what was joined": memory.joined,
            "nothing": 0,
            "the present ticket": memory.ticket if world.processes[me].life else 0,
        }[rules.remembers]
        yield world.after(me, world.processes[me]._replace(at="look for ticket", seen=seen))

    def look_for_ticket(world: World, me: int) -> Iterator[World]:
        simulator, ticket = world.processes[me], world.memory.ticket
        if ticket != simulator.seen:
            yield world.after(me, simulator._replace(at="see row", seen=ticket, joining=True))
        elif simulator.row is not None:
            yield world.after(me, simulator._replace(at="look for actions"))

    def look_for_actions(world: World, me: int) -> Iterator[World]:
        simulator = world.processes[me]
        if world.memory.sent > simulator.row:
            yield from begin(world, me, simulator._replace(row=simulator.row + 1))
        else:
            yield world.after(me, simulator._replace(at="look for ticket"))

    def see_row(world: World, me: int) -> Iterator[World]:
        simulator = world.processes[me]._replace(row=world.memory.ticket_row)
        yield from begin(world, me, simulator)

    def begin(world: World, me: int, simulator: Simulator) -> Iterator[World]:
        at = "commit" if rules.commits_first else "write"
        yield world.after(me, simulator._replace(at=at), cells=written(world, simulator, HALF))

    def write(world: World, me: int) -> Iterator[World]:
        simulator = world.processes[me]
        cells = written(world, simulator, (simulator.row, simulator.life))
        at = after_commit(simulator) if rules.commits_first else "commit"
        yield world.after(me, simulator._replace(at=at), cells=cells)

    def written(world: World, simulator: Simulator, stamp: Stamp) -> tuple[Stamp, ...]:
        """The cells with the observation of the row that it comes to, and what led there."""
        row = simulator.row
        assert row is not None
        rollout, step = divmod(row, rules.steps)
        cells = list(world.memory.cells)
        cells[where["observation", rollout % SLOTS, step]] = stamp
        if step == 0 and rollout > 0:
            cells[where["observation", (rollout - 1) % SLOTS, rules.steps]] = stamp
        if not simulator.joining:
            rollout, step = divmod(row - 1, rules.steps)
            outcome = stamp if stamp == HALF else (row - 1, simulator.life)
            cells[where["outcome", rollout % SLOTS, step]] = outcome
        return tuple(cells)

    def commit(world: World, me: int) -> Iterator[World]:
        simulator = world.processes[me]
        at = "write" if rules.commits_first else after_commit(simulator)
        yield world.after(me, simulator._replace(at=at), committed=simulator.row + 1)

    def after_commit(simulator: Simulator) -> str:
        return "join" if simulator.joining else "look for ticket"

    def join(world: World, me: int) -> Iterator[World]:
        simulator = world.processes[me]
        moved = simulator._replace(at="look for ticket", joining=False)
        yield world.after(me, moved, joined=simulator.seen)

    return {
        "boot": boot,
        "look for ticket": look_for_ticket,
        "look for actions": look_for_actions,
        "see row": see_row,
        "write": write,
        "commit": commit,
        "join": join,
    }


def supervisor_program(rules: Rules) -> Program:
    def watch(world: World, me: int) -> Iterator[World]:
        """Find a simulator dead; or, which is unsound, start another while it may still run."""
        if world.processes[SIMULATOR].at == DEAD:
            yield world.after(me, Supervisor("open life"), alive=0)
        elif not rules.reaped_first and world.processes[SECOND_SIMULATOR].at == "unborn":
            yield world.after(me, Supervisor("start second"), life=1)

    def open_life(world: World, me: int) -> Iterator[World]:
        yield world.after(me, Supervisor("count in"), life=world.memory.life + 1)

    def count_in(world: World, me: int) -> Iterator[World]:
        yield world.after(me, Supervisor("start"), alive=1)

    def start(world: World, me: int) -> Iterator[World]:
        fresh = Simulator(life=world.memory.life)
        yield world.after(SIMULATOR, fresh).after(me, Supervisor())

    def start_second(world: World, me: int) -> Iterator[World]:
        yield world.after(SECOND_SIMULATOR, Simulator(life=1)).after(me, Supervisor("done"))

    return {
        "watch": watch,
        "open life": open_life,
        "count in": count_in,
        "start": start,
        "start second": start_second,
    }
