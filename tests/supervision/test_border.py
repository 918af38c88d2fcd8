"""What a node has for the learners of other nodes: memory, seeds, wake-ups, the bridge's task."""

from __future__ import annotations

from pathlib import Path

import pytest

from galamp.core.action_spec import DiscreteActions
from galamp.core.config import GossipConfig, RunConfig, from_dict
from galamp.core.machine.machine import plain_machine
from galamp.core.nodes import Ranks
from galamp.environments.base import EnvironmentSpec
from galamp.gossip import cluster
from galamp.gossip.schedule import Schedule
from galamp.memory.arrays import size_of
from galamp.storage.run_folder import StoredChoices
from galamp.supervision.children import Children
from galamp.supervision.layout import RunLayout, array_specs, sketch_model
from galamp.supervision.plan import with_learners
from galamp.telemetry.node_readings import NodeReadings
from galamp.telemetry.snapshot import NodeSnapshot
from galamp.training.resolve import ResolvedRun, resolve_run
from galamp.workers.learner import Learner

MACHINE = plain_machine(range(4), 0, 2**20)
TURNS = 100
CARTPOLE = EnvironmentSpec("CartPole-v1", (4,), "float32", DiscreteActions(2), (), 1, False, "")


@pytest.fixture(autouse=True)
def _port(monkeypatch: pytest.MonkeyPatch) -> None:
    toy = "tests.support.toy_port:InOneProcess"
    monkeypatch.setitem(cluster.PORTS, cluster.ZENOH, toy)


def config(node: int, nodes: int = 2, learners: int = 2, **gossip: object) -> RunConfig:
    joined = ",".join(f"tcp/127.0.0.1:{7000 + n}" for n in range(nodes))
    place = {"nodes": nodes, "node_rank": node, "join": joined} if nodes > 1 else {}
    return from_dict(
        {
            "environment": {"env_id": "CartPole-v1", "num_envs": 4},
            "resources": {"learners": learners, "simulator_workers": 1, "device": "cpu"},
            "cluster": place,
            "gossip": gossip,
        }
    )


def laid_out(
    node: int, tmp_path: Path, nodes: int = 2, learners: int = 2, **gossip: object
) -> tuple[ResolvedRun, RunLayout]:
    resolved = resolve_run(config(node, nodes, learners, **gossip), MACHINE, StoredChoices())
    sketch = sketch_model(resolved.plan, CARTPOLE)
    return resolved, RunLayout(resolved.plan, resolved.topology, CARTPOLE, sketch, tmp_path, 1)


def test_nodes_have_the_seeds_and_rates_of_one_machine_with_all_learners(tmp_path: Path) -> None:
    alone = resolve_run(config(0, 1, learners=4), MACHINE, StoredChoices())
    sketch = sketch_model(alone.plan, CARTPOLE)
    whole = RunLayout(alone.plan, alone.topology, CARTPOLE, sketch, tmp_path, 1)
    wanted = [whole.learner(rank, 0)[1] for rank in range(4)]
    found = []
    for node in range(2):
        _, layout = laid_out(node, tmp_path)
        found += [layout.learner(rank, 0)[1] for rank in range(2)]
        assert layout.simulator(1, 0, 0)[1].seeds == whole.simulator(2 * node + 1, 0, 0)[1].seeds
    for one, other in zip(found, wanted, strict=True):
        assert (one.model_seed, one.sampling_seed) == (other.model_seed, other.sampling_seed)
        assert one.algorithm.learning_rate == other.algorithm.learning_rate
    assert [task.place.among_all(task.rank) for task in found] == [0, 1, 2, 3]


def coins(layout: RunLayout, rank: int) -> list[bool]:
    """After which of its turns a learner that begins gossips."""
    if layout.board is not None:
        layout.board.settle()
    schedule = Learner(layout.learner(rank, 0)[1]).exchange._schedule
    return [schedule.due(turn) for turn in range(1, TURNS + 1)]


def test_learners_of_all_nodes_toss_the_coins_of_one_machine_with_all_of_them(
    tmp_path: Path,
) -> None:
    """Each has its own, also those in the same lane of two nodes."""
    half = GossipConfig(gossip_probability=0.5)
    wanted = [Schedule(half, 1, rank) for rank in range(4)]
    expected = [[each.due(turn) for turn in range(1, TURNS + 1)] for each in wanted]
    assert len(set(map(tuple, expected))) == 4
    alone = laid_out(0, tmp_path, nodes=1, learners=4, gossip_probability=0.5)[1]
    assert [coins(alone, rank) for rank in range(4)] == expected
    nodes = [laid_out(node, tmp_path, gossip_probability=0.5)[1] for node in range(2)]
    assert [coins(layout, rank) for layout in nodes for rank in range(2)] == expected


