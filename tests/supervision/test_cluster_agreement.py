"""What all machines of a run must agree on: graphs that differ are refused, equal ones are not."""

from __future__ import annotations

from pathlib import Path

import pytest

from galamp.core.config import GossipConfig, RunConfig
from galamp.core.nodes import Ranks
from galamp.gossip.topologies import make_topology
from galamp.supervision.cluster import about_run

RANKS = Ranks(0, 2, 2)


def about(**gossip: object) -> str:
    config = GossipConfig(**gossip)  # type: ignore[arg-type]
    graph = make_topology(config.topology, RANKS.all, config.gossip_weights)
    return about_run(RunConfig(gossip=config), RANKS, "CartPole-v1", "mlp", 7, graph)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"topology": "ring"}, {"topology": "complete"}),
        ({"topology": "star"}, {"topology": "star", "gossip_weights": "uniform"}),
        ({}, {"global_average_every": 4}),
        ({}, {"gossip_optimizer": True}),
    ],
)
def test_what_changes_averages_must_be_the_same(
    one: dict[str, object], other: dict[str, object]
) -> None:
    assert about(**one) != about(**other)


def test_of_a_graph_in_a_file_counts_what_it_holds_not_where_it_lies(tmp_path: Path) -> None:
    ring, other = "0 1 0 0\n0 0 1 0\n0 0 0 1\n1 0 0 0\n", "0 0 1 0\n0 0 0 1\n0 1 0 0\n1 0 0 0\n"
    texts = {"a": ring, "b": ring, "c": other}
    for name, text in texts.items():
        (tmp_path / f"{name}.csv").write_text(text)
    of = {name: about(topology=f"file:{tmp_path / name}.csv") for name in texts}
    assert of["a"] == of["b"]
    assert of["a"] != of["c"]
