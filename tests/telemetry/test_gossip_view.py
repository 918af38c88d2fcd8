"""The gossip view of a run on several machines: a line for each other one."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from galamp.telemetry.display.gossip_view import gossip_view
from galamp.telemetry.snapshot import EdgeSnapshot, NodeSnapshot, Snapshot
from galamp.training.control.snapshot_json import as_json, snapshot_from
from tests.support.snapshots import busy


def shown(snapshot: Snapshot, width: int) -> list[str]:
    return [line.plain for line in gossip_view(snapshot, width, 40)]


@pytest.mark.parametrize("width", [40, 80, 120])
@pytest.mark.parametrize("lanes", [1, 2])
def test_other_machines_are_listed(lanes: int, width: int) -> None:
    there = NodeSnapshot(0, (lanes, 2 * lanes - 1), True, 12, 13, 5, 0, 1.5e6, 820.0)
    away = NodeSnapshot(2, (2 * lanes, 3 * lanes - 1), False, refused=3)
    snapshot = replace(busy(lanes), nodes=(there, away))
    lines = [line for line in shown(snapshot, width) if line.startswith("machine")]
    assert max(map(len, lines)) <= width
    assert lines[0].startswith(f"machine 0 (learners {lanes}-{2 * lanes - 1}) there")
    assert "away" in lines[1]
    if width == 120:
        assert "in 1.50MB/s  out 820B/s  received 12  sent 13" in lines[0]
        assert lines[0].endswith("overwritten 5  refused 0")
    elif width == 80:
        assert "in 1.50MB/s  out 820B/s" in lines[0]
    assert not any(line.startswith("machine") for line in shown(busy(lanes), width))


def test_what_is_mixed_from_other_machines_has_columns() -> None:
    """Those of a machine that is away are crossed out; what they receive, their machine shows."""
    nodes = (NodeSnapshot(2, (4, 5), False), NodeSnapshot(1, (2, 3), True))
    edges = (EdgeSnapshot(1, 0, 2), EdgeSnapshot(3, 0, 6), EdgeSnapshot(4, 1, 7))
    snapshot = replace(busy(2), nodes=nodes, edges=edges)
    head, first, second = shown(snapshot, 120)[1:4]
    assert head.split()[:7] == ["from", "0", "1", "2", "3", "4", "5"]
    assert first.split()[:8] == ["to", "0", "\\", "2", "·", "6", "·", "·"]
    assert second.split()[:8] == ["to", "1", "→", "\\", "·", "·", "✕", "·"]
    assert [line for line in shown(replace(snapshot, nodes=()), 120)[1:2] if "2" in line[:20]] == []


def test_who_attaches_sees_them_too() -> None:
    snapshot = replace(busy(2), nodes=(NodeSnapshot(1, (2, 3), True, 4, 5, 6, 7),))
    received = json.loads(json.dumps(as_json(snapshot)))
    assert snapshot_from(received).nodes == snapshot.nodes
