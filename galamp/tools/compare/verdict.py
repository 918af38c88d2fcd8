"""One sentence: is it a difference? It says no more than so many seeds can tell.

Improvement, number of seeds --statement--> text; p of reaching --reaching_statement--> text
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from galamp.tools.compare.statistics import Improvement

THRESHOLD = 0.05
"""Chance of a difference between equal configurations that is accepted, over all comparisons."""
MIN_SEEDS = 2


def statement(
    ours: str,
    theirs: str,
    seeds: Mapping[str, int],
    found: Improvement | None,
    comparisons: int,
    unit: str,
) -> str:
    """Return whether two configurations differ at equal `unit`.

    Args:
        ours: name of the first group.
        theirs: name of the second.
        seeds: group -> different seeds of the game in which it has fewest; 0: no game in common.
        found: None where there are fewer than two seeds.
        comparisons: how many are made at once; each gets its share of the threshold (Bonferroni).
        unit: what is equal: agent steps, or time.
    """
    pair = f"{ours} and {theirs} at equal {unit}:"
    few = [name for name, count in seeds.items() if count < MIN_SEEDS]
    if not all(seeds.values()):
        return f"{pair} no statement can be made: they have no game with a score in common."
    if found is None or few:
        who = " and ".join(few)
        return (
            f"{pair} no statement can be made: {who} {'has' if len(few) == 1 else 'have'} one "
            f"seed; it takes at least {MIN_SEEDS} per group, and {_needed(comparisons)} to show "
            "a difference."
        )
    higher, lower = (ours, theirs) if found.probability >= 0.5 else (theirs, ours)
    chance, threshold = _cases(found.p), THRESHOLD / comparisons
    told = f"probability that a run of {ours} beats one of {theirs}: {found.probability:.2f}"
    told += f", 95 % interval {found.interval.low:.2f} to {found.interval.high:.2f}"
    if found.p <= threshold:
        return (
            f"{pair} yes, {higher} scores higher than {lower} ({told}); equal configurations "
            f"differ so much in {chance}."
        )
    if found.smallest_p > threshold:
        return (
            f"{pair} it cannot be told with so few seeds: even runs that are all higher would be "
            f"so in {_cases(found.smallest_p)} by chance; it takes "
            f"{_needed(comparisons)} per group ({told})."
        )
    return (
        f"{pair} no difference is shown ({told}): equal configurations differ so much in "
        f"{chance}. More seeds may show one."
    )


def reaching_statement(
    groups: Sequence[str], wanted: float, log_rank_p: float | None, reached_p: float
) -> str:
    """Return how surely two configurations differ in reaching a score.

    Args:
        groups: names of both.
        wanted: the score.
        log_rank_p: of when runs reach it; None where none does.
        reached_p: of how many do.
    """
    pair = f"{' and '.join(groups)} to a score of {wanted:g}:"
    if log_rank_p is None:
        return f"{pair} no run that could be compared reaches it."
    return (
        f"{pair} equal configurations differ so much in how soon runs reach it in "
        f"{_cases(log_rank_p)} (log-rank test), and so much in how many do in "
        f"{_cases(reached_p)} (exact test)."
    )


def _needed(comparisons: int) -> int:
    """Return the seeds per group from which a complete separation is below the threshold."""
    seeds = MIN_SEEDS
    while 2 / math.comb(2 * seeds, seeds) > THRESHOLD / comparisons:
        seeds += 1
    return seeds


def _cases(share: float) -> str:
    return f"{100 * share:.2g} % of cases" if share < 0.995 else "all cases"
