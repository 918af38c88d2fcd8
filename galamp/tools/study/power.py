"""How surely runs of such a number would show a difference of such a size, by simulation.

    games, seeds, difference --simulate--> share of simulated studies that show it

Runs in `bin/study power`. Scores of a run are normal around its game's level, with a standard
deviation of `SPREAD` of the reference's score; shares of runs that reach a score are binomial;
logarithms of times to a score are normal, and all runs reach it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from galamp.tools.compare.log_rank import log_rank
from galamp.tools.compare.reaching import Reaching, exact_test
from galamp.tools.compare.statistics import improvement
from galamp.tools.study import plan

SPREAD = 0.2
SPREAD_OF_TIME = 0.2
"""Standard deviation of the natural logarithm of a time."""
LEVELS = (0.2, 0.8)
"""Least and greatest level of a game, normalised; drawn uniformly."""


class Power(NamedTuple):
    """One line of the table.

    Attributes:
        test: what is simulated.
        games, seeds: size of the study; seeds of each arm.
        difference: how the arms differ, in words.
        share: of simulated studies with p below `plan.LEVEL`.
    """

    test: str
    games: int
    seeds: int
    difference: str
    share: float


def powers(repeats: int) -> Iterator[Power]:
    """Yield the power of each test and size; a difference of 0 gives the share of false alarms."""
    random = np.random.default_rng(0)
    yield from of_areas(repeats, random)
    yield from of_reaching(repeats, random)
    yield from of_times(repeats, random)


def of_areas(repeats: int, random: np.random.Generator) -> Iterator[Power]:
    """Yield the power of H2's test."""
    for games, seeds in ((3, 6), (5, 6), (5, 10), (5, 20)):
        for difference in (0.0, 0.1, 0.2):
            found = [_area_p(games, seeds, difference, random) for _ in range(repeats)]
            yield Power("area under the curve", games, seeds, f"{difference:g}", _share(found))


def of_reaching(repeats: int, random: np.random.Generator) -> Iterator[Power]:
    """Yield the power of H1's test."""
    for games, seeds in ((5, 2), (5, 6), (5, 10)):
        for low, high in ((0.5, 0.5), (0.5, 0.9), (0.6, 0.9), (0.75, 0.95)):
            found = [_reaching_p(games, seeds, low, high, random) for _ in range(repeats)]
            told = f"{100 * low:.0f} and {100 * high:.0f} % of runs"
            yield Power("reaching a score", games, seeds, told, _share(found))


def of_times(repeats: int, random: np.random.Generator) -> Iterator[Power]:
    """Yield the power of H3's test; three seeds of each arm can show nothing: p is at least 0.1."""
    for seeds in (3, 5, 10):
        for ratio in (1.0, 0.8, 0.5):
            found = [_time_p(seeds, ratio, random) for _ in range(repeats)]
            yield Power("time to a score", 1, seeds, f"{ratio:g} times as long", _share(found))


def _area_p(games: int, seeds: int, difference: float, random: np.random.Generator) -> float:
    levels = random.uniform(*LEVELS, size=games)
    ours, theirs = (
        [random.normal(level + more, SPREAD, size=seeds) for level in levels]
        for more in (difference, 0.0)
    )
    return improvement(ours, theirs).p


def _reaching_p(
    games: int, seeds: int, low: float, high: float, random: np.random.Generator
) -> float:
    ours, theirs = (
        [
            [Reaching(1.0, bool(reached)) for reached in random.random(seeds) < share]
            for _ in range(games)
        ]
        for share in (high, low)
    )
    return exact_test(ours, theirs)


def _time_p(seeds: int, ratio: float, random: np.random.Generator) -> float:
    ours, theirs = (
        [Reaching(time, True) for time in np.exp(random.normal(np.log(of), SPREAD_OF_TIME, seeds))]
        for of in (ratio, 1.0)
    )
    return log_rank([ours], [theirs]).p or 1.0


def _share(found: list[float]) -> float:
    return float(np.mean(np.array(found) < plan.LEVEL))
