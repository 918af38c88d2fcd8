"""A learner of one of several nodes whose bridge hangs: it waits as long as is promised."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from galamp.core.nodes import Ranks
from galamp.memory.arrays import SharedArrays
from galamp.memory.cluster_board import ClusterBoard
from galamp.workers.learner import Learner


@pytest.mark.parametrize("settled", [False, True])
def test_a_learner_waits_for_12_s_at_most(settled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    ranks, now_s = Ranks(0, 2, 1), [100.0]
    arrays = SharedArrays.create(ClusterBoard.specs(2, 2))
    if settled:
        ClusterBoard(arrays, 2, 2).settle()
    clock = SimpleNamespace(
        monotonic=lambda: now_s[0], sleep=lambda s: now_s.__setitem__(0, now_s[0] + s)
    )
    monkeypatch.setattr("galamp.workers.learner.time", clock)
    learner = object.__new__(Learner)
    learner.task = SimpleNamespace(place=ranks, rank=0, arrays=arrays)  # type: ignore[assignment]
    learner.idle = lambda: None  # type: ignore[method-assign]
    learner.exchange = SimpleNamespace(mean_of=lambda learners: None)  # type: ignore[assignment]
    learner._begin_where_others_are()
    assert now_s[0] - 100.0 == pytest.approx(0.0 if settled else 12.0, abs=0.1)
