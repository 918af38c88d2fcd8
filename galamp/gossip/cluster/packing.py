"""Packing: the frames that leave for one node, one after the other in the same memory.

    slots of a learner here --Mirrors.copy--> [header | numbers] --Outbox--> port
                                  bf16: by a Rounding

A frame is copied from the slots to where it is sent from. Memory that is allocated for each one
would cost more than that: the kernel clears it, page by page.
"""

from __future__ import annotations

import numpy as np

from galamp.core.nodes import Ranks
from galamp.gossip.cluster.mirrors import Mirrors
from galamp.gossip.cluster.rounding import Rounding
from galamp.gossip.cluster.wire import BF16, Frame, WireIdentity, bit_sum, numbers_of, put_header
from galamp.memory.cluster_board import ClusterBoard
from galamp.memory.versioned_slots import Header


class Packing:
    """Makes the frames for one node, in the thread of its outbox; each overwrites the last one."""

    def __init__(
        self, mirrors: Mirrors, identity: WireIdentity, ranks: Ranks, board: ClusterBoard
    ) -> None:
        """Take memory for a frame, and, if halves are sent, for a vector."""
        self._mirrors, self._identity, self._ranks, self._board = mirrors, identity, ranks, board
        self._packed = bytearray(identity.frame_bytes)
        self._numbers = numbers_of(self._packed, identity)
        self._rounds = identity.wire == BF16
        # Apart: what is left out may only change by a vector that was found whole.
        self._vector = np.empty(identity.size, np.float32) if self._rounds else self._numbers
        self._roundings = dict[int, Rounding]()

    def frame(self, rank: int, lanes: int) -> bytearray | None:
        """Return the newest frame of a learner here, for some `lanes` of the node; None: none is.

        It is valid until the next call.
        """
        of = self._mirrors.copy(rank, self._vector)
        if of is None:
            return None
        checksum, distance = self._rounded(rank) if self._rounds else (self._checksum(of), 0.0)
        number, epoch = self._ranks.among_all(rank), self._board.epoch
        frame = Frame(
            number, epoch, of.incarnation, of.number, of.round, of.version, lanes, checksum,
            distance,
        )  # fmt: skip
        put_header(self._packed, frame, self._identity)
        return self._packed

    def _checksum(self, of: Header) -> int:
        return of.checksum or bit_sum(self._numbers)

    def _rounded(self, rank: int) -> tuple[int, float]:
        """Round the vector into the frame; return the checksum, and the distance to the vector."""
        if rank not in self._roundings:
            self._roundings[rank] = Rounding(self._identity.size, self._mirrors.parameters)
        rounded = self._roundings[rank].encode(self._vector, self._numbers)
        return rounded.checksum, rounded.distance
