"""Transport through shared memory: parameter slots, and a mailbox per edge. Runs in learners.

    begin_write, end_write --> ParameterSlots r --begin_read, unchanged--> out-peers
    notify --> Mailbox (r, peer) --news, accept--> peer
    wait <-- Wakeup <-- notify, and accept if in order

No vector is copied here: it is written to a slot, and read from there.
"""

from __future__ import annotations

from torch import Tensor

from galamp.gossip.topologies.base import Topology
from galamp.gossip.transport.base import (
    Message,
    PeerStatus,
    Transport,
    TransportContext,
    VectorRead,
)
from galamp.gossip.transport.mailbox import Mailbox, Token
from galamp.gossip.transport.parameter_slots import ParameterSlots, gossip_specs
from galamp.gossip.transport.publication import FOLLOWS
from galamp.memory.arrays import ArraySpec
from galamp.memory.control import ControlBlock
from galamp.memory.status import StatusRow
from galamp.memory.versioned_slots import NUM_SLOTS, Header


class SharedMemoryTransport(Transport):
    """One learner's slots and mailboxes, and those of its in-peers; see `Transport`."""

    def __init__(self, context: TransportContext) -> None:
        super().__init__(context)
        arrays, rank, name = context.arrays, context.rank, context.name
        self._arrays, self._wakeups = arrays, context.wakeups
        self._control = ControlBlock(arrays)
        self._rows = [StatusRow(arrays, peer) for peer in range(context.topology.size)]
        self._slots = {peer: ParameterSlots(arrays, peer, name) for peer in (rank, *self.in_peers)}
        self._vectors = {
            peer: [slots.payload[slot, : context.size] for slot in range(NUM_SLOTS)]
            for peer, slots in self._slots.items()
        }
        self._own = self._slots[rank]
        self._inboxes = {peer: Mailbox(arrays, peer, rank, name) for peer in self.in_peers}
        self._outboxes = {peer: Mailbox(arrays, rank, peer, name) for peer in self.out_peers}
        self._heard = dict.fromkeys(self.in_peers, 0)

    @staticmethod
    def specs(topology: Topology, size: int, name: str) -> list[ArraySpec]:
        """Return the arrays of all learners' slots and all mailboxes."""
        return gossip_specs(topology, size, name)

    def begin_write(self) -> Tensor:
        """Return the slot of the next publication; it is odd until `end_write`."""
        return self._vectors[self.rank][self._own.begin_write()]

    def end_write(
        self, *, incarnation: int, round_: int, version: int, checksum: int = 0
    ) -> Header:
        """Make the slot even; return its header."""
        return self._own.end_write(
            incarnation=incarnation, round_=round_, version=version, checksum=checksum
        )

    def notify(self, peer: int, header: Header) -> None:
        """Put a token into the mailbox of the edge, and wake the peer."""
        self._outboxes[peer].put(Token(header.number, header.round, header.incarnation))
        self._wakeups[peer].signal()

    def has_room(self) -> bool:
        """Whether no running peer still has to read the slot that is written next."""
        overwritten = self._own.published + 1 - NUM_SLOTS
        return all(self._leaves(peer, overwritten) for peer in self._outboxes)

    def _leaves(self, peer: int, overwritten: int) -> bool:
        oldest = self._outboxes[peer].oldest()
        return oldest is None or oldest[0].number > overwritten or not self._control.alive(peer)

    def news(self, peer: int) -> Message | None:
        """Return the token to be read next; tokens of former incarnations are discarded."""
        box = self._inboxes[peer]
        while (found := box.oldest() if self.ordered else box.newest()) is not None:
            token, index = found
            if token.incarnation == self._control.incarnation(peer):
                new = self.ordered or self._slots[peer].published > self._heard[peer]
                return Message(peer, *token, index) if new else None
            box.accept(index)
        return None

    def begin_read(self, message: Message) -> VectorRead | None:
        """Begin to read a slot; None if it is odd, or of another incarnation."""
        peer = message.peer
        read = self._slots[peer].begin_read(message.number if self.ordered else None)
        if read is None or read.header.incarnation != message.incarnation:
            return None
        return VectorRead(peer, read.header, self._vectors[peer][read.slot], read)

    def unchanged(self, read: VectorRead) -> bool:
        """Whether the slot's sequence is the same as before."""
        return self._slots[read.peer].unchanged(read.mark)

    def accept(self, message: Message, number: int) -> int:
        """Mark the tokens up to this one as read; return how many were skipped."""
        skipped = self._inboxes[message.peer].accept(message.place)
        self._heard[message.peer] = number
        if self.ordered:  # else it waits for no room
            self._wakeups[message.peer].signal()
        return skipped

    def fetch(self, peer: int, size: int) -> Tensor | None:
        """Return a copy of the start of a learner's newest even slot."""
        slots = self._slots.get(peer) or ParameterSlots(self._arrays, peer, self.name)
        read = slots.begin_read()
        if read is not None and read.header.incarnation == FOLLOWS:
            return None  # it is none of that learner's
        return slots.copy(size)

    def status(self, peer: int) -> PeerStatus:
        """Return the state of a peer from the control block and the status board."""
        return PeerStatus(self._control.alive(peer), self._rows[peer]["rounds"])

    def wait(self, timeout_s: float) -> None:
        """Sleep until this learner's wake-up, at most `timeout_s`."""
        self._wakeups[self.rank].wait(timeout_s)

    def page_lock(self) -> int:
        """Page-lock the own slots and those of the in-peers; return the greatest error code."""
        return max(self._arrays.page_lock(f"{self.name}{peer}") for peer in self._slots)
