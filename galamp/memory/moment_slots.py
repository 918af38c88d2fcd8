"""Moment slots: the statistics of one learner's own data in shared memory, for all learners.

    learner r --publish, after every turn--> MomentSlots r --newest, or of a turn--> every learner

They outlive the learner's process: its next incarnation continues from them, so that a rank's
statistics only grow. A seqlock over two slots, see `versioned_slots`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from galamp.memory.arrays import ArraySpec, SharedArrays
from galamp.memory.versioned_slots import NUM_SLOTS, Header, VersionedSlots, header_spec

Floats = npt.NDArray[np.float64]

READ_TRIES = 5


class MomentSlots(VersionedSlots):
    """Learner `rank`'s published statistics, vectors [size] float64."""

    def __init__(self, arrays: SharedArrays, rank: int) -> None:
        super().__init__(arrays, f"moments{rank}.header")
        self._payload = arrays[f"moments{rank}"]

    @staticmethod
    def specs(rank: int, size: int) -> list[ArraySpec]:
        """Return the arrays of learner `rank`'s statistics."""
        return [
            header_spec(f"moments{rank}.header"),
            ArraySpec(f"moments{rank}", (NUM_SLOTS, size), "float64"),
        ]

    def publish(self, values: Floats, *, incarnation: int, turn: int) -> Header:
        """Publish what is known after `turn` turns; only one process at a time may do so."""

        def fill(slot: int) -> None:
            self._payload[slot] = values

        return self.write(fill, incarnation=incarnation, round_=turn, version=turn)

    def newest(self) -> Floats | None:
        """Return the newest complete statistics; None if there are none."""
        for _ in range(READ_TRIES):
            latest = self.published
            for number in (latest, latest - 1):
                found = self._copy(number)
                if found is not None:
                    return found[0]
        return None

    def of_turn(self, turn: int, incarnation: int) -> Floats | None:
        """Return what that incarnation has published after `turn` turns; None if it has not."""
        latest = self.published
        for number in (latest, latest - 1):
            found = self._copy(number)
            if found is not None:
                values, header = found
                if (header.round, header.incarnation) == (turn, incarnation):
                    return values
        return None

    def _copy(self, number: int) -> tuple[Floats, Header] | None:
        if number < 1:
            return None
        copies: list[Floats] = []
        header = self.read(lambda slot: copies.append(self._payload[slot].copy()), number)
        return None if header is None else (copies[-1], header)
