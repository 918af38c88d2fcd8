"""Which node this is and how the others are reached, from settings and launchers' variables."""

from __future__ import annotations

from dataclasses import replace

import pytest

from galamp.core.cluster_config import ClusterConfig
from galamp.core.errors import UserError
from galamp.core.nodes import KUBERNETES, Place, Ranks, is_loopback, place_of

A, B, C = (f"tcp/127.0.0.1:{port}" for port in (7447, 7448, 7449))
TWO = ClusterConfig(nodes=2, node_rank=0, join=A)


def test_a_run_on_one_machine_has_no_place() -> None:
    launched = {"SLURM_NODEID": "3", "SLURM_NNODES": "4", "GROUP_RANK": "1"}
    assert place_of(ClusterConfig(), launched) is None
    for alone in (ClusterConfig(join=A), ClusterConfig(insecure_network=True)):
        with pytest.raises(UserError, match="give --nodes"):
            place_of(alone, {})


def test_each_node_connects_to_those_before_it() -> None:
    three = [ClusterConfig(nodes=3, node_rank=n, join=f"{A}, {B}") for n in range(3)]
    assert [place_of(each, {}) for each in three] == [
        Place(0, 3, (A,), ()),
        Place(1, 3, (B,), (A,)),
        Place(2, 3, (), (A, B)),
    ]
    last = ClusterConfig(nodes=3, node_rank=2, join=f"{A},{B},{C}")
    assert place_of(last, {}) == Place(2, 3, (C,), (A, B))


@pytest.mark.parametrize(
    ("environ", "node"),
    [
        ({"SLURM_NODEID": "1", "SLURM_NNODES": "2"}, 1),
        ({"SLURM_NODEID": "0", "SLURM_NNODES": "1"}, 0),  # as sbatch shows it outside of srun
        ({"GROUP_RANK": "1", "GROUP_WORLD_SIZE": "2"}, 1),
        ({"JOB_COMPLETION_INDEX": "1"}, 1),
        ({KUBERNETES: "10.0.0.1", "HOSTNAME": "galamp-1"}, 1),
    ],
)
def test_launchers_say_which_node_it_is(environ: dict[str, str], node: int) -> None:
    found = place_of(ClusterConfig(nodes=2, join=A), environ)
    assert found is not None
    assert found.node == node
    given = place_of(TWO, environ)
    assert given is not None
    assert given.node == 0, "what is given is taken"


@pytest.mark.parametrize(
    ("config", "environ", "wrong"),
    [
        (ClusterConfig(nodes=2, join=A), {}, "which of them is this"),
        (ClusterConfig(nodes=2, join=A), {"HOSTNAME": "galamp-1"}, "which of them is this"),
        (ClusterConfig(nodes=2, join=A), {"SLURM_NODEID": "x"}, "which of them is this"),
        (ClusterConfig(nodes=2, node_rank=2, join=A), {}, "--nodes 2 are 0 to 1"),
        (TWO, {"SLURM_NNODES": "3"}, "SLURM_NNODES is 3"),
        (ClusterConfig(nodes=2, node_rank=0), {}, "0 addresses, .* that of machine 0"),
        (ClusterConfig(nodes=3, node_rank=0, join=A), {}, "1 addresses, .* machines 0 to 1"),
        (ClusterConfig(nodes=2, node_rank=0, join=f"{A},{B},{C}"), {}, "3 addresses"),
        (ClusterConfig(nodes=2, node_rank=0, join="127.0.0.1:1"), {}, "expected tls/HOST:PORT"),
        (ClusterConfig(nodes=2, node_rank=0, join="tcp/a:70000"), {}, "expected tls/HOST:PORT"),
        (ClusterConfig(nodes=2, node_rank=0, join="udp/a:7"), {}, "expected tls/HOST:PORT"),
        (ClusterConfig(nodes=2, node_rank=0, join="tcp/a#x=1:7"), {}, "expected tls/HOST:PORT"),
        (ClusterConfig(nodes=2, node_rank=0, join="tcp/10.0.0.1:7447"), {}, "read and alter"),
        (ClusterConfig(nodes=2, node_rank=0, join="tcp/127.0.0.1.evil:7"), {}, "read and alter"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(
    config: ClusterConfig, environ: dict[str, str], wrong: str
) -> None:
    with pytest.raises(UserError, match=wrong) as refused:
        place_of(config, environ)
    assert "\n" not in str(refused.value)


def test_where_a_node_is_reached_at_another_address_it_listens_at_its_own() -> None:
    own = ClusterConfig(nodes=2, node_rank=0, join=A, listen=B)
    assert place_of(own, {}) == Place(0, 2, (B,), ())
    for wrong, why in [
        (ClusterConfig(nodes=2, node_rank=1, join=A, listen=B), "nobody connects to this machine"),
        (ClusterConfig(nodes=2, node_rank=0, join=A, listen="tcp/0.0.0.0:7"), "read and alter"),
        (ClusterConfig(nodes=2, node_rank=0, join=A, listen="0.0.0.0:7"), "expected tls/HOST:PORT"),
        (ClusterConfig(listen=A), "give --nodes"),
    ]:
        with pytest.raises(UserError, match=why):
            place_of(wrong, {})


def test_gloo_takes_no_keys_and_no_other_address_than_that_of_all() -> None:
    gloo = replace(TWO, transport="gloo")
    assert place_of(gloo, {}) == place_of(TWO, {})
    for wrong, why in [
        (replace(gloo, keys="keys", join="tls/a:7"), "cannot encrypt"),
        (replace(gloo, join="tls/a:7"), "cannot encrypt"),
        (replace(gloo, listen=B), "opens more ports"),
        (replace(gloo, join="tcp/10.0.0.1:7"), "use zenoh with tls/ and --keys .*, or --insecure"),
        (ClusterConfig(transport="gloo"), "give --nodes"),
    ]:
        with pytest.raises(UserError, match=why):
            place_of(wrong, {})


def test_an_open_network_is_taken_if_that_is_wanted() -> None:
    wanted = ClusterConfig(nodes=2, node_rank=1, join="tcp/10.0.0.1:7447", insecure_network=True)
    assert place_of(wanted, {}) == Place(1, 2, (), ("tcp/10.0.0.1:7447",))


def test_what_is_this_machine_itself() -> None:
    here = ("tcp/127.0.0.1:1", "tcp/127.9.9.9:1", "tcp/localhost:1", "tcp/[::1]:1")
    assert all(map(is_loopback, here))
    there = ("tcp/0.0.0.0:1", "tcp/[::]:1", "tcp/localhost.org:1", "tcp/128.0.0.1:1", "localhost")
    assert not any(map(is_loopback, there))


def test_every_node_numbers_all_learners_from_its_own_first_one() -> None:
    for node in range(3):
        ranks = Ranks(node, 3, 2)
        assert [ranks.among_all(rank) for rank in range(2)] == [2 * node, 2 * node + 1]
        assert [ranks.here(ranks.among_all(rank)) for rank in range(6)] == list(range(6))
        assert {ranks.node_of(rank) for rank in ranks.remote} == {0, 1, 2} - {node}
    alone = Ranks(0, 1, 4)
    assert (list(alone.remote), alone.among_all(3), alone.all) == ([], 3, 4)
