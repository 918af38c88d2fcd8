"""A transport from outside galamp: a ring of publications, and neither seqlock nor mailbox."""

from __future__ import annotations

import torch
from torch import Tensor

from galamp.gossip.topologies.base import Topology
from galamp.gossip.transport.base import (
    Message,
    PeerStatus,
    Transport,
    TransportContext,
    VectorRead,
)
from galamp.memory.arrays import ArraySpec, memory_fence
from galamp.memory.control import ControlBlock
from galamp.memory.status import StatusRow
from galamp.memory.versioned_slots import Header

KEPT = 4
COUNT = KEPT
"""Row of `notes` that holds the number of publications, and of messages to each peer."""
INCARNATION, ROUND, VERSION, CHECKSUM, TOLD = range(5)
"""Columns of `notes`; from TOLD on, for each learner: which message to it this was, 0 for none."""
NUMBER, PLACE = range(2)
"""Columns of `taken`, of the last message of each learner that was read."""


class PublicationsInARing(Transport):
    """The last four publications of each learner, in a ring that it alone writes.

    Publication n is whole once it is counted, and until the one that replaces it, n + 4, is begun.
    """

    def __init__(self, context: TransportContext) -> None:
        super().__init__(context)
        arrays, name, ranks = context.arrays, context.name, range(context.topology.size)
        self._vectors = [torch.from_numpy(arrays[f"{name}.ring{rank}"]) for rank in ranks]
        self._notes = [arrays[f"{name}.notes{rank}"] for rank in ranks]
        self._taken = [arrays[f"{name}.taken{rank}"] for rank in ranks]
        self._rows = [StatusRow(arrays, rank) for rank in ranks]
        self._control, self._wakeups = ControlBlock(arrays), context.wakeups

    def begin_write(self) -> Tensor:
        """Return the place of the oldest publication, which nobody reads any more."""
        at = (self._count(self.rank) + 1) % KEPT
        self._notes[self.rank][at, TOLD:] = 0
        return self._vectors[self.rank][at]

    def end_write(
        self, *, incarnation: int, round_: int, version: int, checksum: int = 0
    ) -> Header:
        """Count what was written."""
        number, notes = self._count(self.rank) + 1, self._notes[self.rank]
        notes[number % KEPT, :TOLD] = incarnation, round_, version, checksum
        memory_fence()
        notes[COUNT, 0] = number
        return Header(number, incarnation, round_, version, checksum)

    @staticmethod
    def specs(topology: Topology, size: int, name: str) -> list[ArraySpec]:
        """Return a ring, its notes, and a note of what was taken, for each learner."""
        count, specs = topology.size, []
        for rank in range(count):
            specs.append(ArraySpec(f"{name}.ring{rank}", (KEPT, size), "float32", near=rank))
            specs.append(ArraySpec(f"{name}.notes{rank}", (KEPT + 1, TOLD + count), "int64"))
            specs.append(ArraySpec(f"{name}.taken{rank}", (count, 2), "int64"))
        return specs

    def notify(self, peer: int, header: Header) -> None:
        """Note that the publication is for this peer, and wake it."""
        notes = self._notes[self.rank]
        notes[COUNT, TOLD + peer] += 1
        notes[header.number % KEPT, TOLD + peer] = notes[COUNT, TOLD + peer]
        self._wakeups[peer].signal()

    def has_room(self) -> bool:
        """Whether everyone who was told has read the publication that the next one endangers."""
        oldest = self._count(self.rank) + 2 - KEPT
        row = self._notes[self.rank][oldest % KEPT]
        if oldest < 1 or row[INCARNATION] != self._control.incarnation(self.rank):
            return True
        return not any(self._owes(peer, oldest) for peer in self.out_peers)

    def _owes(self, peer: int, number: int) -> bool:
        told = self._notes[self.rank][number % KEPT, TOLD + peer]
        unread = self._taken[peer][self.rank, NUMBER] < number
        return bool(told and unread and self._control.alive(peer))

    def news(self, peer: int) -> Message | None:
        """Return the newest, or the oldest, that is noted for this learner and not taken."""
        newest, notes = self._count(peer), self._notes[peer]
        memory_fence()
        first = max(int(self._taken[self.rank][peer, NUMBER]), newest - KEPT + 1) + 1
        numbers = range(first, newest + 1)
        for number in numbers if self.ordered else reversed(numbers):
            note = notes[number % KEPT]
            if note[TOLD + self.rank] and note[INCARNATION] == self._control.incarnation(peer):
                round_, incarnation = int(note[ROUND]), int(note[INCARNATION])
                return Message(peer, number, round_, incarnation, int(note[TOLD + self.rank]))
        return None

    def begin_read(self, message: Message) -> VectorRead | None:
        """Begin to read the newest publication, or the one that the message names."""
        read = self._read(message.peer, message.number if self.ordered else None)
        return read if read and read.header.incarnation == message.incarnation else None

    def _read(self, peer: int, number: int | None = None) -> VectorRead | None:
        number = self._count(peer) if number is None else number
        memory_fence()
        note = self._notes[peer][number % KEPT]
        header = Header(number, *(int(value) for value in note[:TOLD]))
        return VectorRead(peer, header, self._vectors[peer][number % KEPT]) if number else None

    def unchanged(self, read: VectorRead) -> bool:
        """Whether its place cannot be written to yet."""
        memory_fence()
        return self._count(read.peer) + 1 < read.header.number + KEPT

    def accept(self, message: Message, number: int) -> int:
        """Note what was taken, and wake the peer."""
        taken = self._taken[self.rank][message.peer]
        skipped = message.place - int(taken[PLACE]) - 1
        taken[:] = number, message.place
        self._wakeups[message.peer].signal()
        return skipped

    def fetch(self, peer: int, size: int) -> Tensor | None:
        """Return a copy of the newest vector's start."""
        read = self._read(peer)
        copy = None if read is None else read.vector[:size].clone()
        return copy if read is not None and self.unchanged(read) else None

    def status(self, peer: int) -> PeerStatus:
        """Return what the control block and the status board say."""
        return PeerStatus(self._control.alive(peer), self._rows[peer]["rounds"])

    def wait(self, timeout_s: float) -> None:
        """Sleep until woken."""
        self._wakeups[self.rank].wait(timeout_s)

    def _count(self, peer: int) -> int:
        return int(self._notes[peer][COUNT, 0])
