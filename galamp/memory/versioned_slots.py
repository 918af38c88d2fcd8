"""Versioned slots: one writer publishes whole vectors, any number of readers copy them, no lock.

    writer (a learner)                        readers (its out-peers, the supervisor)
    sequence odd -> copy in -> sequence even  sequence even? copy out, sequence the same? accept
    publications alternate between 2 slots    else try again, or go on without

A writer killed in the middle leaves an odd sequence: readers skip that slot. An odd sequence is
only ever made even by writing the slot anew. Used for the parameters that learners gossip, and
for the state that the supervisor saves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from galamp.core.failpoints import reach
from galamp.memory.arrays import WORDS_PER_LINE, ArraySpec, SharedArrays, memory_fence

NUM_SLOTS = 2
_HEADER_WORDS = WORDS_PER_LINE * (NUM_SLOTS + 1)
_SEQUENCE, _NUMBER, _INCARNATION, _ROUND, _VERSION, _CHECKSUM = range(6)


class Header(NamedTuple):
    """What is known of one publication; numbers count from 1 over all lives of the writer."""

    number: int
    incarnation: int
    round: int
    version: int
    checksum: int = 0
    """Of the payload, where its writer was asked for one; to readers a number like any other."""


class SlotRead(NamedTuple):
    """Where a publication was found whole, and the sequence it was found under."""

    slot: int
    header: Header
    sequence: int


def header_spec(name: str) -> ArraySpec:
    """Return the array of words that governs a pair of slots."""
    return ArraySpec(name, (_HEADER_WORDS,), "int64")


class VersionedSlots:
    """The words that govern one writer's pair of slots; the payload is the caller's to copy."""

    def __init__(self, arrays: SharedArrays, name: str) -> None:
        self._words = arrays.words(name)

    @property
    def published(self) -> int:
        """Number of the newest publication; 0 before the first."""
        return int(self._words[0])

    def write(
        self,
        fill: Callable[[int], object],
        *,
        incarnation: int,
        round_: int,
        version: int,
        checksum: int = 0,
    ) -> Header:
        """Publish: `fill(slot)` copies the payload into slot 0 or 1. One process only."""
        fill(self.begin_write())
        return self.end_write(
            incarnation=incarnation, round_=round_, version=version, checksum=checksum
        )

    def begin_write(self) -> int:
        """Mark the slot of the next publication, 0 or 1, as being written; returns it.

        From here until `finish` nobody reads it, and the payload is copied in.
        """
        number = self.published + 1
        slot = number % NUM_SLOTS
        at = WORDS_PER_LINE * (slot + 1)
        words = self._words
        sequence = words[at + _SEQUENCE]
        # After a kill in the middle the sequence is odd already: step past it, never repeat it.
        words[at + _SEQUENCE] = sequence + (2 if sequence & 1 else 1)
        reach("slots.odd")
        memory_fence()
        return slot

    def end_write(
        self, *, incarnation: int, round_: int, version: int, checksum: int = 0
    ) -> Header:
        """Publish what was copied into the slot that was begun: all of it is there."""
        number = self.published + 1
        at = WORDS_PER_LINE * (number % NUM_SLOTS + 1)
        words = self._words
        reach("slots.filled")
        words[at + _NUMBER] = number
        words[at + _INCARNATION] = incarnation
        words[at + _ROUND] = round_
        words[at + _VERSION] = version
        words[at + _CHECKSUM] = checksum
        reach("slots.headed")
        memory_fence()
        words[at + _SEQUENCE] += 1
        reach("slots.even")
        memory_fence()
        words[0] = number
        reach("slots.published")
        return Header(number, incarnation, round_, version, checksum)

    def begin_read(self, number: int | None = None) -> SlotRead | None:
        """Find publication `number`, or the newest; None if it is not there, or not whole.

        What is then copied out of its slot counts only if `unchanged` says so afterwards.
        """
        number = self.published if number is None else number
        if number == 0:
            return None
        at = WORDS_PER_LINE * (number % NUM_SLOTS + 1)
        words = self._words
        sequence = words[at + _SEQUENCE]
        if sequence & 1:
            return None
        memory_fence()
        header = Header(*words[at + _NUMBER : at + _CHECKSUM + 1])
        return SlotRead(number % NUM_SLOTS, header, sequence) if header.number == number else None

    def unchanged(self, read: SlotRead) -> bool:
        """Whether the writer has left the slot alone since `look`."""
        memory_fence()
        at = WORDS_PER_LINE * (read.slot + 1)
        return bool(self._words[at + _SEQUENCE] == read.sequence)

    def read(self, copy: Callable[[int], object], number: int | None = None) -> Header | None:
        """Copy publication `number`, or the newest; `copy(slot)` takes the payload out.

        Returns None, and what was copied must be thrown away, if there is no such publication or
        the writer was at it meanwhile.
        """
        read = self.begin_read(number)
        if read is None:
            return None
        copy(read.slot)
        return read.header if self.unchanged(read) else None
