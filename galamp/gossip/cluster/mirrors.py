"""Mirrors: other nodes' learners in this node's shared memory, as if they ran here.

    tokens in the mailboxes of edges that leave the node --leaving--> what to publish, and for whom
    frames --put, ring--> slots and mailboxes of the learners that they are of

Runs in bridges, without torch. The bridge is the one writer of these learners' slots, publication
rings and outgoing mailboxes, and the one reader of the mailboxes that lead to them. A learner that
reads them sees no difference.

For the certificate a mirrored vector is the one before it plus an update, whose length is measured
here: of the parameters, as learners do, not of an optimiser's state after them. So it needs no
record of what happened on the other node, whatever was lost on the way; and the supervisor measures
it anew every few seconds. The mirror of a learner that cannot be heard follows the learner of the
same lane on this node: it is shown where those are that train. Nobody mixes it: tokens that were
not read are made void, and none is of the incarnation that it then has.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from galamp.core.nodes import Ranks
from galamp.gossip.cluster.lengths import CHUNK, distance_at_most
from galamp.gossip.cluster.wire import Frame, Vector
from galamp.gossip.topologies.base import Topology
from galamp.gossip.transport.mailbox import Mailbox, Token
from galamp.gossip.transport.publication import CHECKSUMS, FOLLOWS, Publication
from galamp.gossip.transport.publication_ring import PublicationRing
from galamp.memory.arrays import SharedArrays, Wakeup
from galamp.memory.versioned_slots import Header, VersionedSlots

INCARNATION = 1
"""Of all mirrors, for learners that read them: they outlive their bridge."""
TRIES = 5


class Leaving(NamedTuple):
    """Publication of learner `rank` of this node, to be mixed by some `lanes` of another one.

    `superseded` tokens were put before the newest and not read.
    """

    node: int
    rank: int
    lanes: int
    superseded: int


class Mirrors:
    """All mirrors of one node, and the mailboxes at its border.

    Attributes:
        size: how many numbers a vector has.
        parameters: how many of them, from the first on, are the network's.
    """

    def __init__(
        self,
        arrays: SharedArrays,
        topology: Topology,
        ranks: Ranks,
        wakeups: Sequence[Wakeup],
        *,
        parameters: int,
        certificate: bool,
        name: str = "parameters",
    ) -> None:
        """Set up; the first `parameters` numbers of each vector are measured."""
        self._ranks, self._wakeups, self.parameters = ranks, wakeups, parameters
        every = range(ranks.all)
        self._slots = [VersionedSlots(arrays, f"{name}{rank}.header") for rank in every]
        self._vectors = [arrays[f"{name}{rank}"] for rank in every]
        self.size = int(self._vectors[0].shape[1])
        self._scratch = np.empty(CHUNK, np.float32)
        self._followed = dict[int, int]()  # mirror -> the publication of its twin that it holds
        mine = range(ranks.lanes)
        edges = topology.edges()
        self._outgoing = {
            (s, r): Mailbox(arrays, s, r, name) for s, r in edges if s in mine and r not in mine
        }
        self._incoming = {
            (s, r): Mailbox(arrays, s, r, name) for s, r in edges if r in mine and s not in mine
        }
        self._rings = {rank: PublicationRing(arrays, rank) for rank in ranks.remote if certificate}

    # What leaves the node

    @property
    def waits(self) -> bool:
        """Whether a learner of this node has sent a token to another one that has not left."""
        return any(box.unread for box in self._outgoing.values())

    def leaving(self) -> list[Leaving]:
        """Take the tokens that learners of this node have sent to others."""
        found: dict[tuple[int, int], Leaving] = {}
        for (sender, receiver), box in self._outgoing.items():
            newest = box.newest()
            if newest is None:
                continue
            superseded, node = box.accept(newest[1]), self._ranks.node_of(receiver)
            lane = 1 << self._ranks.among_all(receiver) % self._ranks.lanes
            before = found.get((node, sender), Leaving(node, sender, 0, 0))
            lanes = before.lanes | lane
            more = max(before.superseded, superseded)
            found[node, sender] = Leaving(node, sender, lanes, more)
        return list(found.values())

    def copy(self, rank: int, out: Vector) -> Header | None:
        """Copy a learner's newest vector to `out`, [size]; return its header.

        None: no vector is whole, and `out` holds none.
        """
        slots, vectors = self._slots[rank], self._vectors[rank]
        for _ in range(TRIES):
            read = slots.begin_read()
            if read is not None:
                np.copyto(out, vectors[read.slot])
                if slots.unchanged(read):
                    return read.header
        return None

    # What comes

    def put(self, rank: int, frame: Frame, vector: Vector) -> None:
        """Publish another node's vector in its learner's slots; tell those that are to mix it."""
        self._followed.pop(rank, None)
        self._write(rank, frame, frame.epoch, vector)
        self.ring(rank, frame.lanes)

    def ring(self, rank: int, lanes: int) -> None:
        """Tell those of the `lanes` that are to mix it of a mirror's newest vector."""
        read = self._slots[rank].begin_read()
        if read is None:
            return
        token = Token(read.header.number, read.header.round, read.header.incarnation)
        for lane in range(self._ranks.lanes):
            box = self._incoming.get((rank, lane)) if lanes >> lane & 1 else None
            if box is not None:
                box.put(token)
                self._wakeups[lane].signal()

    def follow(self, rank: int) -> None:
        """Put the newest vector of the same lane here into the mirror of a learner that is away.

        Nothing, if it is there already.
        """
        twin = self._ranks.among_all(rank) % self._ranks.lanes
        if self._slots[twin].published == self._followed.get(rank, 0):
            return
        vector = np.empty(self.size, np.float32)
        of = self.copy(twin, vector)
        if of is not None:
            self._make_void(rank)
            self._write(rank, of, FOLLOWS, vector)
            self._followed[rank] = of.number

    def follows(self, rank: int) -> bool:
        """Whether the mirror of a learner holds no vector of it, but one of its twin, or none."""
        read = self._slots[rank].begin_read()
        return read is None or read.header.incarnation == FOLLOWS

    def _make_void(self, rank: int) -> None:
        """Have the receivers of a mirror discard what they have not read: it will be replaced."""
        for lane in range(self._ranks.lanes):
            box = self._incoming.get((rank, lane))
            found = None if box is None else box.newest()
            if box is not None and found is not None and found[0].incarnation != FOLLOWS:
                box.put(found[0]._replace(incarnation=FOLLOWS))

    def _write(self, rank: int, of: Frame | Header, recorded: int, vector: Vector) -> None:
        """Publish a vector, and record it with its distance to the one before.

        A mirror has one incarnation for its readers, another one while it follows; `recorded` is
        that of the record.
        """
        length = self._distance(rank, vector) if rank in self._rings else 0.0
        slots, vectors = self._slots[rank], self._vectors[rank]
        np.copyto(vectors[slots.begin_write()], vector)
        header = slots.end_write(
            incarnation=FOLLOWS if recorded == FOLLOWS else INCARNATION,
            round_=of.round, version=of.version, checksum=of.checksum,
        )  # fmt: skip
        if rank in self._rings:
            fixed = rank, header.number, header.round, header.version, recorded
            rounded = of.rounded if isinstance(of, Frame) else 0.0
            checksum = 0 if rounded or recorded == FOLLOWS else of.checksum % CHECKSUMS
            self._rings[rank].append(Publication(*fixed, length, 1.0, (), rounded, checksum))

    def _distance(self, rank: int, vector: Vector) -> float:
        """Return how far parameters are from the mirror's newest at most; 0 if there are none."""
        read = self._slots[rank].begin_read()
        if read is None:
            return 0.0
        one, other = (each[: self.parameters] for each in (vector, self._vectors[rank][read.slot]))
        return distance_at_most(one, other, self._scratch)
