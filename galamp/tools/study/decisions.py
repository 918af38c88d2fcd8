"""Decisions: what becomes of hypotheses, by Holm's correction over all of them.

    Outcome of each --decide--> Decision: supported, refuted, undecided, or open

Pure. A hypothesis is decided once no outcome of those whose runs are missing can change it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from galamp.tools.study import plan

OPEN, SUPPORTED, REFUTED, UNDECIDED = "open", "supported", "refuted", "undecided"


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
        corrected: p after Holm's correction, at most: as if hypotheses whose runs are missing were
            the least sure; None while its own are.
        verdict: supported, refuted, undecided, or open.
    """

    test: Outcome
    corrected: float | None
    verdict: str


def decide(tests: Sequence[Outcome]) -> list[Decision]:
    """Return what becomes of the hypotheses.

    The corrected p of one is greatest if every missing p is 1, and least if every one is 0.
    """
    greatest, least = (
        holm([missing if test.p is None else test.p for test in tests]) for missing in (1.0, 0.0)
    )
    return [
        Decision(test, None if test.p is None else most, _verdict(test, fewest, most))
        for test, fewest, most in zip(tests, least, greatest, strict=True)
    ]


def holm(ps: Sequence[float]) -> list[float]:
    """Return p after the correction of Holm 1979, of each."""
    order = sorted(range(len(ps)), key=ps.__getitem__)
    corrected, highest = [0.0] * len(ps), 0.0
    for rank, at in enumerate(order):
        highest = max(highest, min(1.0, ps[at] * (len(ps) - rank)))
        corrected[at] = highest
    return corrected


def _verdict(test: Outcome, least: float, greatest: float) -> str:
    if test.p is not None and greatest < plan.LEVEL:
        return SUPPORTED if test.favours else REFUTED
    if test.p is not None and least >= plan.LEVEL:
        return UNDECIDED
    return OPEN
