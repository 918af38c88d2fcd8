"""The interface of ports: how a bridge reaches the bridges of other nodes.

    publish --newest wins--> |      | --frames--> mirrors
    tell ------------------> | node | --told----> membership
    fetch -----------------> |      | --asked---> publish
                             |      | --alive---> who can be reached now

Runs in bridges. What every port promises (`tests/contracts/port.py`):

- Newest wins: of each learner there is at most one publication on its way to a node, and one that
  waits; the one that waits is made when its turn comes, so it is the newest that there is. Those
  that were offered meanwhile are counted as overwritten.
- Nobody blocks: no call waits for another node. A node that reads slowly, is stopped, dead or was
  never there costs the others nothing.
- Nothing torn: a frame arrives as it was sent, or not at all, with the node that it is from, as
  far as the network can tell. What is in it is for the caller to check: a port hands on whatever
  reaches it, up to a size.
- With keys, nobody without a certificate of the run reads or sends anything, and a node sends as
  itself only.
- It heals by itself: a node that comes back, from however long an absence, is heard again.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from galamp.core.node_keys import NodeKeys

Packed = bytes | bytearray
"""A frame as bytes."""
Make = Callable[[], Packed | None]
"""Makes a frame when its turn has come, in a thread of the port; None: there is none any more.

The next one for the same node may be made in its memory: a port has let go of it by then, also
where it could not be sent.
"""


@dataclass(frozen=True)
class PortContext:
    """What a node's port is told.

    Attributes:
        node: this node, from 0.
        nodes: how many there are.
        ranks: how many learners all nodes have together.
        listen: addresses to listen at.
        connect: addresses of nodes to connect to.
        frame_bytes: length of a frame; nothing much longer is accepted.
        wake: called, from any thread, when something has arrived.
        keys: by which nodes prove to each other who they are; None: whoever connects is believed.
    """

    node: int
    nodes: int
    ranks: int
    listen: tuple[str, ...]
    connect: tuple[str, ...]
    frame_bytes: int
    wake: Callable[[], object]
    keys: NodeKeys | None = None


class Port(ABC):
    """One node's end of the network between the nodes of a run, opened by `Class(context)`."""

    @abstractmethod
    def __init__(self, context: PortContext) -> None:
        """Open it; other nodes need not be there.

        Raises:
            RunFailed: an address cannot be listened at.
        """

    @classmethod
    @abstractmethod
    def check_installed(cls) -> None:
        """Check that what the port needs is installed.

        Raises:
            UserError: it is not.
        """

    @abstractmethod
    def publish(self, node: int, rank: int, make: Make) -> None:
        """Send the newest publication of learner `rank` to a node, as soon as its turn comes."""

    @abstractmethod
    def frames(self) -> list[tuple[int, Packed]]:
        """Return what has arrived since the last call: (sending node, frame).

        Those of a learner are oldest first. At least its newest is kept until it is asked for. They
        are the caller's.
        """

    @abstractmethod
    def fetch(self, node: int, rank: int) -> None:
        """Ask a node to publish the newest vector of its learner `rank`, told of or not."""

    @abstractmethod
    def asked(self) -> list[tuple[int, int]]:
        """Return what was asked for by `fetch` since the last call: (asking node, rank)."""

    @abstractmethod
    def tell(self, node: int, text: bytes) -> None:
        """Send a short text to a node; it is lost if the node cannot be reached now."""

    @abstractmethod
    def told(self) -> list[tuple[int, bytes]]:
        """Return the texts that have arrived since the last call: (sending node, text)."""

    @abstractmethod
    def alive(self) -> frozenset[int]:
        """Return the other nodes that can be reached now."""

    @abstractmethod
    def sent(self, node: int) -> int:
        """Return how many frames have left for a node."""

    @abstractmethod
    def overwritten(self, node: int) -> int:
        """Return how many publications were offered for a node and never sent, for newer ones."""

    @abstractmethod
    def close(self) -> None:
        """Leave the network."""
