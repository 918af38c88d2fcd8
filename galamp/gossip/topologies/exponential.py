"""Static exponential graph: a logarithmic number of peers, few rounds between any two learners."""

from __future__ import annotations

from galamp.gossip.topologies.circulant import Circulant


class Exponential(Circulant):
    """Learner r sends to r + 1, r + 2, r + 4, ... in every round (Assran et al. 2019, SGP).

    For even n its beta is (d - 1) / (d + 1) with d = ceil(log2 n) peers (Ying et al. 2021).
    """

    def offsets(self, round_: int) -> tuple[int, ...]:
        """Return the powers of two below n."""
        return tuple(2**power for power in range((self.size - 1).bit_length()))
