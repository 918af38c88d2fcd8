"""Gossip of one learner whose vectors are on a GPU: the host waits for the GPU once per round.

    policy stream   update's length, vectors -> own slot, ---- mean, scalars -> host
    copy stream                     peers' slots -> GPU --^                        |
    host            own slot odd ......................................... waits for it;
                    own slot even, publication ring, tokens; the mean is used, or not

Runs in a learner on a GPU. Other processes see the same order of events as on a CPU: a slot is
even, and its token sent, only after the copy into it is complete; a copy out of a peer's slot is
valid only if that slot is unchanged after the copy. A learner that must wait for a peer first
completes its own publication, because that peer may be waiting for it. So no copy is in progress
while it waits for a peer, nor after a round: the next round, a saved state and the end of the run
find none. A learner that is killed during a round leaves its slot odd, as on a CPU.

The host waits by copying the scalars: such a copy returns after all earlier work in its stream
(PyTorch, "CUDA semantics"). Without page-locked memory the same calls are made, but each copy of
vectors may then block the host, too (CUDA, "API synchronization behavior").

Tested on GPUs simulated in host memory (tests/fakecuda), not yet on a real one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from galamp.core.config import GossipConfig
from galamp.gossip.mixing import Gossiper
from galamp.gossip.transport.base import Transport, VectorRead
from galamp.gossip.vectors import length_of

_LENGTH, _MEAN, _SUMS = range(3)
"""Indices of the scalars: the update's length; the sum over the mean; from `_SUMS` on checksums,
first of the own vectors, then of the peers' vectors."""


class DeviceGossiper(Gossiper):
    """Publishes and mixes vectors on one GPU; see `Gossiper`."""

    def __init__(
        self,
        transport: Transport,
        vectors: Sequence[Tensor],
        config: GossipConfig,
        **others: Any,
    ) -> None:
        super().__init__(transport, vectors, config, **others)
        refusal = max(self._row.metrics["page_lock_refusal"], transport.page_lock())
        self._row.metrics["page_lock_refusal"] = refusal
        self._device, self._size = vectors[0].device, sum(vector.numel() for vector in vectors)
        self._copies = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        self._arrived: list[Tensor] = []
        # All scalars have 8 bytes, so one copy moves them all to the host.
        self._first_read = _SUMS + len(vectors)
        places = self._first_read + len(transport.in_peers)
        self._figures = torch.zeros(places, dtype=torch.int64, device=self._device)
        self._reals = self._figures.view(torch.float64)
        self._known = torch.zeros(places, dtype=torch.int64)
        self._publishing: tuple[int, bool] | None = None

    def turn(self, version: int) -> bool:
        """Run a gossip round; unless it waits for a peer, the host waits for the GPU once."""
        self._start_publishing(version, notify=True)
        return self.mix()

    def publish(self, version: int, *, notify: bool = True) -> None:
        """Publish, and wait until readers can see it; see `Gossiper.publish`."""
        self._start_publishing(version, notify=notify)
        self._finish_publishing()

    def _start_publishing(self, version: int, *, notify: bool) -> None:
        """Start to publish: no reader accepts the vector until `_finish_publishing`."""
        torch.sub(self.vectors[0], self._results[0], out=self._results[0])
        self._reals[_LENGTH].copy_(length_of(self._results[0]))
        self._sum_bits(self.vectors, _SUMS)
        self._wait_for_room()
        self._fill(self._transport.begin_write())
        self._publishing = version, notify

    def _sum_bits(self, vectors: Iterable[Tensor], first: int) -> None:
        """Write each vector's checksum into the scalars from `first` on, if checksums are on."""
        for place, vector in enumerate(vectors if self._verifies else (), first):
            bits = vector.view(torch.int32)
            torch.sum(bits, 0, dtype=torch.int64, out=self._figures[place])

    def _finish_publishing(self) -> None:
        """Complete a publication in progress, if there is one."""
        if self._publishing is not None:
            self._wait_for_device()

    def _wait_for_device(self) -> None:
        """Wait until the GPU has done all work of the round so far; then complete a publication.

        Raises:
            RunFailed: the vector to be published is not finite; nobody sees it.
        """
        self._known = self._figures.cpu()
        if self._publishing is None:
            return
        (version, notify), self._publishing = self._publishing, None
        length = self._real(_LENGTH)
        self._refuse_unless_finite(length, version)
        header = self._transport.end_write(
            incarnation=self._control.incarnation(self.rank),
            round_=self.round,
            version=version,
            checksum=sum(self._known[_SUMS : self._first_read].tolist()) if self._verifies else 0,
        )
        self._announce(header, length, notify=notify)

    def _real(self, place: int) -> float:
        return float(self._known.view(torch.float64)[place])

    def _mix(self) -> bool:
        mixed = super()._mix()
        self._finish_publishing()  # in case nothing was mixed
        return mixed

    def _pause(self) -> None:
        self._finish_publishing()
        super()._pause()

    def _fill(self, published: Tensor) -> None:
        for at, vector in enumerate(self.vectors):
            self._part(published, at).copy_(vector, non_blocking=True)

    def _average(self, shares: Mapping[int, float], reads: Mapping[int, VectorRead]) -> None:
        super()._average(shares, reads)
        self._reals[_MEAN].copy_(self._results[0].sum())
        self._sum_bits(self._read.values(), self._first_read)
        self._wait_for_device()

    def _fetch(self, reads: Mapping[int, VectorRead]) -> dict[int, Tensor]:
        """Start copies of the peers' vectors to the GPU; the policy stream waits for them.

        The host has already waited for the copies of the last round, and for their mean.
        """
        policy = torch.cuda.current_stream(self._device)
        with torch.cuda.stream(self._copies):
            # Memory that is allocated in a stream may be written in that stream at once.
            while len(self._arrived) < len(reads):
                self._arrived.append(torch.empty(self._size, device=self._device))
            found = dict(zip(reads, self._arrived, strict=False))
            for peer, vector in found.items():
                vector.copy_(reads[peer].vector, non_blocking=True)
        policy.wait_stream(self._copies)
        return found

    def _is_finite(self) -> bool:
        return math.isfinite(self._real(_MEAN))

    def _checksum_read(self, peer: int) -> int:
        return int(self._known[self._first_read + list(self._read).index(peer)])
