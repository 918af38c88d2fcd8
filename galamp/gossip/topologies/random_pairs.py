"""Random pairs: in every round each learner exchanges with one partner, drawn at random."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from galamp.gossip.topologies.base import Topology

UNCONNECTED = 1e-9
"""Highest probability that the pairs of `horizon` rounds do not connect all learners."""


class RandomPairs(Topology):
    """A uniformly random matching per round; for odd n, one learner has no partner.

    Randomised gossip (Boyd et al. 2006), with as many pairs per round as possible. The graph is a
    pure function of (seed, round, n): it is the same in every process and for any order of calls.
    """

    symmetric = True

    def out_peers(self, rank: int, round_: int) -> tuple[int, ...]:
        """Return the partner; no peer for a learner without one."""
        partner = matching(self.seed, round_, self.size)[rank]
        return () if partner == rank else (partner,)

    def in_peers(self, rank: int, round_: int) -> tuple[int, ...]:
        """Return the partner; no peer for a learner without one."""
        return self.out_peers(rank, round_)

    def period(self) -> int | None:
        """Return None; 1 if there is only one matching (n <= 2)."""
        return 1 if self.size <= 2 else None

    def horizon(self) -> int:
        """Return the smallest K for which the bound of `unconnected` is below 1e-9."""
        rounds = 1
        while unconnected(self.size, rounds) >= UNCONNECTED:
            rounds += 1
        return rounds

    def edges(self) -> tuple[tuple[int, int], ...]:
        """Return all ordered pairs of learners."""
        ranks = range(self.size)
        return tuple((i, j) for i in ranks for j in ranks if i != j)


# One call per rank and round; asynchronous learners are a few rounds apart.
@lru_cache(maxsize=32)
def matching(seed: int, round_: int, size: int) -> Sequence[int]:
    """Return the partner of each rank; a learner without a partner gets its own rank.

    It sorts raw random words: their stream is the same in all numpy releases, which is not so for
    `Generator.permutation`.
    """
    source = np.random.Philox(np.random.SeedSequence(seed, spawn_key=(round_,)))
    order = np.argsort(source.random_raw(size), kind="stable")
    partner = np.arange(size)
    paired = order[: size - size % 2]
    partner[paired[0::2]], partner[paired[1::2]] = paired[1::2], paired[0::2]
    return tuple(partner.tolist())


@lru_cache(maxsize=1024)
def unconnected(size: int, rounds: int) -> float:
    """Return a bound on the probability that `rounds` random matchings do not connect all learners.

    They do not exactly if no pair in any round crosses some cut of the learners into s and n - s.
    Let m(p) be the number of ways to pair up p learners (m(p) = m(p + 1) for odd p, where one is
    left over). One matching crosses such a cut with probability 1 - m(s) m(n - s) / m(n), for odd n
    with s the even side; for even n, cuts into odd sides are always crossed. The bound is the sum
    over all cuts of the K-th power of the probability not to cross. For n = 3 and 4 it is
    3 (1/3)^K: all K matchings are the same one of three. For large n it is about n^(2 - K) / 2:
    two learners are paired in all K rounds.
    """
    even = size % 2 == 0
    total = 0.0
    for side in range(2, size, 2):
        missed = _log_pairings(side) + _log_pairings(size - side) - _log_pairings(size)
        cuts = math.lgamma(size + 1) - math.lgamma(side + 1) - math.lgamma(size - side + 1)
        total += math.exp(min(cuts + rounds * missed, 700.0)) / (2 if even else 1)
    return total


def _log_pairings(learners: int) -> float:
    """Return ln of the number of matchings: p! / (2^(p/2) (p/2)!) for p made even."""
    pairs = (learners + 1) // 2
    return math.lgamma(2 * pairs + 1) - pairs * math.log(2) - math.lgamma(pairs + 1)
