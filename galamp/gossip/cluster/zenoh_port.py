"""Port by zenoh: peers that connect to one another directly, without a broker. Runs in bridges.

    galamp/v/TO/FROM/RANK   frames: by an `Outbox` per node, which waits where the network is full
    galamp/t/TO/FROM        texts, of a higher priority; dropped where the network is full
    galamp/f/TO/FROM/RANK   asks for the newest frame of a learner
    galamp/n/NODE/SESSION   liveliness token: withdrawn by the network when its session ends

Nothing is searched for: neither multicast nor gossip between peers. zenoh's shared memory stays off
(a peer that dies can take another along with it). zenoh starts threads, which no fork has: it is
imported by a bridge that forks nothing.
"""

from __future__ import annotations

import importlib.util
import json
import secrets
from typing import Any

from galamp.core.errors import RunFailed, not_installed
from galamp.gossip.cluster.inbox import ROOM_BYTES, Inbox
from galamp.gossip.cluster.outbox import Outbox
from galamp.gossip.cluster.port import Make, Packed, Port, PortContext
from galamp.gossip.cluster.zenoh_access import secured

PREFIX = "galamp"
LEASE_S = 3.0
"""A node that was silent for so long, as behind a cut, is gone."""
RETRY_MS = {"period_init_ms": 200, "period_max_ms": 1000, "period_increase_factor": 2}
"""Intervals between attempts to connect to a node that is not there."""
OPEN_TIMEOUT_S = 2.0
"""Longest wait for a connection and its handshake. Behind a cut the kernel tries at ever longer
intervals, of 4 s soon; a new attempt begins with short ones, so a healed link is soon found."""
CLOSE_TIMEOUT_S = 0.5


