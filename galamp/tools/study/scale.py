"""Scales: a game's scores, made comparable with others'.

rows of the reference, scores of random actions --scales--> Scale of each game
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from galamp.tools.study.rows import Row


@dataclass(frozen=True)
class Scale:
    """A game's scale: 0 is random actions, 1 the reference.

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
