"""A gossip graph that knows machines: a ring within each, and few messages between them."""

from __future__ import annotations

from collections.abc import Mapping

from galamp.gossip.topologies.base import Topology

EVERY = 4
"""Usual K: between machines one-peer exponential averages exactly after log2 of their number of
exchanges, so the rings are what takes long."""


class Hierarchical(Topology):
    """`nodes` machines with as many learners each, their lanes, numbered machine by machine.

    In rounds K - 1, 2 K - 1, ... lane j of machine m sends to lane j of machine m + 2^t, where t
    runs from 0 to ceil(log2 nodes) - 1, as in `OnePeerExponential`. In all others it sends to the
    next lane of its own machine. On one machine it is the ring; of one lane each, all rounds are
    between machines. Every round is a permutation, so the mean is kept.

    An asynchronous learner does not let a vector of another machine wait for the round that it was
    sent for: see `choices`.
    """

    def __init__(self, size: int, seed: int = 0, *, nodes: int = 1, every: int = EVERY) -> None:
        """Make the graph; `nodes` divides `size`, and `every` is K, at least 2."""
        super().__init__(size, seed)
        self._nodes, self._lanes, self._every = nodes, size // nodes, every
        self.symmetric = max(self._nodes, self._lanes) <= 2

    def out_peers(self, rank: int, round_: int) -> tuple[int, ...]:
        """Return the same lane of another machine, or the next lane of this one."""
        return self._shifted(rank, round_, 1)

    def in_peers(self, rank: int, round_: int) -> tuple[int, ...]:
        """Return who has `rank` for its out-peer."""
        return self._shifted(rank, round_, -1)

    def choices(self, rank: int, round_: int, mixed: Mapping[int, int]) -> tuple[int, ...]:
        """Return the lane's peers on other machines, then the one on its own.

        The other way round for K - 1 rounds after one of another machine: a faster machine has news
        in every round. Peers on other machines are in the order of their exchanges from now on.
        """
        if self._nodes == 1:
            return ()
        every = self._every if self._lanes > 1 else 1
        first = round_ // every
        exchanges = range(first, first + self._exchanges())
        others = tuple(
            peer
            for exchange in exchanges
            for peer in self.in_peers(rank, (exchange + 1) * every - 1)
        )
        if self._lanes == 1:
            return others
        own = self._lane_before(rank)
        recent = any(round_ - mixed[peer] < every for peer in others if peer in mixed)
        return (own, *others) if recent else (*others, own)

    def _lane_before(self, rank: int) -> int:
        node, lane = divmod(rank, self._lanes)
        return node * self._lanes + (lane - 1) % self._lanes

    def _shifted(self, rank: int, round_: int, sign: int) -> tuple[int, ...]:
        node, lane = divmod(rank, self._lanes)
        exchange, rest = divmod(round_ + 1, self._every) if self._lanes > 1 else (round_ + 1, 0)
        if self._nodes > 1 and not rest:
            node += sign * 2 ** ((exchange - 1) % self._exchanges())
        elif self._lanes > 1:
            lane += sign
        else:
            return ()
        return (node % self._nodes * self._lanes + lane % self._lanes,)

    def _exchanges(self) -> int:
        """Return after how many exchanges machines begin again with the next one."""
        return max(1, (self._nodes - 1).bit_length())

    def period(self) -> int:
        """Return the rounds until the exchanges begin again."""
        if self._nodes == 1:
            return 1
        return self._exchanges() * (self._every if self._lanes > 1 else 1)
