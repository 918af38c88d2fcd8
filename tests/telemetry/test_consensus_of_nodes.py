"""The certificate on one of several nodes: where its learners begin is measured, not assumed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from galamp.gossip.consensus.distances import DistanceMeter
from galamp.gossip.transport.parameter_slots import ParameterSlots
from galamp.gossip.transport.publication import Publication
from galamp.gossip.transport.publication_ring import PublicationRing
from galamp.memory.learner_state import State
from galamp.storage.gossip_log import GOSSIP, Start, read_gossip
from galamp.telemetry import consensus
from galamp.telemetry.consensus import History
from galamp.tools.audit.across import of_node
from galamp.tools.audit.audit import audit
from galamp.training.resume import history_of
from tests.supervision.test_border import laid_out

LENGTH, APART, EPOCH = 1e-3, 1.0, 5


class Node:
    """Node 0 of two with two lanes each, whose lanes have begun where those of node 1 are."""

    def __init__(self, folder: Path, states: list[State]) -> None:
        _, layout = laid_out(0, folder / "logs", topology="complete")
        self.size, self.arrays = layout.sketch.parameters, layout.arrays
        self.lanes, every = layout.count, range(layout.topology.size)
        self.slots = [ParameterSlots(self.arrays, rank) for rank in every]
        self.meter, self.folder = DistanceMeter(self.slots, self.size), folder
        history = history_of(layout, _Folder(folder), states, 0.0, print)  # type: ignore[arg-type]
        assert history is not None
        self.history: History = history

    def publish_all(self) -> None:
        """Publish every learner's vector, after an update that has changed nothing."""
        for rank, slots in enumerate(self.slots):
            at = slots.begin_write()
            slots.payload[at] = 0.0
            slots.payload[at, 0] = APART * (rank % self.lanes)
            own = rank < self.lanes
            header = slots.end_write(incarnation=0 if own else 1, round_=1, version=1)
            fixed = rank, header.number, header.number, header.number, 0 if own else EPOCH
            length = LENGTH if own else 0.0
            PublicationRing(self.arrays, rank).append(Publication(*fixed, length, 1.0, ()))

    def certified(self) -> float | None:
        """Return the bound between the two lanes of this node."""
        measured = self.meter.distances()
        assert measured is not None
        assert measured.pairwise.max() == pytest.approx(APART)
        bounds = self.history.measured(measured, 0.0, 0)
        if bounds is None:
            self.history.rebase_unknown(*self.meter.recent())
            return None
        return float(bounds.pairwise[0, 1])


class _Folder:
    """What `history_of` needs of a run folder."""

    def __init__(self, path: Path) -> None:
        self.path, self.where = path, str


@pytest.mark.parametrize("resumed", [False, True])
def test_lanes_that_begin_apart_are_never_certified_to_be_together(
    resumed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A late node's start, common or of a checkpoint, is not where its learners really begin."""
    monkeypatch.setattr(consensus, "CATCH_UP_S", 60.0)
    same = State({"parameters": np.zeros(3, np.float32)}, {}, np.zeros(0), np.zeros(0))  # type: ignore[arg-type]
    node = Node(tmp_path, [same, same] if resumed else [])
    found = []
    for _ in range(4):
        node.publish_all()
        found.append(node.certified())
    node.history.follow()
    known = [bound for bound in found if bound is not None]
    assert len(known) >= 2, "it is measured, and certified from then on"
    assert all(bound >= APART for bound in known), found
    assert max(known) < 2 * APART + 1.0
    record = audit(tmp_path)
    assert record.passed
    assert record.certified == record.recorded == len(known)
    bounds = record.series.column("pairwise_bound")
    assert (bounds[np.isfinite(bounds)] >= APART).all()


def test_first_vectors_stay_in_the_record_that_other_nodes_are_compared_with(
    tmp_path: Path,
) -> None:
    """They are unknown, and no gap: what nobody has published is found to be false as before."""
    node = Node(tmp_path, [])
    for _ in range(3):
        node.publish_all()
        node.certified()
    node.history.follow()
    (start,) = of_node(tmp_path)
    assert start.gaps == set()
    assert [len(start.published[rank]) for rank in range(node.lanes)] == [3, 3]
    entries = list(read_gossip(tmp_path / GOSSIP))
    assert isinstance(entries[0], Start)
    assert entries[0].adopted
    own = [e for e in entries if isinstance(e, Publication) and e.learner < node.lanes]
    assert [e.number for e in own if e.learner == 0] == [1, 2, 3]
