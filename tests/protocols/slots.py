"""Model of `VersionedSlots`: a writer that crashes and is started anew, and a reader.

The payload is two cells, so that half of it can be written. Both hold what was published, (number,
life), so that a reader can tell what it got from what the header promised.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from tests.protocols.explorer import DEAD, DONE, Model, Program, Violated, World

SLOTS = 2
Stamp = tuple[int, int]
NOTHING: Stamp = (0, 0)


class Slot(NamedTuple):
    sequence: int = 0
    number: int = 0
    life: int = 0
    left: Stamp = NOTHING
    right: Stamp = NOTHING


class Memory(NamedTuple):
    published: int = 0
    slots: tuple[Slot, Slot] = (Slot(), Slot())

    def slot(self, number: int) -> Slot:
        return self.slots[number % SLOTS]

    def with_slot(self, number: int, /, **words: object) -> tuple[Slot, ...]:
        at = number % SLOTS
        changed = self.slots[at]._replace(**words)  # type: ignore[arg-type]
        return (*self.slots[:at], changed, *self.slots[at + 1 :])


class Writer(NamedTuple):
    at: str = "begin"
    life: int = 0
    number: int = 0


class Reader(NamedTuple):
    at: str = "choose"
    wanted: int = 0
    sequence: int = 0
    header: Stamp = NOTHING
    left: Stamp = NOTHING
    right: Stamp = NOTHING


@dataclass(frozen=True)
class Rules:
    """How the protocol is played; every default is as in `galamp.gossip.slots`."""

    publications: int = 3
    crashes: int = 2
    checks_again: bool = True
    """The reader looks at the sequence once more after it has copied."""
    marks_odd: bool = True
    """The writer makes the sequence odd before it writes."""
    repairs: bool = False
    """A new life makes an odd sequence even without writing the slot anew."""
    takes_back: bool = False
    """A new life takes the odd sequence back to the even one before it, and begins from there."""
    repeats_odd: bool = False
    """A new life goes on under the odd sequence that it finds, instead of stepping past it."""
    writers: int = 1


def model(rules: Rules) -> Model:
    writers = range(rules.writers)
    writer, reader = writer_program(rules), reader_program(rules)
    privates = [Writer(life=life) for life in writers]

    return Model(
        World(Memory(), (*privates, Reader()), rules.crashes),
        [*(writer for _ in writers), reader],
        frozenset(writers),
        lambda world: all(process.at == DONE for process in world.processes),
    )


def writer_program(rules: Rules) -> Program:
    def begin(world: World, me: int) -> Iterator[World]:
        writer, number = world.processes[me], world.memory.published + 1
        at = DONE if number > rules.publications else "odd"
        yield world.after(me, writer._replace(at=at, number=number))

    def odd(world: World, me: int) -> Iterator[World]:
        memory, writer = world.memory, world.processes[me]
        sequence = memory.slot(writer.number).sequence
        left_odd = sequence % 2 == 1
        if rules.takes_back and left_odd:
            moved = writer._replace(at="odd")
            slots = memory.with_slot(writer.number, sequence=sequence - 1)
            yield world.after(me, moved, slots=slots)
            return
        step = (0 if rules.repeats_odd else 2) if left_odd else 1
        slots = memory.with_slot(writer.number, sequence=sequence + step * rules.marks_odd)
        yield world.after(me, writer._replace(at="left"), slots=slots)

    def put(name: str, following: str, *, stamp: bool) -> Program:
        def write(world: World, me: int) -> Iterator[World]:
            writer = world.processes[me]
            whole = (writer.number, writer.life)
            value = whole if stamp else getattr(writer, name)
            slots = world.memory.with_slot(writer.number, **{name: value})
            yield world.after(me, writer._replace(at=following), slots=slots)

        return {name: write}

    def even(world: World, me: int) -> Iterator[World]:
        memory, writer = world.memory, world.processes[me]
        sequence = memory.slot(writer.number).sequence + rules.marks_odd
        slots = memory.with_slot(writer.number, sequence=sequence)
        yield world.after(me, writer._replace(at="publish"), slots=slots)

    def publish(world: World, me: int) -> Iterator[World]:
        writer = world.processes[me]
        yield world.after(me, writer._replace(at="begin"), published=writer.number)

    def start_anew(world: World, me: int) -> Iterator[World]:
        writer = Writer("repair" if rules.repairs else "begin", world.processes[me].life + 1)
        yield world.after(me, writer)

    def repair(world: World, me: int) -> Iterator[World]:
        number = world.memory.published + 1
        sequence = world.memory.slot(number).sequence
        slots = world.memory.with_slot(number, sequence=sequence + sequence % 2)
        yield world.after(me, world.processes[me]._replace(at="begin"), slots=slots)

    return {
        "begin": begin,
        "odd": odd,
        **put("left", "right", stamp=True),
        **put("right", "number", stamp=True),
        **put("number", "life", stamp=False),
        **put("life", "even", stamp=False),
        "even": even,
        "publish": publish,
        "repair": repair,
        DEAD: start_anew,
    }


def reader_program(rules: Rules) -> Program:
    def choose(world: World, me: int) -> Iterator[World]:
        """Want the newest, or the one before it, or no more."""
        yield world.after(me, Reader(DONE))
        newest = world.memory.published
        for wanted in {newest, max(newest - 1, 0)} - {0}:
            yield world.after(me, world.processes[me]._replace(at="look", wanted=wanted))

    def give_up(world: World, me: int) -> World:
        return world.after(me, Reader())

    def look(world: World, me: int) -> Iterator[World]:
        reader = world.processes[me]
        sequence = world.memory.slot(reader.wanted).sequence
        if sequence % 2:
            yield give_up(world, me)
        else:
            yield world.after(me, reader._replace(at="see number", sequence=sequence))

    def see_number(world: World, me: int) -> Iterator[World]:
        reader = world.processes[me]
        number = world.memory.slot(reader.wanted).number
        if number != reader.wanted:
            yield give_up(world, me)
        else:
            yield world.after(me, reader._replace(at="see life", header=(number, 0)))

    def see_life(world: World, me: int) -> Iterator[World]:
        reader = world.processes[me]
        header = (reader.wanted, world.memory.slot(reader.wanted).life)
        yield world.after(me, reader._replace(at="copy left", header=header))

    def copy_left(world: World, me: int) -> Iterator[World]:
        reader = world.processes[me]
        left = world.memory.slot(reader.wanted).left
        yield world.after(me, reader._replace(at="copy right", left=left))

    def copy_right(world: World, me: int) -> Iterator[World]:
        reader = world.processes[me]
        right = world.memory.slot(reader.wanted).right
        yield world.after(me, reader._replace(at="check", right=right))

    def check(world: World, me: int) -> Iterator[World]:
        reader = world.processes[me]
        if rules.checks_again and world.memory.slot(reader.wanted).sequence != reader.sequence:
            yield give_up(world, me)
            return
        if reader.left != reader.right:
            raise Violated("torn")
        if reader.left != reader.header:
            raise Violated("misnumbered")
        yield world.after(me, Reader())

    return {
        "choose": choose,
        "look": look,
        "see number": see_number,
        "see life": see_life,
        "copy left": copy_left,
        "copy right": copy_right,
        "check": check,
    }
