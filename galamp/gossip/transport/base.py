"""The interface of transports: how the vectors of one learner reach its peers, and theirs it.

    begin_write, fill, end_write --> notify --> |  | --> news --> begin_read, use, unchanged?
    has_room <--------------------------------- |  | <-- accept
          learner r's end                                      its peer's end

Runs in learners. One object is one learner's end of one exchange: of the parameters, or of the
gradients. Its caller is `Gossiper`, from one thread.

What every transport promises (`tests/contracts/transport.py`):

- Nothing torn: if `unchanged` holds, what was read before it is one publication as it was written,
  whenever its writer was killed. The header belongs to the vector.
- Newest wins: a message is a hint that there is a newer publication, and the newest is read;
  messages that were not read are skipped and counted. No publication is read twice.
- In order instead, if the context says so (synchronous learners): each message is read, once, with
  the publication that it names, as long as writers ask `has_room` before they write.
- Order: whoever finds a message finds its publication, or a newer one, complete. After `accept`
  the writer has room again.
- Nobody blocks: no call waits for another process, except `wait`, which ends at its timeout. A
  peer that reads slowly, is stopped or dead costs the writer nothing.
- Incarnations: messages and publications of a peer's process before the present one are not taken.
  Publications are numbered from 1 over all of them, so a number is never given twice.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from galamp.gossip.topologies.base import Topology
from galamp.memory.arrays import ArraySpec, SharedArrays, Wakeup
from galamp.memory.versioned_slots import Header


@dataclass(frozen=True)
class TransportContext:
    """What a learner's end of a transport is told.

    Attributes:
        arrays: the run's shared memory, with the arrays of the transport's `specs` in it, the
            control block, and the status board.
        rank: the learner.
        topology: graph whose edges messages are sent over.
        size: length of the vectors.
        wakeups: one of each learner, which its owner waits for.
        name: name of the exchange; several may go on at once, over different graphs.
        ordered: whether every message is to be read, in order, instead of the newest only.
    """

    arrays: SharedArrays
    rank: int
    topology: Topology
    size: int
    wakeups: Sequence[Wakeup]
    name: str = "parameters"
    ordered: bool = False


class Message(NamedTuple):
    """Message of `peer`: its `incarnation` has made publication `number`, in its gossip `round`.

    `place` is the transport's own.
    """

    peer: int
    number: int
    round: int
    incarnation: int
    place: int = 0


class VectorRead(NamedTuple):
    """A read in progress: `vector` [size] float32, on the CPU, of the publication of `header`.

    The vector is not to be written to. What it holds is valid only if `unchanged` holds after the
    last use of it. `mark` is the transport's own.
    """

    peer: int
    header: Header
    vector: Tensor
    mark: Any = None


class PeerStatus(NamedTuple):
    """State of a peer: whether it is running, and how many gossip rounds it has ended."""

    alive: bool
    round: int


class Transport(ABC):
    """One learner's end of an exchange, made by `Class(context)` once per process of the learner.

    A new process of a learner makes a new one, and goes on from what its predecessors left.
    """

    def __init__(self, context: TransportContext) -> None:
        self.rank, self.topology, self.name = context.rank, context.topology, context.name
        self.ordered, edges = context.ordered, context.topology.edges()
        self.in_peers = tuple(sender for sender, receiver in edges if receiver == context.rank)
        self.out_peers = tuple(receiver for sender, receiver in edges if sender == context.rank)

    @staticmethod
    @abstractmethod
    def specs(topology: Topology, size: int, name: str) -> list[ArraySpec]:
        """Return the shared arrays that all learners' ends need, for vectors of `size` numbers.

        The supervisor allocates them before the first learner starts.
        """

    @abstractmethod
    def begin_write(self) -> Tensor:
        """Begin a publication; return where its vector is to be written, [size] float32, CPU.

        It is the transport's memory: it may be filled late, by a GPU for instance, up to
        `end_write`, and until then nobody reads it. A publication that was begun and not ended is
        forgotten at the next `begin_write`, by whichever process.
        """

    @abstractmethod
    def end_write(
        self, *, incarnation: int, round_: int, version: int, checksum: int = 0
    ) -> Header:
        """Publish the vector that was begun: from now on it is the newest; return its header."""

    @abstractmethod
    def notify(self, peer: int, header: Header) -> None:
        """Send an out-peer the message of the newest publication, and wake it."""

    @abstractmethod
    def has_room(self) -> bool:
        """Whether the next publication replaces none that a running peer has still to read.

        Asked by a writer in order; one whose newest publication wins need not.
        """

    @abstractmethod
    def news(self, peer: int) -> Message | None:
        """Return the message of an in-peer that is to be read next; None if there is none.

        It stays there until it is accepted: the newest, or the oldest if in order.
        """

    @abstractmethod
    def begin_read(self, message: Message) -> VectorRead | None:
        """Begin to read the publication that a message has told of.

        That is the sender's newest, by the incarnation that sent the message; if in order, the very
        one that the message names.

        Returns:
            None if it is incomplete or gone; another try may find it.
        """

    @abstractmethod
    def unchanged(self, read: VectorRead) -> bool:
        """Whether all that was read since `begin_read` is of one publication."""

    @abstractmethod
    def accept(self, message: Message, number: int) -> int:
        """End a message, of which publication `number` was read; return how many were skipped.

        If in order, its sender is woken: it may wait for room.
        """

    @abstractmethod
    def fetch(self, peer: int, size: int) -> Tensor | None:
        """Return a copy of the first `size` numbers of a learner's newest vector, in-peer or not.

        Told of or not, and whichever incarnation wrote it: a learner that is started anew begins
        from its peers' vectors. None if none is complete.
        """

    @abstractmethod
    def status(self, peer: int) -> PeerStatus:
        """Return the state of a peer, as far as it is known."""

    @abstractmethod
    def wait(self, timeout_s: float) -> None:
        """Sleep until a peer's `notify`, at most `timeout_s`; it may end early.

        If in order, until a peer's `accept`, too.
        """

    def page_lock(self) -> int:
        """Page-lock the memory of the vectors, for direct copies from and to a GPU.

        Returns:
            0, or the error code of the CUDA runtime; then, and in a transport that locks nothing,
            copies go through a staging buffer.
        """
        return 0
