"""Model of `VersionedSlots`: a writer that crashes and is started anew, and a reader.

The payload is two cells, so that half of it can be written. Both hold what was published, (number,
incarnation), so that a reader can tell what it got from what the header promised.

On a GPU the payload is copied by an engine of its own: the writer starts it, and waits for it
before it goes on. When the writer is killed, its engine goes on until the kernel has taken the
process apart, somewhere in the middle; only then is a new incarnation begun. A reader's engine
copies between its read of the sequence and its check as the reader itself does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from tests.models.explorer import DEAD, DONE, Model, Program, Violated, World

NUM_SLOTS = 2
Stamp = tuple[int, int]
NOTHING: Stamp = (0, 0)


class RolloutSlot(NamedTuple):
    sequence: int = 0
    number: int = 0
    incarnation: int = 0
    left: Stamp = NOTHING
    right: Stamp = NOTHING


class Memory(NamedTuple):
    published: int = 0
    slots: tuple[RolloutSlot, RolloutSlot] = (RolloutSlot(), RolloutSlot())

    def slot(self, number: int) -> RolloutSlot:
        return self.slots[number % NUM_SLOTS]

    def with_slot(self, number: int, /, **words: object) -> tuple[RolloutSlot, ...]:
        at = number % NUM_SLOTS
        changed = self.slots[at]._replace(**words)  # type: ignore[arg-type]
        return (*self.slots[:at], changed, *self.slots[at + 1 :])


class Writer(NamedTuple):
    at: str = "start"
    incarnation: int = 0
    number: int = 0


class Engine(NamedTuple):
    at: str = DONE
    stamp: Stamp = NOTHING


class Reader(NamedTuple):
    at: str = "choose"
    wanted: int = 0
    sequence: int = 0
    header: Stamp = NOTHING
    left: Stamp = NOTHING
    right: Stamp = NOTHING


@dataclass(frozen=True)
class Rules:
    """How the protocol is played; every default is as in `galamp.memory.versioned_slots`."""

    publications: int = 3
    crashes: int = 2
    checks_again: bool = True
    """The reader looks at the sequence once more after it has copied."""
    marks_odd: bool = True
    """The writer makes the sequence odd before it writes."""
    repairs: bool = False
    """A new incarnation makes an odd sequence even without writing the slot anew."""
    takes_back: bool = False
    """A new incarnation takes the odd sequence back to the even one before it, and begins there."""
    repeats_odd: bool = False
    """A new incarnation goes on under the odd sequence that it finds, and does not step past it."""
    writers: int = 1
    by_engine: bool = False
    """As `galamp.gossip.device_mixing` has it: an engine copies the payload."""
    waits_for_engine: bool = True
    """The writer makes the sequence even only once its engine is done."""
    outlives: bool = False
    """A dead writer's engine goes on in the next incarnation, which has one of its own."""
    checks_early: bool = False
    """The reader looks at the sequence once more before its copy is over."""


def model(rules: Rules) -> Model:
    writers = range(rules.writers)
    privates = [Writer(incarnation=incarnation) for incarnation in writers]
    # That of every second incarnation: a new one begins with another than the one before it.
    engines = [Engine()] * 2 * rules.by_engine
    programs = [*[WriterSteps(rules).program()] * rules.writers, ReaderSteps(rules).program()]
    return Model(
        World(Memory(), (*privates, Reader(), *engines), rules.crashes),
        [*programs, *[engine_program()] * len(engines)],
        frozenset(writers),
        lambda world: all(process.at == DONE for process in world.processes),
    )


def engine_program() -> Program:
    """Copy two cells, whenever it comes to it."""

    def copy(name: str, following: str) -> Program:
        def write(world: World, me: int) -> Iterator[World]:
            engine = world.processes[me]
            slots = world.memory.with_slot(engine.stamp[0], **{name: engine.stamp})
            yield world.after(me, engine._replace(at=following), slots=slots)

        return {name: write}

    return copy("left", "right") | copy("right", DONE)


