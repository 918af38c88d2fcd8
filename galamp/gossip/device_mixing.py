"""The same gossip for vectors on a GPU: a round is begun as a whole, and waited for once.

    policy's stream   update's length, vectors -> own slot, ---- mean, figures -> host
    copies' stream                    peers' slots -> GPU --^                        |
    host              own slot odd ......................................... waits for it;
                      own slot even, journal, tokens; the mean is taken, or not

Runs in a learner on a GPU. What others see keeps its order: a slot is even, and its token sent,
only once the copy into it is over; what was copied out of a peer's slot counts only if that slot is
unchanged once the copy is over. A learner that has to wait for a peer ends its own publication
first, since that peer may be waiting for it. So no copy is under way while it waits for anybody,
nor once a round is over: none that the next round, a saved state or the end of the run could meet.
A learner killed meanwhile leaves its slot odd, as on a CPU.

The host waits by copying the figures: such a copy returns once all before it in its stream is done
(PyTorch, "CUDA semantics"). Where memory could not be page-locked the same calls are made; each
copy of vectors may then keep the host waiting, too (CUDA, "API synchronization behavior").

Tried on GPUs made of host memory (tests/fakecuda), on no real one yet.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from galamp.core.config import GossipConfig
from galamp.gossip.mixing import Gossiper
from galamp.gossip.topologies.base import Topology
from galamp.gossip.transport.parameter_slots import length_of
from galamp.memory.arrays import SharedArrays
from galamp.memory.versioned_slots import SlotRead

_LENGTH, _MEAN, _SUMS = range(3)
"""Places of the figures: the update's length; the sum of the mean's numbers; from the last place on
checksums, of one's own vectors and of those that were read."""


class DeviceGossiper(Gossiper):
    """Publishes and mixes vectors that lie on one GPU; see `Gossiper`."""

    def __init__(
        self,
        arrays: SharedArrays,
        rank: int,
        topology: Topology,
        vectors: Sequence[Tensor],
        config: GossipConfig,
        **others: Any,
    ) -> None:
        super().__init__(arrays, rank, topology, vectors, config, **others)
        refusals = [arrays.page_lock(f"{self._name}{peer}") for peer in self._slots]
        self._row["page_lock_refusal"] = max(self._row["page_lock_refusal"], *refusals)
        self._device, self._size = vectors[0].device, sum(vector.numel() for vector in vectors)
        self._copies = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        self._arrived: list[Tensor] = []
        # All in words of 8 bytes, so that one copy brings them all to the host.
        self._first_read = _SUMS + len(vectors)
        places = self._first_read + len(self._inboxes)
        self._figures = torch.zeros(places, dtype=torch.int64, device=self._device)
        self._reals = self._figures.view(torch.float64)
        self._known = torch.zeros(places, dtype=torch.int64)
        self._publishing: tuple[int, bool] | None = None

    def turn(self, version: int) -> bool:
        """Take a round of gossip; where no peer is waited for, the host waits for the GPU once."""
        self._start_publishing(version, notify=True)
        return self.mix()

    def publish(self, version: int, *, notify: bool = True) -> None:
        """Publish, and wait until it is seen; see `Gossiper.publish`."""
        self._start_publishing(version, notify=notify)
        self._finish_publishing()

    def _start_publishing(self, version: int, *, notify: bool) -> None:
        """Begin to publish: the slot is odd until `_finish_publishing`."""
        torch.sub(self.vectors[0], self._results[0], out=self._results[0])
        self._reals[_LENGTH].copy_(length_of(self._results[0]))
        self._sum_bits(self.vectors, _SUMS)
        self._wait_for_room()
        self._fill(self._slots[self.rank].begin_write())
        self._publishing = version, notify

    def _sum_bits(self, vectors: Iterable[Tensor], first: int) -> None:
        """Put each vector's checksum into a place, where there are to be any."""
        for place, vector in enumerate(vectors if self._verifies else (), first):
            bits = vector.view(torch.int32)
            torch.sum(bits, 0, dtype=torch.int64, out=self._figures[place])

    def _finish_publishing(self) -> None:
        """End what was begun, if anything was."""
        if self._publishing is not None:
            self._wait_for_device()

    def _wait_for_device(self) -> None:
        """Wait until the GPU has done all of the round so far; what was published can be seen then.

        Raises:
            RunFailed: it is not finite; its slot stays odd.
        """
        self._known = self._figures.cpu()
        if self._publishing is None:
            return
        (version, notify), self._publishing = self._publishing, None
        length = self._real(_LENGTH)
        self._refuse_unless_finite(length, version)
        header = self._slots[self.rank].end_write(
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
        self._finish_publishing()  # where there was nothing to be mixed
        return mixed

    def _pause(self) -> None:
        self._finish_publishing()
        super()._pause()

    def _fill(self, slot: int) -> None:
        for at, vector in enumerate(self.vectors):
            part = self._part(self._slots[self.rank].payload[slot], at)
            part.copy_(vector, non_blocking=True)

    def _average(self, shares: Mapping[int, float], reads: Mapping[int, SlotRead]) -> None:
        super()._average(shares, reads)
        self._reals[_MEAN].copy_(self._results[0].sum())
        self._sum_bits(self._read.values(), self._first_read)
        self._wait_for_device()

    def _fetch(self, reads: Mapping[int, SlotRead]) -> dict[int, Tensor]:
        """Begin to copy what peers published to the GPU, and have the policy's stream wait for it.

        The copies before were waited for by the host, and so was the mean of them.
        """
        policy = torch.cuda.current_stream(self._device)
        with torch.cuda.stream(self._copies):
            # What is allocated in a stream may be written in it at once.
            while len(self._arrived) < len(reads):
                self._arrived.append(torch.empty(self._size, device=self._device))
            found = dict(zip(reads, self._arrived, strict=False))
            for peer, vector in found.items():
                payload = self._slots[peer].payload[reads[peer].slot]
                vector.copy_(payload, non_blocking=True)
        policy.wait_stream(self._copies)
        return found

    def _is_finite(self) -> bool:
        return math.isfinite(self._real(_MEAN))

    def _checksum_read(self, peer: int) -> int:
        return int(self._known[self._first_read + list(self._read).index(peer)])
