"""One-peer exponential graph: one message per round, and few rounds between any two learners."""

from __future__ import annotations

from galamp.gossip.topologies.circulant import Circulant


class OnePeerExponential(Circulant):
    """In round k, learner r sends to r + 2^(k mod tau), where tau = ceil(log2 n).

    From Assran et al. 2019 (SGP). If n is a power of two, tau synchronous rounds average exactly
    (Ying et al. 2021).
    """

    def offsets(self, round_: int) -> tuple[int, ...]:
        """Return one power of two below n; every round uses the next one."""
        return () if self.size == 1 else (2 ** (round_ % self.period()),)

    def period(self) -> int:
        """Return tau, or 1 for a single learner."""
        return max(1, (self.size - 1).bit_length())