class WriterSteps:
    def __init__(self, rules: Rules) -> None:
        self._rules = rules

    def program(self) -> Program:
        return {
            "start": self.start,
            "odd": self.odd,
            "start engine": self.start_engine,
            "await engine": self.await_engine,
            **self.put("left", "right", stamp=True),
            **self.put("right", "number", stamp=True),
            **self.put("number", "incarnation", stamp=False),
            **self.put("incarnation", "even", stamp=False),
            "even": self.even,
            "publish": self.publish,
            "repair": self.repair,
            DEAD: self.start_anew,
        }

    def start(self, world: World, me: int) -> Iterator[World]:
        writer, number = world.processes[me], world.memory.published + 1
        at = DONE if number > self._rules.publications else "odd"
        yield world.after(me, writer._replace(at=at, number=number))

    def odd(self, world: World, me: int) -> Iterator[World]:
        memory, writer = world.memory, world.processes[me]
        sequence = memory.slot(writer.number).sequence
        left_odd = sequence % 2 == 1
        if self._rules.takes_back and left_odd:
            moved = writer._replace(at="odd")
            slots = memory.with_slot(writer.number, sequence=sequence - 1)
            yield world.after(me, moved, slots=slots)
            return
        step = (0 if self._rules.repeats_odd else 2) if left_odd else 1
        slots = memory.with_slot(writer.number, sequence=sequence + step * self._rules.marks_odd)
        following = "start engine" if self._rules.by_engine else "left"
        yield world.after(me, writer._replace(at=following), slots=slots)

    def engine_of(self, incarnation: int) -> int:
        return self._rules.writers + 1 + incarnation % 2

    def start_engine(self, world: World, me: int) -> Iterator[World]:
        writer = world.processes[me]
        told = Engine("left", (writer.number, writer.incarnation))
        at = "await engine" if self._rules.waits_for_engine else "number"
        yield world.after(self.engine_of(writer.incarnation), told).after(
            me, writer._replace(at=at)
        )

    def await_engine(self, world: World, me: int) -> Iterator[World]:
        writer = world.processes[me]
        if world.processes[self.engine_of(writer.incarnation)].at == DONE:
            yield world.after(me, writer._replace(at="number"))

    def put(self, name: str, following: str, *, stamp: bool) -> Program:
        def write(world: World, me: int) -> Iterator[World]:
            writer = world.processes[me]
            whole = (writer.number, writer.incarnation)
            value = whole if stamp else getattr(writer, name)
            slots = world.memory.with_slot(writer.number, **{name: value})
            yield world.after(me, writer._replace(at=following), slots=slots)

        return {name: write}

    def even(self, world: World, me: int) -> Iterator[World]:
        memory, writer = world.memory, world.processes[me]
        sequence = memory.slot(writer.number).sequence + self._rules.marks_odd
        slots = memory.with_slot(writer.number, sequence=sequence)
        yield world.after(me, writer._replace(at="publish"), slots=slots)

    def publish(self, world: World, me: int) -> Iterator[World]:
        writer = world.processes[me]
        yield world.after(me, writer._replace(at="start"), published=writer.number)

    def start_anew(self, world: World, me: int) -> Iterator[World]:
        if self._rules.by_engine and not self._rules.outlives:
            world = world.after(self.engine_of(world.processes[me].incarnation), Engine())
        writer = Writer(
            "repair" if self._rules.repairs else "start", world.processes[me].incarnation + 1
        )
        yield world.after(me, writer)

    def repair(self, world: World, me: int) -> Iterator[World]:
        number = world.memory.published + 1
        sequence = world.memory.slot(number).sequence
        slots = world.memory.with_slot(number, sequence=sequence + sequence % 2)
        yield world.after(me, world.processes[me]._replace(at="start"), slots=slots)


class ReaderSteps:
    def __init__(self, rules: Rules) -> None:
        self._rules = rules

    def program(self) -> Program:
        return {
            "choose": self.choose,
            "read": self.read,
            "see number": self.see_number,
            "see incarnation": self.see_incarnation,
            "check early": self.check_early,
            "copy left": self.copy_left,
            "copy right": self.copy_right,
            "check": self.check,
        }

    def choose(self, world: World, me: int) -> Iterator[World]:
        """Want the newest, or the one before it, or no more."""
        yield world.after(me, Reader(DONE))
        newest = world.memory.published
        for wanted in {newest, max(newest - 1, 0)} - {0}:
            yield world.after(me, world.processes[me]._replace(at="read", wanted=wanted))

    def give_up(self, world: World, me: int) -> World:
        return world.after(me, Reader())

    def read(self, world: World, me: int) -> Iterator[World]:
        reader = world.processes[me]
        sequence = world.memory.slot(reader.wanted).sequence
        if sequence % 2:
            yield self.give_up(world, me)
        else:
            yield world.after(me, reader._replace(at="see number", sequence=sequence))

    def see_number(self, world: World, me: int) -> Iterator[World]:
        reader = world.processes[me]
        number = world.memory.slot(reader.wanted).number
        if number != reader.wanted:
            yield self.give_up(world, me)
        else:
            yield world.after(me, reader._replace(at="see incarnation", header=(number, 0)))

    def see_incarnation(self, world: World, me: int) -> Iterator[World]:
        reader = world.processes[me]
        header = (reader.wanted, world.memory.slot(reader.wanted).incarnation)
        at = "check early" if self._rules.checks_early else "copy left"
        yield world.after(me, reader._replace(at=at, header=header))

    def check_early(self, world: World, me: int) -> Iterator[World]:
        reader = world.processes[me]
        if world.memory.slot(reader.wanted).sequence == reader.sequence:
            yield world.after(me, reader._replace(at="copy left"))
        else:
            yield self.give_up(world, me)

    def copy_left(self, world: World, me: int) -> Iterator[World]:
        reader = world.processes[me]
        left = world.memory.slot(reader.wanted).left
        yield world.after(me, reader._replace(at="copy right", left=left))

    def copy_right(self, world: World, me: int) -> Iterator[World]:
        reader = world.processes[me]
        right = world.memory.slot(reader.wanted).right
        yield world.after(me, reader._replace(at="check", right=right))

    def check(self, world: World, me: int) -> Iterator[World]:
        reader = world.processes[me]
        changed = world.memory.slot(reader.wanted).sequence != reader.sequence
        if changed and self._rules.checks_again and not self._rules.checks_early:
            yield self.give_up(world, me)
            return
        if reader.left != reader.right:
            raise Violated("torn")
        if reader.left != reader.header:
            raise Violated("misnumbered")
        yield world.after(me, Reader())