def test_the_bridge_is_one_more_child_and_the_mirrors_are_nobodys(tmp_path: Path) -> None:
    resolved, layout = laid_out(1, tmp_path)
    children = Children(layout)
    assert [child.title for child in children.all] == [
        "bridge", "learner 0", "learner 1", "simulator 0.0", "simulator 1.0",
    ]  # fmt: skip
    spec, task = layout.bridge(0)
    assert (spec.title, spec.target, Path(spec.log).name) == (
        "bridge", "galamp.workers.bridge:main", "bridge.log",
    )  # fmt: skip
    assert task.ranks == Ranks(1, 2, 2)
    assert len(task.wakeups) == layout.topology.size == 4
    assert task.wakeups[2] is task.wakeups[3] is task.wakeup
    assert [layout.control.incarnation(rank) for rank in range(4)] == [0, 0, 1, 1]
    board = layout.board
    assert board is not None
    for rank in (2, 3):
        board.set_rank(rank, "alive", 1)
    children.check(0.1)
    assert not layout.control.alive(2), "as long as no bridge runs, it cannot know"
    board.set_node(0, "received", 7)
    readings = NodeReadings(layout)
    assert readings.snapshots() == (NodeSnapshot(0, (2, 3), False, received=7),)
    readings.sample(100.0)
    board.set_node(0, "received", 17)
    board.set_node(0, "sent", 4)
    readings.sample(102.0)
    (node,) = readings.snapshots()
    frame = 4 * layout.arrays["parameters0"].shape[1]  # and a header
    assert 1 < node.received_per_s / (5 * frame) < 1.1
    assert node.sent_per_s == pytest.approx(node.received_per_s * 2 / 5)
    rows = [layout.status_board.learner(rank) for rank in range(4)]
    rows.append(layout.status_board.bridge())
    for steps, row in enumerate(rows, 1):
        row["agent_steps"] = steps
    layout.status_board.simulator(0)["agent_steps"] = 1000
    assert layout.status_board.agent_steps() == 15
    assert len(list(layout.status_board.learners())) == 2
    kept = with_learners(resolved.plan.asked, 2, MACHINE, resolved.plan.learners)
    assert kept.algorithm.learning_rate is None, "the usual one of four is chosen again"


@pytest.mark.parametrize("gossip_optimizer", [False, True])
def test_the_bridge_knows_how_many_numbers_of_a_vector_are_parameters(
    tmp_path: Path, gossip_optimizer: bool
) -> None:
    _, layout = laid_out(0, tmp_path, gossip_optimizer=gossip_optimizer)
    sizes, task = layout.sketch.state_sizes, layout.bridge(0)[1]
    assert task.parameters == sizes["parameters"]
    sent = sum(sizes.values()) if gossip_optimizer else sizes["parameters"]
    assert layout.arrays["parameters2"].shape[1] == sent


@pytest.mark.parametrize(
    ("gossip", "expected"),
    [
        ({"topology": "hierarchical"}, True),
        ({"topology": "hierarchical", "max_staleness": "inf"}, True),
        ({"topology": "hierarchical", "max_staleness": 2}, True),
        ({"topology": "hierarchical", "max_staleness": 1}, False),
        ({"topology": "ring"}, False),
        ({"topology": "complete"}, False),
        ({"topology": "bidirectional-ring"}, False),
        ({"topology": "one-peer-exponential"}, False),
    ],
)
def test_the_bridge_sends_late_only_where_no_learner_waits_for_it(
    tmp_path: Path, gossip: dict[str, object], expected: bool
) -> None:
    """Or mixes less within the node, as where a round has in-peers here and there."""
    _, layout = laid_out(0, tmp_path, **gossip)
    assert layout.bridge(0)[1].paced == expected


def test_a_run_on_one_machine_has_nothing_more(tmp_path: Path) -> None:
    resolved, layout = laid_out(0, tmp_path, nodes=1)
    assert layout.board is None
    assert NodeReadings(layout).snapshots() == ()
    assert Children(layout).all[0].title == "learner 0"
    names = {spec.name for spec in layout.arrays.specs}
    assert not any(name.startswith("cluster") for name in names)
    on_two = resolve_run(config(0), MACHINE, StoredChoices())
    args = (CARTPOLE, layout.sketch)
    more = size_of(array_specs(on_two.plan, on_two.topology, *args))
    assert more > size_of(array_specs(resolved.plan, resolved.topology, *args))


def test_memory_of_mirrors_is_near_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine with several NUMA nodes every array has a learner near it, or none."""
    from galamp.memory.arrays import SharedArrays

    given = []
    create = SharedArrays.create

    def noted(specs, nodes=()):  # type: ignore[no-untyped-def]
        given.append((specs, nodes))
        return create(specs, ())

    monkeypatch.setattr(SharedArrays, "create", noted)
    laid_out(0, tmp_path)
    ((specs, nodes),) = given
    assert max(spec.near for spec in specs if spec.near is not None) < len(nodes) == 4
