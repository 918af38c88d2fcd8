"""The epsilon-ball's bound as plainly as can be: every coefficient of the whole history."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from galamp.gossip.transport.publication import Publication


def literal_bounds(history: Sequence[Publication], numbers: Sequence[int]) -> np.ndarray:
    """Return the sum over all updates of |c_i - c_j| times their length, [n, n]."""
    vectors: dict[tuple[int, int], dict[tuple[int, int], float]] = defaultdict(dict)
    lengths: dict[tuple[int, int], float] = {}
    for one in history:
        me = (one.learner, one.number)
        coefficients: dict[tuple[int, int], float] = defaultdict(float)
        parts = [(one.learner, one.number - 1, one.own), *one.mixed]
        for peer, number, weight in parts:
            for update, coefficient in vectors[peer, number].items():
                coefficients[update] += weight * coefficient
        coefficients[me] = 1.0
        lengths[me] = one.length
        vectors[me] = dict(coefficients)
    chosen = [vectors[learner, number] for learner, number in enumerate(numbers)]
    return np.array(
        [
            [
                sum(abs(a.get(e, 0.0) - b.get(e, 0.0)) * lengths[e] for e in a.keys() | b.keys())
                for b in chosen
            ]
            for a in chosen
        ]
    )
