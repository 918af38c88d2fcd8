"""Meeting: how two nodes agree on a gloo group of theirs, by the store of the one that listens.

    higher node --EDGE/ask: NAME--> store of the lower node --EDGE/yes/NAME--> higher node
    both --PrefixStore(EDGE/NAME)--> ProcessGroupGloo of two ranks: one connection

A group that is broken stays so, thus each has another, random name: an edge is made anew where its
last group has failed, whoever of both was away. Each of two waits for the other in a thread of this
edge alone. The store is torch's TCPStore, at the address of `--join` and at no other one; gloo adds
a port of the kernel's choice per edge and node, at the address by which the nodes reach each other.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import secrets
import socket
import time
from datetime import timedelta
from typing import Any

from galamp.core.errors import RunFailed

MEET_S, PROBE_S = 3.0, 1.0
"""Longest wait for the other node while a group is made, and for its answer to a connection."""
UNANSWERED_S = 3
"""The connection to a store ends when the other machine has confirmed nothing for so long."""
ASK_EVERY_S = 0.05
BROKEN_WITHIN = timedelta(milliseconds=1)
NEVER = 99
"""Tag that nothing is sent with."""


def torch_distributed() -> Any:
    """Import torch.distributed: in bridges with this port only."""
    return importlib.import_module("torch.distributed")


def split(address: str) -> tuple[str, int]:
    """Return host and port of `tcp/HOST:PORT`; an IPv6 host without its brackets."""
    host, _, port = address.partition("/")[2].rpartition(":")
    return host.strip("[]"), int(port)


class StoreHost:
    """The store of a node that others connect to."""

    def __init__(self, address: str) -> None:
        """Listen at `address`, of this machine.

        Raises:
            RunFailed: that cannot be.
        """
        host, port = split(address)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            listener = socket.create_server((host, port), family=family)
        except OSError as error:
            raise RunFailed(f"cannot listen at {address}: {error.strerror}") from None
        # By itself it would listen at every address of the machine.
        self._store: Any = torch_distributed().TCPStore(
            host, port, None, True, timedelta(seconds=MEET_S), False, False, listener.detach()
        )

    def close(self) -> None:
        """Listen no more, as soon as no thread uses the store."""
        self._store = None


class Group:
    """One connection between two nodes; every call may raise RuntimeError, from then on all do."""

    def __init__(self, group: Any, rank: int) -> None:
        self._torch: Any = importlib.import_module("torch")
        self._group, self._other = group, 1 - rank

    def send(self, data: bytearray | memoryview, tag: int, timeout: timedelta) -> None:
        """Send bytes; returns when they have left.

        Raises:
            RuntimeError: the connection is broken, or the other node takes none for so long.
        """
        self._group.send([self._tensor(data)], self._other, tag).wait(timeout)

    def receive(self, data: bytearray | memoryview, tag: int, timeout: timedelta) -> None:
        """Fill `data` with bytes that were sent with this tag, as many at once.

        Raises:
            RuntimeError: the connection is broken, or nothing comes for so long, which breaks it.
        """
        self._group.recv([self._tensor(data)], self._other, tag).wait(timeout)

    def destroy(self) -> None:
        """Break the connection: all that waits for it raises, on both sides."""
        try:
            self.receive(bytearray(1), NEVER, BROKEN_WITHIN)
        except RuntimeError:
            return

    def _tensor(self, data: bytearray | memoryview) -> Any:
        return self._torch.frombuffer(data, dtype=self._torch.uint8)


def end_unanswered(port: int) -> None:
    """Have the kernel end this process's connections to `port` that stay unanswered.

    torch's store waits for an answer without a deadline, and has no option for one. Behind a cut it
    would wait for TCP's next attempt, each of which comes twice as late as the one before.
    """
    options = {
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE): 1,
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE): 1,
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL): 1,
        (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT): 1000 * UNANSWERED_S,
    }
    for descriptor in map(int, os.listdir("/proc/self/fd")):
        with contextlib.suppress(OSError):  # it is no socket, not connected, or closed by now
            connection = socket.socket(fileno=descriptor)
            try:
                if connection.getpeername()[1:2] == (port,):
                    for (level, name), value in options.items():
                        connection.setsockopt(level, name, value)
            finally:
                connection.detach()


class Meeting:
    """Makes the groups of one edge, one after another."""

    def __init__(self, address: str, node: int, other: int) -> None:
        """Agree by the store at `address`, which is the lower of both nodes'."""
        self._host, self._port = split(address)
        self._rank = int(node > other)
        self._edge = f"{min(node, other)}-{max(node, other)}"
        self._store: Any = None
        self._device: Any = None
        self._name = ""

    def group(self) -> Group | None:
        """Return a new group once both nodes are there; None: not now, try again soon.

        Takes a few seconds at most; while the process that listens is stopped, as long as that.
        """
        try:
            store = self._connected()
            return self._answer(store) if self._rank == 0 else self._ask(store)
        except (RuntimeError, OSError, ValueError):  # torch's own errors are RuntimeErrors
            self._store = None
            return None

    def close(self) -> None:
        """Leave the store."""
        self._store = self._device = None

    def _connected(self) -> Any:
        if self._store is None:
            # torch would complain of each attempt that fails, several times a second.
            with socket.create_connection((self._host, self._port), PROBE_S) as probe:
                own = probe.getsockname()[0]
            distributed, within = torch_distributed(), timedelta(seconds=MEET_S)
            self._store = distributed.TCPStore(
                self._host, self._port, None, False, within, wait_for_workers=False
            )
            end_unanswered(self._port)
            self._device = distributed.ProcessGroupGloo.create_device(hostname=own)
        return self._store

    def _ask(self, store: Any) -> Group | None:
        """Ask by a name until it is answered, so that a late answer is no answer to another one."""
        self._name = self._name or secrets.token_hex(8)
        store.set(f"{self._edge}/ask", self._name)
        until_s = time.monotonic() + MEET_S
        while not store.check([f"{self._edge}/yes/{self._name}"]):  # a wait would log its end
            if time.monotonic() > until_s:
                return None
            time.sleep(ASK_EVERY_S)
        name, self._name = self._name, ""
        return self._made(store, name)

    def _answer(self, store: Any) -> Group | None:
        ask = f"{self._edge}/ask"
        if not store.check([ask]):
            return None
        name = store.get(ask).decode()
        if name == self._name:
            return None
        self._forget(store)
        self._name = name
        store.set(f"{self._edge}/yes/{name}", "")
        return self._made(store, name)

    def _made(self, store: Any, name: str) -> Group:
        kind, distributed = torch_distributed().ProcessGroupGloo, torch_distributed()
        options = kind._Options()
        options._timeout = timedelta(seconds=MEET_S)
        options._devices, options._threads = [self._device], 1
        prefixed = distributed.PrefixStore(f"{self._edge}/{name}", store)
        return Group(kind(prefixed, self._rank, 2, options), self._rank)

    def _forget(self, store: Any) -> None:
        """Remove what the last group has left in the store."""
        if self._name:
            for key in store.list_keys():
                if self._name in key and f"{self._edge}/" in key:
                    store.delete_key(key)
