"""Sensitivity of H1: what its runs had to reach, and what other rules would have found.

    Study --to_reach--> scores, and runs above them, of each game
    Study --other_rules--> counts and p of each other rule

Explores, and decides nothing: the rule is that of `plan.py`, and no p here is corrected.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from galamp.tools.compare.reaching import Reaching, exact_test
from galamp.tools.study import hypotheses, plan
from galamp.tools.study.rows import Row
from galamp.tools.study.scale import Scale
from galamp.tools.study.study import Study

ARMS = (plan.GALA_256, plan.A2C_256)
AS_DECIDED = "as decided"

Pairs = Mapping[str, tuple[Sequence[Row], Sequence[Row]]]
"""Game -> runs of GALA, and of A2C."""
Score = Callable[[Row], float | None]


class Bar(NamedTuple):
    """What the reference runs of a game had, at least, in the median and at most."""

    random: float
    least: float
    reference: float
    most: float

    def halfway(self, reference: float) -> float:
        """Return the score to reach, from that of random actions to a reference."""
        return self.random + plan.SHARE * (reference - self.random)


def to_reach(study: Study) -> list[dict[str, Any]]:
    """Return for each game of H1 the score to reach, and how many runs of each arm end above."""
    found, of_games = [], bars(study)
    for game, both in _pairs(study).items():
        bar = of_games[game]
        above = dict(zip(ARMS, _above(both, bar.halfway(bar.reference), _final), strict=True))
        runs = dict(zip(ARMS, map(len, both), strict=True))
        more = {"to_reach": bar.halfway(bar.reference), "above": above, "runs": runs}
        found.append({"game": game, **bar._asdict(), **more})
    return found


def other_rules(study: Study) -> list[dict[str, Any]]:
    """Return what H1's test gives as decided, and by other rules; empty without a pair of runs.

    That is with the least and the greatest reference run in place of their median, by the mean of
    all learners in place of one, and without each game in which some runs end above and some do
    not, as the others add nothing to the test.
    """
    pairs, bar = _pairs(study), bars(study)
    if not pairs:
        return []
    usual = {game: bar[game].halfway(bar[game].reference) for game in pairs}
    rules = [
        _rule(AS_DECIDED, pairs, usual),
        _rule("least reference run", pairs, {g: bar[g].halfway(bar[g].least) for g in pairs}),
        _rule("greatest reference run", pairs, {g: bar[g].halfway(bar[g].most) for g in pairs}),
        _rule("mean of all learners", pairs, usual, _mean),
    ]
    for game, both in pairs.items():
        count = sum(_above(both, usual[game], _final))
        if 0 < count < sum(map(len, both)) and len(pairs) > 1:
            others = {other: each for other, each in pairs.items() if other != game}
            rules.append(_rule(f"without {game}", others, usual))
    return rules


def bars(study: Study) -> dict[str, Bar]:
    """Return each game's scores of random actions and of the reference runs."""
    return {
        game: Bar(scale.random, min(finals), scale.reference, max(finals))
        for game, scale in study.scales.items()
        if (finals := _finals(study, game))
    }


def _finals(study: Study, game: str) -> list[float]:
    rows = study.rows["reference"]
    return [row.final for row in rows if row.game == game and row.final is not None]


def _pairs(study: Study) -> Pairs:
    with_bars: dict[str, Scale] = {game: study.scales[game] for game in bars(study)}
    return hypotheses.pairs(study.rows["robustness"], *ARMS, with_bars)


def _final(row: Row) -> float | None:
    return row.final


def _mean(row: Row) -> float | None:
    return row.mean


def _above(both: tuple[Sequence[Row], Sequence[Row]], bar: float, score: Score) -> list[int]:
    """Return how many runs of each arm end above a score."""
    return [sum(_reaches(row, bar, score) for row in rows) for rows in both]


def _reaches(row: Row, bar: float, score: Score) -> bool:
    found = score(row)
    return found is not None and found > bar


def _rule(name: str, pairs: Pairs, bar: Mapping[str, float], score: Score = _final) -> Any:
    ours, theirs = (
        [
            [Reaching(1.0, _reaches(row, bar[game], score)) for row in both[side]]
            for game, both in pairs.items()
        ]
        for side in (0, 1)
    )
    counts = (sum(run.reached for task in side for run in task) for side in (ours, theirs))
    runs = (sum(map(len, side)) for side in (ours, theirs))
    return {
        "rule": name,
        "above": dict(zip(ARMS, counts, strict=True)),
        "runs": dict(zip(ARMS, runs, strict=True)),
        "p": exact_test(ours, theirs),
    }
