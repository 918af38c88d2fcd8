"""The mean of the learners of all nodes: which node saves it, and of whom it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from galamp.gossip.transport.parameter_slots import ParameterSlots
from galamp.gossip.transport.publication import FOLLOWS
from galamp.storage import checkpoint as checkpoints
from galamp.supervision.layout import RunLayout
from galamp.training.checkpointing import Saver
from galamp.training.mean_of_nodes import MeanOfNodes, MeanVector, Vector
from galamp.training.resolve import ResolvedRun
from galamp.training.train import identity_of
from tests.supervision.test_border import _port, laid_out
from tests.support.engine import DEADLINE_S
from tests.training.test_resume_cluster import state_of

assert _port, "the fixture"


def own(layout: RunLayout) -> list[Vector]:
    return [np.full(layout.sketch.parameters, value, np.float32) for value in (1.0, 2.0)]


def arrived(layout: RunLayout, values: tuple[float, ...] = (6.0, 7.0)) -> RunLayout:
    """With a vector of each learner of the other node, which is there."""
    board, ranks = layout.board, layout.plan.ranks
    assert board is not None
    board.set_node(1 - ranks.node, "present", 1)
    for rank, value in zip(ranks.remote, values, strict=True):
        slots = ParameterSlots(layout.arrays, rank)
        slots.payload[slots.begin_write()] = value
        slots.end_write(incarnation=1, round_=1, version=1, checksum=0)
        board.set_rank(rank, "mirrored", 1)
        layout.control.set_alive(rank, True)
    return layout


def mean(layout: RunLayout, *, ends: bool = False) -> MeanVector | None:
    elsewhere = MeanOfNodes(layout).elsewhere(0.0, ends=ends)
    return None if elsewhere is None else elsewhere.mean(own(layout))


def leaves(layout: RunLayout, node: int, *, follows: bool = False) -> None:
    """Do what the bridge does when a node is gone."""
    assert layout.board is not None
    layout.board.set_node(node, "present", 0)
    for rank in layout.plan.ranks.learners_of(node):
        layout.board.set_rank(rank, "mirrored", 0)
        layout.control.set_alive(rank, False)
        if follows:
            slots = ParameterSlots(layout.arrays, rank)
            slots.payload[slots.begin_write()] = 99.0
            slots.end_write(incarnation=FOLLOWS, round_=1, version=1, checksum=0)


def test_it_is_of_own_parameters_and_of_what_has_come(tmp_path: Path) -> None:
    found = mean(arrived(laid_out(0, tmp_path)[1]))
    assert found is not None
    assert (found.learners, found.vector[0]) == (4, 4.0)
    assert found.vector.dtype == np.float32


def test_only_the_lowest_node_that_is_there_has_it(tmp_path: Path) -> None:
    layout = arrived(laid_out(1, tmp_path)[1])
    assert mean(layout) is None, "node 0 saves it"
    leaves(layout, 0)
    assert mean(layout) is None, "of nobody else"
    assert mean(laid_out(0, tmp_path, 1)[1]) is None, "a run on one machine"


@pytest.mark.parametrize("away", ["dead", "nothing of it has come", "its mirror follows"])
def test_a_learner_that_is_away_does_not_count(away: str, tmp_path: Path) -> None:
    layout = arrived(laid_out(0, tmp_path)[1])
    board, rank = layout.board, layout.plan.ranks.remote[0]
    assert board is not None
    if away == "dead":
        layout.control.set_alive(rank, False)
    elif away == "nothing of it has come":
        board.set_rank(rank, "mirrored", 0)
    else:  # between the check and the copy
        slots = ParameterSlots(layout.arrays, rank)
        slots.payload[slots.begin_write()] = 99.0
        slots.end_write(incarnation=FOLLOWS, round_=1, version=1, checksum=0)
    found = mean(layout)
    assert found is not None
    assert (found.learners, found.vector[0]) == (3, pytest.approx(10.0 / 3.0))


@pytest.mark.parametrize(
    ("passed_s", "ends", "learners"), [(4.9, True, 4), (5.1, True, None), (0.1, False, None)]
)
@pytest.mark.parametrize("node", [0, 1])
def test_a_node_that_has_ended_a_moment_before_counts_at_the_end(
    node: int, passed_s: float, ends: bool, learners: int | None, tmp_path: Path
) -> None:
    """Its vectors are kept when it leaves: the bridge replaces them soon."""
    layout = arrived(laid_out(node, tmp_path)[1])
    nodes = MeanOfNodes(layout)
    nodes.follow(100.0)
    leaves(layout, 1 - node)
    nodes.follow(100.1)
    leaves(layout, 1 - node, follows=True)
    nodes.follow(100.2)
    elsewhere = nodes.elsewhere(100.1 + passed_s, ends=ends)
    found = elsewhere and elsewhere.mean(own(layout))
    assert (found and found.learners) == learners
    assert found is None or found.vector[0] == 4.0


@pytest.mark.parametrize("node", [0, 1])
@pytest.mark.parametrize("last_s", [100.05, 105.1])
def test_learners_that_end_just_before_their_node_count_at_the_end(
    last_s: float, node: int, tmp_path: Path
) -> None:
    """Its last hello says that they are dead; one that has been for longer does not count."""
    layout = arrived(laid_out(node, tmp_path)[1])
    nodes = MeanOfNodes(layout)
    nodes.follow(100.0)
    for rank in layout.plan.ranks.remote:
        layout.control.set_alive(rank, False)
    nodes.follow(last_s)
    leaves(layout, 1 - node)
    nodes.follow(last_s + 0.05)
    elsewhere = nodes.elsewhere(last_s + 0.05, ends=True)
    found = elsewhere and elsewhere.mean(own(layout))
    assert (found and (found.learners, found.vector[0])) == ((4, 4.0) if last_s < 105 else None)


def test_a_learner_that_ends_just_before_the_others_of_its_node_counts_at_the_end(
    tmp_path: Path,
) -> None:
    """Also while its node is there; but not in checkpoints of a run that goes on."""
    layout = arrived(laid_out(0, tmp_path)[1])
    nodes = MeanOfNodes(layout)
    nodes.follow(100.0)
    layout.control.set_alive(layout.plan.ranks.remote[0], False)
    nodes.follow(100.1)
    for now_s, ends, learners in ((100.1, False, 3), (100.1, True, 4), (105.1, True, 3)):
        elsewhere = nodes.elsewhere(now_s, ends=ends)
        found = elsewhere and elsewhere.mean(own(layout))
        assert found is not None
        assert found.learners == learners
    leaves(layout, 1)
    nodes.follow(100.2)
    elsewhere = nodes.elsewhere(100.2, ends=True)
    found = elsewhere and elsewhere.mean(own(layout))
    assert found is not None
    assert (found.learners, found.vector[0]) == (4, 4.0)


def test_vectors_of_a_node_that_is_gone_are_not_kept_for_ever(tmp_path: Path) -> None:
    layout = arrived(laid_out(0, tmp_path)[1])
    nodes = MeanOfNodes(layout)
    nodes.follow(100.0)
    leaves(layout, 1)
    for now_s, kept in ((100.1, 2), (105.0, 2), (105.2, 0)):
        nodes.follow(now_s)
        assert len(nodes._left) == kept


def test_a_node_that_is_back_counts_by_what_comes_from_then_on(tmp_path: Path) -> None:
    layout = arrived(laid_out(0, tmp_path)[1])
    nodes = MeanOfNodes(layout)
    nodes.follow(100.0)
    leaves(layout, 1, follows=True)
    nodes.follow(100.1)
    assert layout.board is not None
    layout.board.set_node(1, "present", 1)
    nodes.follow(100.2)
    elsewhere = nodes.elsewhere(100.2, ends=True)
    assert elsewhere is not None
    assert elsewhere.mean(own(layout)) is None
    arrived(layout, (8.0, 9.0))
    elsewhere = nodes.elsewhere(100.3, ends=True)
    assert elsewhere is not None
    found = elsewhere.mean(own(layout))
    assert found is not None
    assert (found.learners, found.vector[0]) == (4, 5.0)


def saving(layout: RunLayout, resolved: ResolvedRun, folder: Path) -> Saver:
    """What saves its learners, whose parameters are 1 and 2."""
    for rank in range(2):
        state = state_of(layout.sketch.state_sizes)
        state.tensors["parameters"][:] = rank + 1.0
        layout.states[rank].save(state, save_id=0, incarnation=0)
    identity = identity_of(resolved.plan, layout.environment, layout.sketch)
    return Saver(layout, identity, folder, pytest.fail)


@pytest.mark.parametrize("waits_s", [0.0, 20.0])
def test_a_node_that_leaves_after_the_last_poll_counts_at_the_end(
    waits_s: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long the checkpoint before the last one takes: the run has ended before."""
    resolved, layout = laid_out(0, tmp_path)
    saver, clock = saving(arrived(layout), resolved, tmp_path), SimpleNamespace(now_s=100.0)
    clock.monotonic = lambda: clock.now_s
    monkeypatch.setattr("galamp.training.checkpointing.time", clock)
    saver.poll(dict)
    wait = saver._wait
    if not waits_s:
        leaves(layout, 1)

    def slow(until_s: float, give_up: Callable[[], bool]) -> None:
        clock.now_s += waits_s
        leaves(layout, 1)
        wait(until_s, give_up)

    monkeypatch.setattr(saver, "_wait", slow)
    saver.finish({}, DEADLINE_S, lambda: False)
    assert saver.newest is not None
    found = checkpoints.load(saver.newest.path, mean=True).mean
    assert found is not None
    assert found.learners == 4


@pytest.mark.parametrize("given_up", [(), (0,), (0, 1)])
def test_a_checkpoint_has_it_and_none_of_those_that_were_given_up(
    given_up: tuple[int, ...], tmp_path: Path
) -> None:
    resolved, layout = laid_out(0, tmp_path)
    saver = saving(arrived(layout), resolved, tmp_path)
    for rank in given_up:
        saver.exclude(rank)
    saver.finish({}, DEADLINE_S, lambda: False)
    assert saver.newest is not None
    found = checkpoints.load(saver.newest.path, mean=True).mean
    assert found is not None
    of = [1.0, 2.0, 6.0, 7.0] if len(given_up) != 1 else [2.0, 6.0, 7.0]
    assert found.learners == len(of)
    for value in found.parameters.values():
        np.testing.assert_allclose(value, np.mean(of), rtol=1e-6)
