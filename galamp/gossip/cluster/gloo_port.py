"""Port by torch's gloo, for sites that allow nothing but torch: a group of two ranks per edge.

    lower node's StoreHost <--> Meeting of both --Group--> GlooEdge: a connection, three threads

Neither encrypted nor authenticated: whoever reaches the ports can read and alter what passes, and
may end the bridge. What is too slow for a beat and a piece of a frame within the lease is taken for
gone, again and again. The bridge imports torch for it.
"""

from __future__ import annotations

import time

from galamp.core.errors import UserError
from galamp.gossip.cluster.gloo_edge import GlooEdge
from galamp.gossip.cluster.gloo_meeting import Meeting, StoreHost, torch_distributed
from galamp.gossip.cluster.inbox import Inbox
from galamp.gossip.cluster.outbox import Outbox
from galamp.gossip.cluster.port import Make, Packed, Port, PortContext

CLOSE_TIMEOUT_S = 0.5


class GlooPort(Port):
    """All edges of a node."""

    def __init__(self, context: PortContext) -> None:
        """Listen, if others connect to this node, and begin to meet all nodes.

        Raises:
            RunFailed: an address cannot be listened at.
        """
        own = context.node
        self._inbox = Inbox(context)
        self._hosts = [StoreHost(address) for address in context.listen]
        # Each listens for all nodes above it, and meets those below at their addresses.
        addresses = dict(enumerate(context.connect))
        addresses |= {node: at for node in range(own + 1, context.nodes) for at in context.listen}
        self._edges = {
            node: GlooEdge(node, Meeting(address, own, node), self._inbox, context.wake)
            for node, address in addresses.items()
        }
        self._outboxes = {
            node: Outbox(f"to node {node}", edge.send) for node, edge in self._edges.items()
        }

    @classmethod
    def check_installed(cls) -> None:
        """Check that torch has gloo.

        Raises:
            UserError: it was built without.
        """
        distributed = torch_distributed()
        if not (distributed.is_available() and distributed.is_gloo_available()):
            raise UserError("--transport gloo: this torch was built without gloo; use zenoh")

    def publish(self, node: int, rank: int, make: Make) -> None:
        """Offer it to the node's outbox."""
        self._outboxes[node].offer(rank, make)

    def frames(self) -> list[tuple[int, Packed]]:
        """Return what the inbox has kept."""
        return self._inbox.frames()

    def fetch(self, node: int, rank: int) -> None:
        """Ask over the edge, if the node is there."""
        self._edges[node].ask(rank)

    def asked(self) -> list[tuple[int, int]]:
        """Return what the inbox has kept."""
        return self._inbox.asked()

    def tell(self, node: int, text: bytes) -> None:
        """Send it over the edge, if the node is there."""
        self._edges[node].say(text)

    def told(self) -> list[tuple[int, bytes]]:
        """Return what the inbox has kept."""
        return self._inbox.told()

    def alive(self) -> frozenset[int]:
        """Return the nodes that were heard over a group that is not broken.

        Raises:
            Exception: the one that has ended the thread of an edge.
        """
        for edge in self._edges.values():
            if edge.failure is not None:
                raise edge.failure
        return frozenset(node for node, edge in self._edges.items() if edge.alive)

    def sent(self, node: int) -> int:
        """Return the count of the node's outbox."""
        return self._outboxes[node].sent

    def overwritten(self, node: int) -> int:
        """Return the count of the node's outbox."""
        return self._outboxes[node].overwritten

    def close(self) -> None:
        """Break all connections, and listen no more."""
        for edge in self._edges.values():
            edge.leave()
        until_s = time.monotonic() + CLOSE_TIMEOUT_S
        for edge in self._edges.values():
            edge.join(max(0.0, until_s - time.monotonic()))
        for outbox in self._outboxes.values():
            outbox.close(max(0.0, until_s - time.monotonic()))
        for host in self._hosts:
            host.close()
