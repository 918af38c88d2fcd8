"""What is told of a published vector: what was mixed, and how far its learner moved it."""

from __future__ import annotations

from typing import Any, NamedTuple


class Source(NamedTuple):
    """Vector `number` of `peer`, and its weight in an average."""

    peer: int
    number: int
    weight: float


class Publication(NamedTuple):
    """Vector `number` of `learner`: own times its vector before, plus the mixed, plus an update.

        x(learner, number) = own x(learner, number - 1) + sum of weight x(peer, number) + u

    with the L2 norm of u at most `length`, over all optimiser steps since then; own and the weights
    sum to 1. Number 0 is the vector that a learner starts from.
    """

    learner: int
    number: int
    round: int
    version: int
    incarnation: int
    length: float
    own: float
    mixed: tuple[Source, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return its line in the gossip log."""
        return {"kind": "publication"} | self._asdict()
