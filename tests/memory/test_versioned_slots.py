"""Versioned slots whose real writer is killed at every opcode: nothing torn, the next one works."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest

from galamp.memory.arrays import WORDS_PER_LINE, ArraySpec, SharedArrays
from galamp.memory.learner_state import GENERATOR_BYTES, STATE_COUNTERS, State, StateSlots
from galamp.memory.moment_slots import MomentSlots
from galamp.memory.versioned_slots import NUM_SLOTS, Header, SlotRead, VersionedSlots, header_spec
from tests.models.stepping import put_back, state_of, step_through


class Subject(NamedTuple):
    """Some kind of versioned slots in memory of their own.

    A publication is made of one number, its `value`, which is also its version.
    """

    arrays: SharedArrays
    begin: Callable[[], Any]
    """Start an incarnation of the writer."""
    publish: Callable[[Any, int, int], Header]
    payload: Callable[[int], bytes]
    """What a slot must hold once a value is published."""

    @property
    def header(self) -> str:
        return self.arrays.specs[0].name

    def held(self, slot: int) -> tuple[bytes, bytes]:
        """What a slot holds: its header without the sequence, its payload."""
        words = self.arrays[self.header].reshape(NUM_SLOTS + 1, WORDS_PER_LINE)[slot + 1, 1:]
        parts = (self.arrays[spec.name][slot].tobytes() for spec in self.arrays.specs[1:])
        return words.tobytes(), b"".join(parts)


def numbers(slots_class: type[VersionedSlots] = VersionedSlots) -> Subject:
    """Slots for three numbers, written one by one."""
    arrays = SharedArrays.create([header_spec("h"), ArraySpec("p", (NUM_SLOTS, 3), "int64")])

    def publish(slots: VersionedSlots, value: int, incarnation: int) -> Header:
        def fill(slot: int) -> None:
            for element in range(3):
                arrays["p"][slot, element] = value

        return slots.write(fill, incarnation=incarnation, round_=value, version=value)

    def payload(value: int) -> bytes:
        return np.full(3, value, np.int64).tobytes()

    return Subject(arrays, lambda: slots_class(arrays, "h"), publish, payload)


def learned_states() -> Subject:
    sizes = {"parameters": 2, "square_average": 2}
    arrays = SharedArrays.create(StateSlots.specs(0, sizes))

    def publish(slots: StateSlots, value: int, incarnation: int) -> Header:
        tensors = {name: np.full(size, value, np.float32) for name, size in sizes.items()}
        generator = np.full(GENERATOR_BYTES, value, np.uint8)
        state = State(tensors, dict.fromkeys(STATE_COUNTERS, value), generator)
        return slots.save(state, save_id=value, incarnation=incarnation)

    def payload(value: int) -> bytes:
        counters = np.array([value] * len(STATE_COUNTERS) + [GENERATOR_BYTES])
        return (
            np.full(4, value, np.float32).tobytes()
            + counters.tobytes()
            + value.to_bytes() * GENERATOR_BYTES
        )

    return Subject(arrays, lambda: StateSlots(arrays, 0, sizes), publish, payload)


def moments() -> Subject:
    arrays = SharedArrays.create(MomentSlots.specs(0, 5))

    def publish(slots: MomentSlots, value: int, incarnation: int) -> Header:
        return slots.publish(np.full(5, value, np.float64), incarnation=incarnation, turn=value)

    def payload(value: int) -> bytes:
        return np.full(5, value, np.float64).tobytes()

    return Subject(arrays, lambda: MomentSlots(arrays, 0), publish, payload)


class Reader:
    """One in the middle of a read: what it looked at, and what that slot held then."""

    def __init__(self, subject: Subject, number: int, read: SlotRead) -> None:
        self.read, self._held = read, subject.held(read.slot)
        whole = self._held[1] == subject.payload(read.header.version)
        self.torn = not whole or read.header.number != number

    def copy(self, subject: Subject) -> None:
        """Copy anything of the slot, as it is now."""
        self.torn = self.torn or subject.held(self.read.slot) != self._held


class Examination(NamedTuple):
    """What readers made of a series of states."""

    accepted: int
    thrown_away: int
    torn: int
    newest: int


def examine(
    subject: Subject, states: Sequence[bytes], slots_class: type[VersionedSlots] = VersionedSlots
) -> Examination:
    """Let readers look in every state, copy in any later ones, and check in any after those.

    What they accept must be just what was published, whichever states they copied it in.
    """
    slots = slots_class(subject.arrays, subject.header)
    readers: list[Reader] = []
    accepted = thrown_away = torn = 0
    for state in states:
        put_back(subject.arrays, state)
        newest = slots.published
        reads = {
            number: slots.begin_read(number) for number in range(max(1, newest - 1), newest + 2)
        }
        readers += [Reader(subject, number, read) for number, read in reads.items() if read]
        for reader in readers:
            reader.copy(subject)
            accepts = slots.unchanged(reader.read)
            accepted += accepts
            thrown_away += not accepts
            torn += accepts and reader.torn
    header = slots.read(lambda slot: None)
    return Examination(accepted, thrown_away, torn, header.version if header else 0)


def states_of_life(subject: Subject, incarnation: int, before: bytes) -> list[bytes]:
    """The states that memory goes through while an incarnation begins and publishes once."""
    put_back(subject.arrays, before)
    return step_through(
        subject.arrays, lambda: subject.publish(subject.begin(), incarnation, incarnation)
    ).states


def killed_anywhere(
    subject: Subject, states: list[bytes], incarnations: Sequence[int]
) -> Iterator[list[bytes]]:
    """Go on from `states`, whatever the word at which all but the last are killed."""
    incarnation, *others = incarnations
    further = states_of_life(subject, incarnation, states[-1])
    if not others:
        yield states + further
    for end in range(len(further)) if others else ():
        yield from killed_anywhere(subject, states + further[: end + 1], others)


def all_series(subject: Subject, killed: int) -> list[list[bytes]]:
    """Both slots are written; then so many incarnations are killed, and the next one publishes."""
    states = [state_of(subject.arrays)]
    for incarnation in (1, 2):
        states += states_of_life(subject, incarnation, states[-1])
    return list(killed_anywhere(subject, states, range(3, 4 + killed)))


@pytest.mark.parametrize(("make", "killed"), [(numbers, 2), (learned_states, 1), (moments, 1)])
def test_slots_are_sound_wherever_their_writer_is_killed(
    make: Callable[[], Subject], killed: int
) -> None:
    subject = make()
    series = all_series(subject, killed)
    found = [examine(subject, states) for states in series]
    assert not any(one.torn for one in found)
    assert {one.newest for one in found} == {3 + killed}, "the last life is read"
    assert all(one.accepted and one.thrown_away for one in found)
    assert len(series) >= 9**killed


class Repairing(VersionedSlots):
    """A writer whose next incarnation makes odd sequences even without writing the slot anew."""

    def __init__(self, arrays: SharedArrays, name: str) -> None:
        super().__init__(arrays, name)
        for at in (WORDS_PER_LINE, 2 * WORDS_PER_LINE):
            self._words[at] += self._words[at] % 2


class Trusting(VersionedSlots):
    """A reader that does not look again."""

    def unchanged(self, read: SlotRead) -> bool:
        return True


def test_the_examination_finds_what_is_torn() -> None:
    repairing, sound = numbers(Repairing), numbers()
    assert any(examine(repairing, states).torn for states in all_series(repairing, 1))
    assert any(examine(sound, states, Trusting).torn for states in all_series(sound, 1))


def test_a_write_goes_through_many_states() -> None:
    subject = numbers()
    steps = step_through(subject.arrays, lambda: subject.publish(subject.begin(), 7, 0))
    # As found; odd; three elements; number, round and version (the life is 0); even; published.
    assert len(steps.states) == 10
    assert steps.opcodes > 100
