"""The first line of a start's gossip log."""

from __future__ import annotations

from pathlib import Path

import pytest

from galamp.training.resume import first_entry
from tests.supervision.test_border import laid_out


@pytest.mark.parametrize(
    ("gossip", "expected"),
    [({}, False), ({"outer_momentum": 0.5}, True), ({"outer_lr": 0.7}, True)],
)
def test_it_says_whether_outer_steps_take_the_place_of_averages(
    tmp_path: Path, gossip: dict[str, object], expected: bool
) -> None:
    _, layout = laid_out(0, tmp_path, nodes=1, **gossip)
    line = first_entry(layout, [], 0.0, 1).as_dict()
    assert line.get("outer", False) == expected
