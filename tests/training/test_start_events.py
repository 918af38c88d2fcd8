"""What is told at the beginning of an attempt, besides what a quota leads to."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from galamp.core.config import from_dict
from galamp.gossip.topologies import make_topology
from galamp.supervision.plan import make_plan
from galamp.training.start_events import log_choices
from tests.core.test_cpu_quota import box
from tests.supervision.test_plan import limits
from tests.support.told import Told

__all__ = ["limits"]


def told(topology: str, learners: int, **gossip: Any) -> list[str]:
    on, found = box(64, None), Told()
    settings = {"topology": topology, **gossip}
    config = from_dict({"resources": {"learners": learners, "device": "cpu"}, "gossip": settings})
    recorder = cast(Any, SimpleNamespace(log_event=found.log_event))
    log_choices(make_plan(config, on), on, recorder, first=True)
    return [line for line in found if topology in line]


@pytest.mark.parametrize("learners", [3, 5, 7, 13])
def test_a_torus_of_one_row_is_told_to_be_a_ring(learners: int) -> None:
    torus, ring = (make_topology(name, learners) for name in ("torus", "bidirectional-ring"))
    for rank in range(learners):
        assert torus.out_peers(rank, 0) == tuple(sorted(ring.out_peers(rank, 0)))
    assert told("torus", learners) == [
        f"torus of {learners} learners: a ring in both directions, for {learners} is a prime"
    ]


@pytest.mark.parametrize(
    ("topology", "learners"), [("torus", 1), ("torus", 2), ("torus", 4), ("torus", 6), ("ring", 7)]
)
def test_a_torus_of_rows_is_not(topology: str, learners: int) -> None:
    assert told(topology, learners) == []
