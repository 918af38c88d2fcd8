"""Base-(k+1) graph: any number of learners averages exactly after a few rounds of k peers at most.

From Takezawa et al. 2023 (arXiv 2305.11420), algorithms 1 to 3: `hypercube`, `simple_base`, `base`.
A round is written as its edges, each with the weight that both ends give each other; what is left
of 1 is a learner's own weight. So every mixing matrix is symmetric and doubly stochastic.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import chain, combinations, islice

from galamp.gossip.topologies.base import Topology

Round = dict[tuple[int, int], float]
"""Weight of each pair (lower rank, higher rank) that exchanges."""


class BaseGraph(Topology):
    """Base-(k+1) graph; a subclass says what k is."""

    symmetric = weighted = True
    degree: int
    """k: the most peers of a learner in a round."""

    def __init__(self, size: int, seed: int = 0) -> None:
        super().__init__(size, seed)
        rounds = base(range(size), self.degree) or [{}]
        self._rounds = [_peers_of(each) for each in rounds]

    def out_peers(self, rank: int, round_: int) -> tuple[int, ...]:
        """Return the partners of the round; none for a learner that keeps its vector."""
        return tuple(self._partners(rank, round_))

    def in_peers(self, rank: int, round_: int) -> tuple[int, ...]:
        """Return the partners of the round; none for a learner that keeps its vector."""
        return self.out_peers(rank, round_)

    def weights(self, rank: int, round_: int) -> tuple[float, ...]:
        """Return the own weight, which is what is left of 1, then those of the partners."""
        shares = self._partners(rank, round_).values()
        return (1.0 - math.fsum(shares), *shares)

    def period(self) -> int:
        """Return the number of rounds that average exactly, at most 2 log_{k+1}(n) + 2."""
        return len(self._rounds)

    def _partners(self, rank: int, round_: int) -> dict[int, float]:
        return self._rounds[round_ % len(self._rounds)].get(rank, {})


class Base2(BaseGraph):
    """Base-2 graph: learners exchange in pairs; for n a power of two it is a hypercube."""

    degree = 1


class Base3(BaseGraph):
    """Base-3 graph: at most two peers per round, and fewer rounds than Base-2."""

    degree = 2


def base(ranks: Sequence[int], degree: int) -> list[Round]:
    """Return the rounds of algorithm 3.

    With n = p q, where p has only prime factors up to k + 1 and q has none of them, p groups of q
    average by `simple_base`, then q groups of p, one member of each, by `hypercube`. If
    `simple_base` over all is shorter, it is that.
    """
    count = math.prod(_factors(len(ranks), degree))
    rest = len(ranks) // count
    groups = [ranks[at : at + rest] for at in range(0, len(ranks), rest)]
    within = _side_by_side([simple_base(group, degree) for group in groups])
    across = _side_by_side([hypercube(ranks[at::rest], degree) for at in range(rest)])
    whole = simple_base(ranks, degree)
    return whole if len(whole) < len(within) + len(across) else within + across


def hypercube(ranks: Sequence[int], degree: int) -> list[Round]:
    """Return the rounds of algorithm 1, for n = n_1 n_2 ... with factors up to k + 1.

    Positions are numbers of mixed radix. In round l those that differ in digit l only, n_l of
    them, average exactly.
    """
    rounds, stride = list[Round](), 1
    for factor in reversed(_factors(len(ranks), degree)):
        groups = [
            [ranks[at + stride * digit] for digit in range(factor)]
            for at in range(len(ranks))
            if at // stride % factor == 0
        ]
        rounds.append(_averages(groups))
        stride *= factor
    return rounds


def simple_base(ranks: Sequence[int], degree: int) -> list[Round]:
    """Return the rounds of algorithm 2.

    n is written to the base b = k + 1, n = a_1 b^p_1 + a_2 b^p_2 + ..., p_1 > p_2 > ..., and the
    learners are split into parts of a_l b^p_l, each of a_l blocks of b^p_l. First all parts average
    within themselves. Then, for one l after another, every learner of the parts after l exchanges
    with one of each block of part l. This brings each block's mean, and that of all parts after l,
    to the mean of all; whereupon the blocks average within themselves.
    """
    parts = _parts(ranks, degree)
    if len(parts) < 2 or math.prod(_factors(len(ranks), degree)) == len(ranks):
        return hypercube(ranks, degree)
    whole = [hypercube(list(chain(*blocks)), degree) for blocks in parts]
    rounds = [_merged(_cyclic(each, at) for each in whole) for at in range(len(whole[0]))]
    inner = [
        _side_by_side([hypercube(block, degree) for block in blocks]) or every
        for blocks, every in zip(parts, whole, strict=True)
    ]
    last = len(parts) - 1
    for step in range(1 + len(inner[0])):
        # Part l exchanges in step l, and its blocks average from then on; the last has no exchange.
        now = [_cyclic(inner[part], step - part - 1) for part in range(min(step, last))]
        if step < last:
            others = list(chain(*chain(*reversed(parts[step + 1 :]))))
            now.append(_exchange(parts[step], others, degree))
        else:
            now.append(_cyclic(inner[last], step - last))
        rounds.append(_merged(now))
    return rounds


def _exchange(blocks: Sequence[Sequence[int]], others: Sequence[int], degree: int) -> Round:
    """Return the round of `others` with one learner of each block, by weights |part| / |both| / a.

    Those of the part that are left average in groups of k + 1: all of them are alike already, but
    for updates in between.
    """
    size = sum(map(len, blocks))
    weight = size / (size + len(others)) / len(blocks)
    found = {
        _pair(one, block[-1 - at]): weight for at, one in enumerate(others) for block in blocks
    }
    left = [rank for block in blocks for rank in block[: len(block) - len(others)]]
    groups = [left[at : at + degree + 1] for at in range(0, len(left), degree + 1)]
    return found | _averages(groups)


def _parts(ranks: Sequence[int], degree: int) -> list[list[Sequence[int]]]:
    """Return the blocks of each part: the digits of n to the base k + 1, from the highest on."""
    block, left, parts = 1, iter(ranks), list[list[Sequence[int]]]()
    while block * (degree + 1) <= len(ranks):
        block *= degree + 1
    rest = len(ranks)
    while rest:
        digit, rest = divmod(rest, block)
        if digit:
            parts.append([list(islice(left, block)) for _ in range(digit)])
        block //= degree + 1
    return parts


def _factors(count: int, degree: int) -> list[int]:
    """Return factors of `count` from 2 to k + 1, as large as possible; what remains has none."""
    found = []
    for factor in range(degree + 1, 1, -1):
        while count % factor == 0:
            found.append(factor)
            count //= factor
    return found


def _averages(groups: Sequence[Sequence[int]]) -> Round:
    """Return the round in which the members of each group take their mean."""
    return {
        _pair(one, other): 1 / len(group)
        for group in groups
        for one, other in combinations(group, 2)
    }


def _pair(one: int, other: int) -> tuple[int, int]:
    return (one, other) if one < other else (other, one)


def _side_by_side(each: Sequence[list[Round]]) -> list[Round]:
    """Return the rounds of disjoint groups of the same size, taking place together."""
    return [_merged(rounds) for rounds in zip(*each, strict=True)]


def _merged(rounds: Iterator[Round] | Sequence[Round]) -> Round:
    return {pair: weight for each in rounds for pair, weight in each.items()}


def _cyclic(rounds: Sequence[Round], at: int) -> Round:
    return rounds[at % len(rounds)] if rounds else {}


def _peers_of(round_: Round) -> dict[int, dict[int, float]]:
    """Return the partners of every rank that has some, in ascending order, and their weights."""
    found: dict[int, dict[int, float]] = {}
    both = chain(round_.items(), (((b, a), weight) for (a, b), weight in round_.items()))
    for (one, other), weight in sorted(both):
        found.setdefault(one, {})[other] = weight
    return found
