"""Publication: the record of one published vector: its sources, and the length of its update."""

from __future__ import annotations

from typing import Any, NamedTuple

FOLLOWS = 2**40 + 1
"""Incarnation, in its slots and in the record, of the mirror of another node's learner that follows
one here: no message has it, so nobody mixes its vectors.

In the record, that of all other publications of a mirror is the epoch of that learner's node.
"""


CHECKSUMS = 2**48
"""Checksums are recorded modulo this number, which a float64 and JSON hold exactly."""


class Source(NamedTuple):
    """Source of an average: vector `number` of `peer`, and its mixing weight."""

    peer: int
    number: int
    weight: float


class Publication(NamedTuple):
    """Vector `number` of `learner`: own times its previous vector, plus the mixed, plus an update.

        x(learner, number) = own x(learner, number - 1) + sum of weight x(peer, number) + u

    u is the sum of all optimiser steps since the previous vector; its L2 norm is at most `length`.
    `own` and the weights of `mixed` sum to 1. Number 0 is the vector that a learner starts from.
    That of another node's learner is the one that has arrived; where it was `rounded` for the wire,
    the one that was published is at most so far from it. Lengths are those of parameters, also
    where an optimiser's state goes with them. `checksum` is that of the vector, where it has gone
    to another node, or come from one, as it was published; else 0.
    """

    learner: int
    number: int
    round: int
    version: int
    incarnation: int
    length: float
    own: float
    mixed: tuple[Source, ...]
    rounded: float = 0.0
    checksum: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Return the publication's line in the gossip log."""
        line = {"kind": "publication"} | self._asdict()
        for name in ("rounded", "checksum"):
            if not line[name]:
                del line[name]
        return line
