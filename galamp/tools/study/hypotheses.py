"""The tests of the three hypotheses of plan.py, by the rules that stand there.

    rows of the blocks --robustness, efficiency, speed--> Outcome, of H1, H2 and H3

Pure. Statistics are those of `galamp compare`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from galamp.tools.compare.log_rank import log_rank
from galamp.tools.compare.permutation import Numbers
from galamp.tools.compare.reaching import (
    Reaching,
    Runs,
    exact_test,
    median_ratio,
    median_time,
    share,
)
from galamp.tools.compare.statistics import (
    improvement,
    iqm,
    iqm_difference,
)
from galamp.tools.study import plan
from galamp.tools.study.decisions import Outcome
from galamp.tools.study.rows import Row, by_game
from galamp.tools.study.scale import Scale, Scales


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


def speed(rows: Sequence[Row], rates: Mapping[str, float], whole: bool) -> Outcome:
    """Return the test of H3.

    Args:
        rows: of block pong.
        rates: arm -> agent steps per second.
        whole: whether no run is missing.
    """
    claim = "GALA comes to +15 in Pong in less time than A2C"
    both = pairs(rows, plan.GALA_PONG, plan.A2C_PONG)
    if not both or not whole or not {plan.GALA_PONG, plan.A2C_PONG} <= rates.keys():
        return Outcome("H3", claim, None, False, _missing(both))
    ours, theirs = times(both, rates)
    test = log_rank(ours, theirs)
    every = [[run for task in side for run in task] for side in (ours, theirs)]
    p = 1.0 if test.p is None else test.p  # no run came to it: equal arms differ so much always
    return Outcome("H3", claim, p, test.excess > 0, _times_found(*every))


def times(
    both: Mapping[str, tuple[list[Row], list[Row]]], rates: Mapping[str, float]
) -> tuple[list[list[Reaching]], list[list[Reaching]]]:
    """Return when the runs of two arms came to the score of Pong, or how long they lasted without.

    Time is agent steps over the rate of the arm. All are looked at for the same time: until the
    faster arm's last agent step.
    """
    every = [row for each in both.values() for side in each for row in side]
    until = min(row.total_steps / rates[row.arm] for row in every)
    ours, theirs = (
        [[_time(row, rates[row.arm], until) for row in each[side]] for each in both.values()]
        for side in (0, 1)
    )
    return ours, theirs


def _time(row: Row, rate: float, until: float) -> Reaching:
    steps = row.agent_steps if row.reached_steps is None else row.reached_steps
    time = min(steps / rate, until)
    return Reaching(time, row.reached_steps is not None and steps / rate <= until)


def _times_found(ours: Runs, theirs: Runs) -> str:
    """Return how many runs came to the score, when half of them had, and the ratio of times."""
    told = []
    for name, runs in (("GALA", ours), ("A2C", theirs)):
        reached, time = sum(run.reached for run in runs), median_time(runs)
        half = "no median time" if time is None else f"median {time / 60:.1f} minutes"
        told.append(f"{name} {reached} of {len(runs)}, {half}")
    ratio = median_ratio(ours, theirs)
    if ratio is not None:
        low, high = ratio.interval
        between = f"{low:.2f} to {high:.2f}" if np.isfinite(high) else f"{low:.2f} or more"
        told.append(f"ratio of the medians {ratio.ratio:.2f} ({between})")
    return "; ".join(told)


def iqm_of(tasks: Sequence[Numbers]) -> float:
    """Return the interquartile mean over all runs of all games."""
    return float(iqm(np.concatenate(tasks)))


def _missing(both: Mapping[str, tuple[list[Row], list[Row]]]) -> str:
    count = sum(len(each[0]) for each in both.values())
    return f"{count} pairs of runs so far"
