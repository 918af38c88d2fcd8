"""A port without a network, for nodes in one process: what is sent is handed over at once.

A node that is `cut` hears nothing and is heard by nobody, as behind a silent cut; one that is
`stuck` takes no frame, and whoever sends it one waits.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import ClassVar

from galamp.gossip.cluster.outbox import Outbox
from galamp.gossip.cluster.port import Make, Port, PortContext


class InOneProcess(Port):
    """Hands over to the ports that listen, or connect, at the same address."""

    networks: ClassVar[dict[str, dict[int, InOneProcess]]] = {}
    """Address -> the ports that are open there."""

    def __init__(self, context: PortContext) -> None:
        self._context, self.cut, self.stuck = context, False, False
        self._others = [node for node in range(context.nodes) if node != context.node]
        self._frames = dict[tuple[int, int], bytes]()
        self._texts, self._asked = list[tuple[int, bytes]](), list[tuple[int, int]]()
        self._address = (*context.listen, *context.connect)[0]
        self.networks.setdefault(self._address, {})[context.node] = self
        self._done = dict.fromkeys(self._others, 0)
        self._outboxes = {node: Outbox(f"to node {node}", self._to(node)) for node in self._others}

    @classmethod
    def check_installed(cls) -> None:
        pass

    def _peer(self, node: int) -> InOneProcess | None:
        found = self.networks[self._address].get(node)
        return None if found is None or found.cut or self.cut else found

    def _to(self, node: int) -> Callable[[int, bytes | bytearray], None]:
        def send(rank: int, frame: bytes | bytearray) -> None:
            while (peer := self._peer(node)) is not None and peer.stuck:
                time.sleep(0.001)
            if peer is not None:
                peer._frames[self._context.node, rank] = bytes(frame)
                peer._context.wake()
            self._done[node] += 1

        return send

    def publish(self, node: int, rank: int, make: Make) -> None:
        def made() -> bytes | bytearray | None:
            frame = make()
            if frame is None:
                self._done[node] += 1
            return frame

        self._outboxes[node].offer(rank, made)

    def at_rest(self) -> bool:
        """Whether nothing is on its way from here, but to a node that is stuck."""
        return all(
            (not outbox._waiting and outbox._taken == self._done[node])
            or ((peer := self._peer(node)) is not None and peer.stuck)
            for node, outbox in self._outboxes.items()
        )

    def frames(self) -> list[tuple[int, bytes]]:
        keys = list(self._frames)
        return [(key[0], self._frames.pop(key)) for key in keys]

    def fetch(self, node: int, rank: int) -> None:
        if (peer := self._peer(node)) is not None:
            peer._asked.append((self._context.node, rank))
            peer._context.wake()

    def asked(self) -> list[tuple[int, int]]:
        found, self._asked = self._asked, []
        return found

    def tell(self, node: int, text: bytes) -> None:
        if (peer := self._peer(node)) is not None:
            peer._texts.append((self._context.node, text))
            peer._context.wake()

    def told(self) -> list[tuple[int, bytes]]:
        found, self._texts = self._texts, []
        return found

    def alive(self) -> frozenset[int]:
        return frozenset(node for node in self._others if self._peer(node) is not None)

    def sent(self, node: int) -> int:
        return self._outboxes[node].sent

    def overwritten(self, node: int) -> int:
        return self._outboxes[node].overwritten

    def close(self) -> None:
        del self.networks[self._address][self._context.node]
        for outbox in self._outboxes.values():
            outbox.close(1.0)
