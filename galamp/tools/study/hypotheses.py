"""The three hypotheses of plan.py, decided by the rules that stand there.

    rows of the blocks --normalised, decide--> Decision, of H1, H2 and H3

Pure. Statistics are those of `galamp compare`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
from numpy.typing import NDArray

from galamp.tools.compare.log_rank import log_rank
from galamp.tools.compare.reaching import Reaching, exact_test, median_time, share
from galamp.tools.compare.statistics import (
    improvement,
    iqm,
    iqm_difference,
)
from galamp.tools.study import plan
from galamp.tools.study.rows import Row, by_game
from galamp.tools.study.stable_baselines3 import PeerRun

Numbers = NDArray[np.float64]
OPEN, SUPPORTED, REFUTED, UNDECIDED = "open", "supported", "refuted", "undecided"


@dataclass(frozen=True)
class Scale:
    """A game's scores, made comparable with others': 0 is random actions, 1 the reference.

    Attributes:
        random: mean score of random actions.
        reference: median score of the reference runs, whose seeds are in no result.
    """

    random: float
    reference: float

    def of(self, score: float) -> float:
        """Return a score on this scale."""
        return (score - self.random) / (self.reference - self.random)


Scales = Mapping[str, Scale]
"""Game -> its scale."""


@dataclass(frozen=True)
class Outcome:
    """What a hypothesis rests on.

    Attributes:
        name: H1, H2 or H3.
        claim: what it claims.
        p: chance that equal arms differ so much; None while runs are missing.
        favours: whether the difference is GALA's.
        found: what was found, in words.
    """

    name: str
    claim: str
    p: float | None
    favours: bool
    found: str


@dataclass(frozen=True)
class Decision:
    """A hypothesis and what became of it.

    Attributes:
        test: what it rests on.
        corrected: p after Holm's correction; None while runs are missing.
        verdict: supported, refuted, undecided, or open.
    """

    test: Outcome
    corrected: float | None
    verdict: str


def scales(reference: Sequence[Row], random: Mapping[str, float]) -> dict[str, Scale]:
    """Return the scale of each game that has reference runs and a score of random actions."""
    finals: dict[str, list[float]] = {}
    for row in reference:
        if row.final is not None:
            finals.setdefault(row.game, []).append(row.final)
    return {
        game: Scale(random[game], median(found))
        for game, found in sorted(finals.items())
        if game in random
    }


def decide(tests: Sequence[Outcome]) -> list[Decision]:
    """Return what becomes of the hypotheses, by Holm's correction over all of them (Holm 1979).

    One without a p counts as the least sure.
    """
    order = sorted(range(len(tests)), key=lambda at: (tests[at].p is None, tests[at].p or 0.0))
    corrected: dict[int, float | None] = {}
    highest = 0.0
    for rank, at in enumerate(order):
        p = tests[at].p
        if p is not None:
            highest = max(highest, min(1.0, p * (len(tests) - rank)))
        corrected[at] = None if p is None else highest
    return [
        Decision(test, corrected[at], _verdict(test, corrected[at]))
        for at, test in enumerate(tests)
    ]


def _verdict(test: Outcome, corrected: float | None) -> str:
    if corrected is None:
        return OPEN
    if corrected >= plan.LEVEL:
        return UNDECIDED
    return SUPPORTED if test.favours else REFUTED


def pairs(
    rows: Sequence[Row], x: str, y: str, scores: Mapping[str, Scale] | None = None
) -> dict[str, tuple[list[Row], list[Row]]]:
    """Return, per game that both arms have (and `scores`, if given), the rows of X and of Y.

    Seeds that only one of them has are left out.
    """
    ours, theirs = by_game(rows, x), by_game(rows, y)
    found = {}
    for game in ours:
        if game in theirs and (scores is None or game in scores):
            seeds = {row.seed for row in ours[game]} & {row.seed for row in theirs[game]}
            if seeds:
                found[game] = tuple(
                    [row for row in each[game] if row.seed in seeds] for each in (ours, theirs)
                )
    return found  # type: ignore[return-value]


def area(row: Row, scale: Scale) -> float:
    """Return the mean over a run of its normalised training score; before the first it is 0."""
    return float(np.mean([0.0 if at is None else scale.of(at) for at in row.curve]))


def reaches(row: Row, scale: Scale) -> bool:
    """Return whether a run ends above `plan.SHARE` of the reference."""
    return row.final is not None and scale.of(row.final) > plan.SHARE


def robustness(rows: Sequence[Row], of: Scales, whole: bool) -> Outcome:
    """Return the test of H1."""
    claim = "with 256 environments more runs of GALA than of A2C end above half the reference"
    both = pairs(rows, plan.GALA_256, plan.A2C_256, of)
    if not both or not whole:
        return Outcome("H1", claim, None, False, _missing(both))
    ours, theirs = (
        [
            [Reaching(1.0, reaches(row, of[game])) for row in each[side]]
            for game, each in both.items()
        ]
        for side in (0, 1)
    )
    counts = [(sum(run.reached for task in side for run in task), sum(map(len, side)))
              for side in (ours, theirs)]  # fmt: skip
    shares = [share([run for task in side for run in task]) for side in (ours, theirs)]
    found = "; ".join(
        f"{name} {count} of {all_} ({100 * low:.0f} to {100 * high:.0f} %)"
        for name, (count, all_), (low, high) in zip(("GALA", "A2C"), counts, shares, strict=True)
    )
    return Outcome("H1", claim, exact_test(ours, theirs), counts[0] > counts[1], found)


def efficiency(rows: Sequence[Row], of: Scales, whole: bool) -> Outcome:
    """Return the test of H2."""
    claim = "with 64 environments the area under GALA's curve is larger than under A2C's"
    both = pairs(rows, plan.GALA_64, plan.A2C_64, of)
    if not both or not whole or min(len(each[0]) for each in both.values()) < 2:
        return Outcome("H2", claim, None, False, _missing(both))
    ours, theirs = (
        [np.array([area(row, of[game]) for row in each[side]]) for game, each in both.items()]
        for side in (0, 1)
    )
    better = improvement(ours, theirs)
    low, high = iqm_difference(ours, theirs)
    found = (
        f"a run of GALA's has more than one of A2C's with probability {better.probability:.2f} "
        f"({better.interval.low:.2f} to {better.interval.high:.2f}); difference of the "
        f"interquartile means {iqm_of(ours) - iqm_of(theirs):+.2f} ({low:+.2f} to {high:+.2f})"
    )
    return Outcome("H2", claim, better.p, better.probability > 0.5, found)


def speed(rows: Sequence[Row], whole: bool) -> Outcome:
    """Return the test of H3."""
    claim = "GALA comes to +15 in Pong in less time than A2C"
    both = pairs(rows, plan.GALA_PONG, plan.A2C_PONG)
    if not both or not whole:
        return Outcome("H3", claim, None, False, _missing(both))
    ours, theirs = (
        [[times(row) for row in each[side]] for each in both.values()] for side in (0, 1)
    )
    medians = [median_time([run for task in side for run in task]) for side in (ours, theirs)]
    told = ["never by half" if each is None else f"{each / 60:.1f} minutes" for each in medians]
    sooner = (medians[0] or np.inf) < (medians[1] or np.inf)
    found = f"median time: GALA {told[0]}, A2C {told[1]}"
    return Outcome("H3", claim, log_rank(ours, theirs).p, sooner, found)


def times(row: Row | PeerRun) -> Reaching:
    """Return when a run came to the score of Pong, or how long it lasted without."""
    if row.reached_s is None:
        return Reaching(row.wall_s, False)
    return Reaching(row.reached_s, True)


def iqm_of(tasks: Sequence[Numbers]) -> float:
    """Return the interquartile mean over all runs of all games."""
    return float(iqm(np.concatenate(tasks)))


def _missing(both: Mapping[str, tuple[list[Row], list[Row]]]) -> str:
    count = sum(len(each[0]) for each in both.values())
    return f"{count} pairs of runs so far"
