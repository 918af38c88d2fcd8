"""One learner's gossip: publish its parameters, and mix in those of its in-peers.

    Gossiper.publish: vector -> own slots, a token into each out-peer's mailbox
    Gossiper.mix:     a token from every in-peer -> copies of their vectors -> vector = their mean

Runs in a learner. Learner i's round is x_i = (y_i + sum of m_j) / (1 + in-peers), y_i being its
parameters after a local update and m_j the newest unread vector of in-peer j; without a message
from each of them it keeps y_i and grows staler by a round (Assran et al. 2019, algorithm 1).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from galamp.control import ControlBlock
from galamp.errors import RunFailed
from galamp.gossip.mailbox import Mailbox, Token
from galamp.gossip.slots import SLOTS, VersionedSlots, header_spec
from galamp.gossip.topologies.base import Topology
from galamp.metrics import MetricsRow
from galamp.shm import ArraySpec, SharedArrays, Wakeup, page_lock

POLL_S = 0.05
READ_TRIES = 5


def gossip_specs(topology: Topology, parameters: int) -> list[ArraySpec]:
    """Return the shared arrays of all learners' parameter slots and mailboxes."""
    specs = [Mailbox.spec(*edge) for edge in topology.edges()]
    for rank in range(topology.size):
        specs.append(header_spec(f"parameters{rank}.header"))
        shape = (SLOTS, parameters)
        specs.append(ArraySpec(f"parameters{rank}", shape, "float32", fill=float("nan")))
    return specs


class ParameterSlots(VersionedSlots):
    """A learner's published parameter vectors, `[P]` float32 each."""

    def __init__(self, arrays: SharedArrays, rank: int) -> None:
        super().__init__(arrays, f"parameters{rank}.header")
        self.payload = torch.from_numpy(arrays[f"parameters{rank}"])  # [SLOTS, P]

    def newest(self) -> Tensor | None:
        """Return a copy `[P]` of the newest publication; None if none is whole just now."""
        copy = torch.empty_like(self.payload[0])
        header = self.read(lambda slot: copy.copy_(self.payload[slot]))
        return None if header is None else copy


class Gossiper:
    """Publishes and mixes the live flat parameters `vector` `[P]` of learner `rank`."""

    def __init__(
        self,
        arrays: SharedArrays,
        rank: int,
        topology: Topology,
        vector: Tensor,
        *,
        wakeups: Sequence[Wakeup],
        row: MetricsRow,
        idle: Callable[[], None],
        sync: bool,
        max_staleness: int,
    ) -> None:
        self.rank, self.topology, self.vector = rank, topology, vector
        self.sync, self.max_staleness = sync, max_staleness
        self.round = 0
        self._control = ControlBlock(arrays)
        self._slots = {rank: ParameterSlots(arrays, rank)}
        self._inboxes: dict[int, Mailbox] = {}
        self._outboxes: dict[int, Mailbox] = {}
        for sender, receiver in topology.edges():
            if receiver == rank:
                self._slots[sender] = ParameterSlots(arrays, sender)
                self._inboxes[sender] = Mailbox(arrays, sender, receiver)
            if sender == rank:
                self._outboxes[receiver] = Mailbox(arrays, sender, receiver)
        if vector.is_cuda:
            for peer in self._slots:
                page_lock(arrays[f"parameters{peer}"])
        self._wakeups, self._row, self._idle = wakeups, row, idle
        self._message = torch.empty_like(vector)
        self._sum = torch.empty_like(vector)

    def publish(self, version: int) -> None:
        """Copy the vector into a slot and tell this round's out-peers; in lock-step wait for room.

        Raises:
            RunFailed: the vector holds a number that is not finite; nobody gets to see it.
        """
        peers = self.topology.out_peers(self.rank, self.round)
        if not peers:
            return
        if not bool(torch.isfinite(self.vector.sum())):
            raise RunFailed(
                f"learner {self.rank} diverged: its parameters are not finite after "
                f"{version} updates; try a smaller --learning-rate or --max-grad-norm"
            )
        if self.sync:
            self._wait(lambda: all(self._has_room(peer) for peer in self._outboxes))
        header = self._slots[self.rank].write(
            self._fill, incarnation=self._incarnation(), round_=self.round, version=version
        )
        for peer in peers:
            self._outboxes[peer].put(Token(header.number, self.round, header.incarnation))
            self._wakeups[peer].signal()
        self._row["sent"] += len(peers)

    def mix(self) -> bool:
        """End the round: average with the in-peers if each has news; returns whether it did.

        At the staleness bound, and always in lock-step, it waits for peers that are alive.
        """
        mixed = self._mix()
        self.round += 1
        self._row["rounds"] = self.round
        return mixed

    def _mix(self) -> bool:
        peers = [p for p in self.topology.in_peers(self.rank, self.round) if self._alive(p)]
        if not peers:
            return False
        if self.sync or self._row["staleness"] + 1 >= self.max_staleness:
            self._wait(lambda: all(self._inboxes[p].unread or not self._alive(p) for p in peers))
        peers = [p for p in peers if self._inboxes[p].unread or self._alive(p)]
        taken = self._copy_all(peers)
        if not taken:
            self._row["staleness"] += 1
            self._row["most_staleness"] = max(self._row["most_staleness"], self._row["staleness"])
            return False
        self.vector.add_(self._sum).mul_(1.0 / (1 + len(taken)))
        for peer, index in taken.items():
            self._row["dropped"] += self._inboxes[peer].accept(index)
            self._wakeups[peer].signal()
        self._row["received"] += len(taken)
        self._row["mixes"] += 1
        self._row["staleness"] = 0
        return True

    def _copy_all(self, peers: Sequence[int]) -> dict[int, int]:
        """Sum the messages of all `peers` into `_sum`; empty unless every one could be read."""
        taken: dict[int, int] = {}
        for peer in peers:
            index = self._copy(peer)
            if index is None:
                return {}
            self._sum.copy_(self._message) if not taken else self._sum.add_(self._message)
            taken[peer] = index
        return taken

    def _copy(self, peer: int) -> int | None:
        """Copy the message of `peer` into `_message`; returns its index in the mailbox."""
        box, slots = self._inboxes[peer], self._slots[peer]
        for _ in range(READ_TRIES):
            found = box.oldest() if self.sync else box.newest()
            if found is None:
                return None
            token, index = found
            if token.incarnation != self._control.incarnation(peer):
                box.accept(index)
                continue
            header = slots.read(lambda slot: self._take(slots.payload[slot]), token.number)
            if header is not None and bool(torch.isfinite(self._message.sum())):
                return index
            self._row["retried"] += 1
        return None

    def _fill(self, slot: int) -> None:
        self._slots[self.rank].payload[slot].copy_(self.vector)

    def _take(self, payload: Tensor) -> None:
        self._message.copy_(payload)

    def _has_room(self, peer: int) -> bool:
        """Whether the slot written next holds nothing that `peer` has yet to read."""
        return self._outboxes[peer].unread < SLOTS or not self._alive(peer)

    def _alive(self, peer: int) -> bool:
        return self._control.alive(peer)

    def _incarnation(self) -> int:
        return self._control.incarnation(self.rank)

    def _wait(self, ready: Callable[[], bool]) -> None:
        """Wait until `ready`; `idle` raises when the run is over, the supervisor ends the rest."""
        while not ready():
            self._idle()
            self._wakeups[self.rank].wait(POLL_S)