class ZenohPort(Port):
    """One session of zenoh."""

    def __init__(self, context: PortContext) -> None:
        """Open the session; nodes that are not there yet are connected to when they are.

        Raises:
            RunFailed: an address cannot be listened at.
        """
        zenoh: Any = importlib.import_module("zenoh")
        self._zenoh, self._context = zenoh, context
        self._others = [node for node in range(context.nodes) if node != context.node]
        self._inbox = Inbox(context)
        self._tokens = {node: dict[str, None]() for node in self._others}
        try:
            self._session = zenoh.open(_config(zenoh, context))
        except zenoh.ZError as error:
            where = ", ".join(context.listen) or "no address"
            raise RunFailed(f"cannot listen at {where}: {_first_line(error)}") from None
        own, subscribe = context.node, self._session.declare_subscriber
        self._kept = [
            subscribe(f"{PREFIX}/v/{own}/*/*", self._on_frame),
            subscribe(f"{PREFIX}/t/{own}/*", self._on_text),
            subscribe(f"{PREFIX}/f/{own}/*/*", self._on_fetch),
            self._session.liveliness().declare_subscriber(
                f"{PREFIX}/n/*/*", self._on_token, history=True
            ),
            self._session.liveliness().declare_token(f"{PREFIX}/n/{own}/{secrets.token_hex(8)}"),
        ]
        self._outboxes = {node: self._outbox(node) for node in self._others}

    @classmethod
    def check_installed(cls) -> None:
        """Check that zenoh is installed.

        Raises:
            UserError: it is not.
        """
        if importlib.util.find_spec("zenoh") is None:  # a supervisor does not load it
            missing = ModuleNotFoundError(name="zenoh")
            raise not_installed("--nodes", "cluster", missing)

    def publish(self, node: int, rank: int, make: Make) -> None:
        """Offer it to the node's outbox."""
        self._outboxes[node].offer(rank, make)

    def frames(self) -> list[tuple[int, Packed]]:
        """Return what the inbox has kept."""
        return self._inbox.frames()

    def fetch(self, node: int, rank: int) -> None:
        """Ask by an empty message."""
        self._put_soon(f"{PREFIX}/f/{node}/{self._context.node}/{rank}", b"")

    def asked(self) -> list[tuple[int, int]]:
        """Return what the inbox has kept."""
        return self._inbox.asked()

    def tell(self, node: int, text: bytes) -> None:
        """Put the text; it is dropped if the link has no room within a millisecond."""
        self._put_soon(f"{PREFIX}/t/{node}/{self._context.node}", text)

    def told(self) -> list[tuple[int, bytes]]:
        """Return what the inbox has kept."""
        return self._inbox.told()

    def alive(self) -> frozenset[int]:
        """Return the nodes of which there is a liveliness token."""
        return frozenset(node for node, tokens in self._tokens.items() if tokens)

    def sent(self, node: int) -> int:
        """Return the count of the node's outbox."""
        return self._outboxes[node].sent

    def overwritten(self, node: int) -> int:
        """Return the count of the node's outbox."""
        return self._outboxes[node].overwritten

    def close(self) -> None:
        """Withdraw the token, and end the session."""
        for outbox in self._outboxes.values():
            outbox.close(CLOSE_TIMEOUT_S)
        self._session.close()

    def _outbox(self, node: int) -> Outbox:
        control = self._zenoh.CongestionControl.BLOCK
        priority = self._zenoh.Priority.DATA_LOW

        def send(rank: int, frame: bytes | bytearray) -> None:
            key = f"{PREFIX}/v/{node}/{self._context.node}/{rank}"
            self._put(key, frame, control, priority)

        return Outbox(f"to node {node}", send)

    def _put_soon(self, key: str, payload: bytes) -> None:
        kinds = self._zenoh
        self._put(key, payload, kinds.CongestionControl.DROP, kinds.Priority.INTERACTIVE_HIGH)

    def _put(self, key: str, payload: bytes | bytearray, control: Any, priority: Any) -> None:
        try:
            self._session.put(key, payload, congestion_control=control, priority=priority)
        except self._zenoh.ZError as error:  # the session is closed: nobody can be reached
            print(f"not sent: {_first_line(error)}", flush=True)

    # In threads of zenoh

    def _on_frame(self, sample: Any) -> None:
        found = self._numbers(sample, 2)
        if found and self._inbox.takes(found[0], found[1], len(sample.payload)):
            self._inbox.frame(found[0], found[1], sample.payload.to_bytes())

    def _on_text(self, sample: Any) -> None:
        found = self._numbers(sample, 1)
        if found and len(sample.payload) <= ROOM_BYTES:
            self._inbox.text(found[0], sample.payload.to_bytes())

    def _on_fetch(self, sample: Any) -> None:
        found = self._numbers(sample, 2)
        if found:
            self._inbox.request(found[0], found[1])

    def _on_token(self, sample: Any) -> None:
        _, node, session = str(sample.key_expr).rsplit("/", 2)
        tokens = self._tokens.get(int(node)) if node.isdecimal() else None
        if tokens is None:
            return
        if sample.kind == self._zenoh.SampleKind.PUT:
            tokens[session] = None
        else:
            tokens.pop(session, None)
        self._context.wake()

    @staticmethod
    def _numbers(sample: Any, count: int) -> tuple[int, ...]:
        """Return the last numbers of a message's key; none if it has no such key."""
        parts = str(sample.key_expr).split("/")[-count:]
        return tuple(map(int, parts)) if all(map(str.isdecimal, parts)) else ()


def _config(zenoh: Any, context: PortContext) -> Any:
    config = zenoh.Config()
    values: dict[str, Any] = {
        "mode": "peer",
        "listen/endpoints": list(context.listen),
        "listen/exit_on_failure": True,
        "connect/endpoints": list(context.connect),
        "connect/timeout_ms": -1,  # tried for ever, in the background
        "connect/exit_on_failure": False,
        "connect/retry": RETRY_MS,
        "scouting/delay": 0,
        "scouting/multicast/enabled": False,
        "scouting/gossip/enabled": False,
        "transport/shared_memory/enabled": False,
        "transport/unicast/open_timeout": round(1000 * OPEN_TIMEOUT_S),
        "transport/link/tx/lease": round(1000 * LEASE_S),
        "transport/link/rx/max_message_size": context.frame_bytes + ROOM_BYTES,
    }
    if context.keys is not None:
        values |= secured(context, context.keys, PREFIX)
    for name, value in values.items():
        config.insert_json5(name, json.dumps(value))
    return config


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].partition(" at /")[0]
