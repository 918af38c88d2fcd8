"""Gossip of one learner: publish its parameters, and mix them with those of its in-peers.

    publish: vector -> transport; entry -> publication ring; messages -> out-peers
    mix:     a message from every in-peer -> vector = weighted mean of its own and of theirs

Runs in a learner. A round of learner i is x_i = w_ii y_i + sum of w_ij m_j: w are the mixing
weights, y_i its parameters after its local updates, m_j the newest unread vector of in-peer j. If
the message of one in-peer is missing, it keeps y_i, and its staleness grows by one round (Assran et
al. 2019, algorithm 1, with equal weights). In some graphs an asynchronous learner takes that of
another peer in its place (`Topology.choices`). Sums run in order of rank, so that equal mixtures
are equal bit for bit.

Synchronous learners (`--sync`) all run the same round at the same time: each waits for the message
of every live in-peer of this round. Asynchronous learners do not wait, except at the staleness
bound (`--max-staleness`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from galamp.core.config import GossipConfig
from galamp.core.errors import RunFailed
from galamp.gossip.outer_step import OuterStep
from galamp.gossip.topologies.from_node import FromNode
from galamp.gossip.transport.base import Message, Transport, VectorRead
from galamp.gossip.transport.publication import CHECKSUMS, Publication, Source
from galamp.gossip.transport.publication_ring import PublicationRing
from galamp.gossip.vectors import checksum_of, norm_of
from galamp.memory.control import ControlBlock
from galamp.memory.status import StatusRow
from galamp.memory.versioned_slots import Header

POLL_S = 0.05
READ_TRIES = 5
STALENESS_TIMEOUT_S = 10.0
"""Longest wait at the staleness bound; then a learner continues with the messages that it has."""
LENGTH_SLACK = 1.0 + 1e-5
"""Factor that rounds recorded lengths up, by more than the error of `norm_of`."""


class Gossiper:
    """Publishes and mixes the live flat `vectors` of one learner, [P_0], [P_1], ...

    Parameters come first, if there are other vectors as well: the publication ring describes them.
    The transport carries them one after another, as one vector.
    """

    def __init__(
        self,
        transport: Transport,
        vectors: Sequence[Tensor],
        config: GossipConfig,
        *,
        control: ControlBlock,
        row: StatusRow,
        idle: Callable[[], None],
        publication_ring: PublicationRing | None = None,
    ) -> None:
        self.rank, self.topology, self._name = transport.rank, transport.topology, transport.name
        self._transport, self.vectors, self._control = transport, vectors, control
        self._synchronous, self._max_staleness = config.synchronous, config.max_staleness
        self._verifies, self._read = config.verify_gossip, dict[int, Tensor]()
        self.round, self._mixed_in = 0, dict[int, int]()
        self._changes = self.topology.period() != 1
        self._row, self._idle, self._publication_ring = row, idle, publication_ring
        # The vectors after the last round: what changes until the next one is the sum of updates.
        self._results = [vector.clone() for vector in vectors]
        self._own, self._mixed = 1.0, tuple[Source, ...]()
        self._floor, self._outer = config.ball_floor, None
        if config.outer_steps:
            momentum, lr = config.outer_momentum, config.outer_lr
            self._outer = OuterStep(vectors[0], momentum=momentum, lr=lr)

    def resume_from(self, round_: int) -> None:
        """Continue from the vectors as they are now, at round `round_`."""
        self.round, self._mixed_in = round_, {}
        self._keep_vectors()
        if self._outer is not None:
            self._outer.restart(self.vectors[0])

    def turn(self, version: int) -> bool:
        """Run a gossip round: `publish` and `mix`; return whether it mixed."""
        self.publish(version)
        return self.mix()

    def publish(self, version: int, *, notify: bool = True) -> None:
        """Publish copies of the vectors; with `notify`, send this round's out-peers a message.

        A synchronous learner first waits until the transport has room for them.

        Raises:
            RunFailed: the parameters are not finite; they are not published.
        """
        torch.sub(self.vectors[0], self._results[0], out=self._results[0])
        length = norm_of(self._results[0])
        self._refuse_unless_finite(length, version)
        self._wait_for_room()
        summed = self._verifies or self._leaves_node(notify=notify)
        checksum = checksum_of(self.vectors) if summed else 0
        self._fill(self._transport.begin_write())
        header = self._transport.end_write(
            incarnation=self._control.incarnation(self.rank),
            round_=self.round,
            version=version,
            checksum=checksum,
        )
        self._announce(header, length, notify=notify)

    def _leaves_node(self, *, notify: bool) -> bool:
        """Whether this round's vector goes to another node, whose record is compared with this one.

        What goes over the wire has a checksum in any case: the bridge need not make it.
        """
        topology = self.topology
        return notify and isinstance(topology, FromNode) and topology.leaves(self.rank, self.round)

    def _refuse_unless_finite(self, length: float, version: int) -> None:
        if not math.isfinite(length):
            raise RunFailed(
                f"learner {self.rank} diverged: its {self._name} are not finite after "
                f"{version} updates; try a smaller --learning-rate or --max-grad-norm"
            )

    def _wait_for_room(self) -> None:
        if self._synchronous:
            self._wait(self._transport.has_room, math.inf)

    def _announce(self, header: Header, length: float, *, notify: bool) -> None:
        """Record the publication, after an update of `length`, and notify the out-peers."""
        if self._publication_ring is not None:
            fixed = (self.rank, header.number, header.round, header.version, header.incarnation)
            upper = length * LENGTH_SLACK
            checksum = header.checksum if isinstance(self.topology, FromNode) else 0
            self._publication_ring.append(
                Publication(*fixed, upper, self._own, self._mixed, checksum=checksum % CHECKSUMS)
            )
        self._row.metrics["published"] += 1
        for peer in self.topology.out_peers(self.rank, self.round) if notify else ():
            self._transport.notify(peer, header)
            self._row.metrics["sent"] += 1
        if not notify:
            self._keep_vectors()

    def mix(self) -> bool:
        """End the round: average with the in-peers if each has news; return whether it did.

        At the staleness bound, and always if synchronous, it waits for peers that are alive.
        """
        mixed = self._mix()
        if not mixed:
            self._keep_vectors()
        self.round += 1
        self._row["rounds"] = self.round
        return mixed

    def _keep_vectors(self) -> None:
        """Keep the vectors without mixing; copy them, to measure the length of the next update."""
        self._results[0].copy_(self.vectors[0])
        self._own, self._mixed = 1.0, ()

    def _mix(self) -> bool:
        own, *others = self.topology.weights(self.rank, self.round)
        peers = self._peers()
        if not peers:
            return False
        weights = dict(zip(peers, others, strict=True))
        self._wait_for_news(peers)
        # A peer without a message is left out if it is dead, or after the wait at the bound.
        has_news = {p: w for p, w in weights.items() if self._transport.news(p) is not None}
        waited = self._at_bound()
        late = [p for p in peers if p not in has_news and self._transport.status(p).alive]
        complete = waited or not late or self.topology.partial(self.round)
        mixed = self._blend(own, has_news) if has_news and complete else ()
        if not mixed:
            self._row["staleness"] += 1
            self._row.metrics["most_staleness"] = max(
                self._row.metrics["most_staleness"], self._row["staleness"]
            )
            return False
        self._row.metrics["left_out"] += len(late)
        self._row.metrics["received"] += len(mixed)
        self._row["staleness"] = 0
        if self._floor is not None and self._moves_by() < self._floor:
            self._row.metrics["below_floor"] += 1
            return False
        self._take_results()
        self._row.metrics["mixes"] += 1
        return True

    def _peers(self) -> tuple[int, ...]:
        """Return whom this round averages with: its in-peers, or the first choice with news."""
        if not self._synchronous:
            for peer in self.topology.choices(self.rank, self.round, self._mixed_in):
                if self._transport.news(peer) is not None:
                    return (peer,)
        return self.topology.in_peers(self.rank, self.round)

    def _moves_by(self) -> float:
        """Return how far the mean is from the own parameters (L2); on a GPU the host waits."""
        return norm_of(self._results[0] - self.vectors[0])

    def _take_results(self) -> None:
        """Continue from the mean, or from where an outer step leads.

        `_results` keep the mean: an outer step counts as part of the next update, in its length,
        too, so that what is recorded still proves the bounds.
        """
        for vector, result in zip(self.vectors, self._results, strict=True):
            vector.copy_(result)
        if self._outer is not None:
            self._outer.step(self._results[0], out=self.vectors[0])

    def _at_bound(self) -> bool:
        """Whether it waits now: if synchronous, or after `max_staleness` rounds without mixing."""
        bound = self._max_staleness
        return self._synchronous or (bound is not None and self._row["staleness"] >= bound)

    def _wait_for_news(self, peers: Sequence[int]) -> None:
        """At the staleness bound, wait for the messages of all peers that are due."""
        if self._at_bound():
            timeout_s = math.inf if self._synchronous else STALENESS_TIMEOUT_S
            self._wait(lambda: not any(map(self._is_awaited, peers)), timeout_s)

    def _is_awaited(self, peer: int) -> bool:
        """Whether a message of `peer` is due: it is alive, gossips, and is not past this round.

        In a graph that changes from round to round, a peer that is ahead has sent its message of
        this round to other learners: two such learners would wait for each other for ever.
        """
        status = self._transport.status(peer)
        if not status.alive or self._transport.news(peer) is not None:
            return False
        if self._synchronous:
            return True
        behind = status.round <= self.round
        return self._control.gossip_enabled and (behind or not self._changes)

    def _blend(self, own: float, weights: Mapping[int, float]) -> tuple[Source, ...]:
        """Put the weighted mean into `_results`; return its sources, none if it is not valid.

        `weights` are the mixing weights of peers with news; with `own` they are scaled to sum to 1.
        """
        total = own + sum(weights.values())
        shares = {peer: weight / total for peer, weight in weights.items()} | {
            self.rank: own / total
        }
        for _ in range(READ_TRIES):
            found = {peer: self._find(peer) for peer in weights}
            reads = {peer: one[1] for peer, one in found.items() if one is not None}
            if len(reads) == len(weights):
                self._average(shares, reads)
                if all(map(self._transport.unchanged, reads.values())):
                    break
            self._row.metrics["retried"] += 1
        else:
            return ()
        if not (self._matches(reads) and self._is_finite()):
            return ()
        for one in found.values():
            assert one is not None
            message, read = one
            self._row.metrics["dropped"] += self._transport.accept(message, read.header.number)
        self._mixed_in |= dict.fromkeys(reads, self.round)
        self._own = shares[self.rank]
        self._mixed = tuple(
            Source(peer, read.header.number, shares[peer]) for peer, read in reads.items()
        )
        return self._mixed

    def _find(self, peer: int) -> tuple[Message, VectorRead] | None:
        """Return the message of `peer` to read, and the read of its publication that has begun.

        Raises:
            RunFailed: the learners are synchronous, and the peer is in another round.
        """
        message = self._transport.news(peer)
        if message is None:
            return None
        if self._synchronous and message.round != self.round:
            raise RunFailed(f"learner {peer} sent round {message.round} in round {self.round}")
        read = self._transport.begin_read(message)
        return None if read is None else (message, read)

    def _average(self, shares: Mapping[int, float], reads: Mapping[int, VectorRead]) -> None:
        """Sum the vectors times their shares, in order of rank; the reads are checked later."""
        self._read = self._fetch(reads)
        for at, (vector, result) in enumerate(zip(self.vectors, self._results, strict=True)):
            first = True
            for rank in sorted(shares):
                source = vector if rank == self.rank else self._part(self._read[rank], at)
                if first:
                    torch.mul(source, shares[rank], out=result)
                else:
                    result.add_(source, alpha=shares[rank])
                first = False

    def _fetch(self, reads: Mapping[int, VectorRead]) -> dict[int, Tensor]:
        """Return the peers' vectors as they were published, or copies if checksums are verified."""
        found = {peer: read.vector for peer, read in reads.items()}
        return {peer: one.clone() for peer, one in found.items()} if self._verifies else found

    def _is_finite(self) -> bool:
        """Whether the mean is finite."""
        return bool(torch.isfinite(self._results[0].sum()))

    def _matches(self, reads: Mapping[int, VectorRead]) -> bool:
        """Whether all vectors match their checksums; true if checksums are not verified."""
        checked = reads.items() if self._verifies else ()
        torn = sum(self._checksum_read(peer) != read.header.checksum for peer, read in checked)
        self._row.metrics["torn"] += torn
        return not torn

    def _checksum_read(self, peer: int) -> int:
        return checksum_of([self._read[peer]])

    def _part(self, payload: Tensor, at: int) -> Tensor:
        """Return the part of a published vector that holds vector number `at`."""
        start = sum(vector.numel() for vector in self.vectors[:at])
        return payload[start : start + self.vectors[at].numel()]

    def _fill(self, published: Tensor) -> None:
        for at, vector in enumerate(self.vectors):
            self._part(published, at).copy_(vector)

    def _wait(self, ready: Callable[[], bool], timeout_s: float) -> None:
        """Wait until `ready`, or for `timeout_s`; `idle` raises when the run is over."""
        until_s = time.monotonic() + timeout_s
        while not ready() and time.monotonic() < until_s:
            self._pause()

    def _pause(self) -> None:
        """Sleep shortly within a wait for another learner, which may be waiting as well."""
        self._idle()
        self._transport.wait(POLL_S)
