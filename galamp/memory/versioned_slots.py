"""A seqlock over two slots: one writer publishes payloads, many readers copy them, without a lock.

    writer (a learner)                        readers (its out-peers, the supervisor)
    sequence odd -> copy in -> sequence even  sequence even? copy out, sequence the same? accept
    publications alternate between 2 slots    else try again, or continue without it

A writer that is killed during a write leaves an odd sequence, and readers skip that slot. Only a
complete new write makes an odd sequence even. Used for the parameters that learners gossip, and for
the learner state that the supervisor saves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from galamp.core.failpoints import hit
from galamp.memory.arrays import WORDS_PER_LINE, ArraySpec, SharedArrays, memory_fence

NUM_SLOTS = 2
_HEADER_WORDS = WORDS_PER_LINE * (NUM_SLOTS + 1)
_SEQUENCE, _NUMBER, _INCARNATION, _ROUND, _VERSION, _CHECKSUM = range(6)


class Header(NamedTuple):
    """Header of one publication; numbers count from 1 over all incarnations of the writer."""

    number: int
    incarnation: int
    round: int
    version: int
    checksum: int = 0
    """Checksum of the payload, if the writer computes one; not checked by this module."""


class SlotRead(NamedTuple):
    """A read in progress: the slot of a complete publication, and its sequence at the start."""

    slot: int
    header: Header
    sequence: int


def header_spec(name: str) -> ArraySpec:
    """Return the array that holds the sequences and headers of a pair of slots."""
    return ArraySpec(name, (_HEADER_WORDS,), "int64")


class VersionedSlots:
    """Sequences and headers of one writer's pair of slots; the caller copies the payload."""

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
        """Publish: `fill(slot)` copies the payload into slot 0 or 1. For one process only."""
        fill(self.begin_write())
        return self.end_write(
            incarnation=incarnation, round_=round_, version=version, checksum=checksum
        )

    def begin_write(self) -> int:
        """Mark the slot of the next publication, 0 or 1, as being written; return the slot.

        Until `end_write` no reader accepts it. The caller now copies the payload in.
        """
        number = self.published + 1
        slot = number % NUM_SLOTS
        at = WORDS_PER_LINE * (slot + 1)
        words = self._words
        sequence = words[at + _SEQUENCE]
        # After a kill during a write the sequence is odd already: skip it, never use it twice.
        words[at + _SEQUENCE] = sequence + (2 if sequence & 1 else 1)
        hit("slots.odd")
        memory_fence()
        return slot

    def end_write(
        self, *, incarnation: int, round_: int, version: int, checksum: int = 0
    ) -> Header:
        """Publish the payload that was copied into the slot of `begin_write`."""
        number = self.published + 1
        at = WORDS_PER_LINE * (number % NUM_SLOTS + 1)
        words = self._words
        hit("slots.filled")
        words[at + _NUMBER] = number
        words[at + _INCARNATION] = incarnation
        words[at + _ROUND] = round_
        words[at + _VERSION] = version
        words[at + _CHECKSUM] = checksum
        hit("slots.headed")
        memory_fence()
        words[at + _SEQUENCE] += 1
        hit("slots.even")
        memory_fence()
        words[0] = number
        hit("slots.published")
        return Header(number, incarnation, round_, version, checksum)

    def begin_read(self, number: int | None = None) -> SlotRead | None:
        """Find publication `number`, default the newest; None if it is missing or incomplete.

        A copy that is then made of its slot is valid only if `unchanged` holds afterwards.
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
        """Whether the writer has not touched the slot since `begin_read`."""
        memory_fence()
        at = WORDS_PER_LINE * (read.slot + 1)
        return bool(self._words[at + _SEQUENCE] == read.sequence)

    def read(self, copy: Callable[[int], object], number: int | None = None) -> Header | None:
        """Copy publication `number`, default the newest; `copy(slot)` copies the payload out.

        Returns its header. None, and the copy must be discarded, if there is no such publication or
        the writer has changed it during the copy.
        """
        read = self.begin_read(number)
        if read is None:
            return None
        copy(read.slot)
        return read.header if self.unchanged(read) else None
