"""Nodes that were never heard of are reported: rarely, and in a line that says what to check."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from galamp.core.nodes import Place
from galamp.gossip.cluster.silence import AGAIN_S, SILENT_S, Silence

ADDRESSES = ("tls/machine-0:7447", "tls/machine-1:7447")


def test_a_node_that_never_comes_is_reported_after_30_s_and_rarely() -> None:
    silence = Silence(Place(2, 3, (), ADDRESSES), 100.0)
    assert silence.reports(100.0 + SILENT_S - 0.1) == []
    silence.heard(1)
    (line,) = silence.reports(100.0 + SILENT_S)
    assert line.startswith("node 0 at tls/machine-0:7447 not heard of for 30 s")
    assert silence.reports(100.0 + SILENT_S + AGAIN_S - 1) == []
    assert len(silence.reports(100.0 + SILENT_S + AGAIN_S)) == 1
    silence.heard(0)
    assert silence.reports(100.0 + 3 * AGAIN_S) == []


@pytest.mark.parametrize("keys", [None, Path("keys")])
def test_keys_are_asked_about_where_there_are_some(keys: Any) -> None:
    (line,) = Silence(Place(1, 2, (), ADDRESSES[:1], keys), 0.0).reports(SILENT_S)
    assert ("galamp keys" in line) == (keys is not None)
    assert "started" in line
    assert "firewall" in line
    assert len(line) < 250


def test_a_node_that_all_others_connect_to_waits_for_them_in_silence() -> None:
    assert Silence(Place(0, 2, ADDRESSES[:1], ()), 0.0).reports(SILENT_S) == []
