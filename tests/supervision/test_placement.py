"""Who runs on which processors: near the GPU, no physical core twice, none idle."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from galamp.core.config import RunConfig, from_dict
from galamp.core.machine.machine import Cpu, Gpu, Machine, inspect_cpus
from galamp.supervision.placement import CpuSet, assign_cpus, physical_cores
from galamp.supervision.plan import make_plan
from tests.support.sysfs import Socket, build


def cpus(root: Path, *cores: int, threads: int = 2) -> tuple[Cpu, ...]:
    return inspect_cpus(build(root, [Socket(each) for each in cores], threads), root)


def nodes_of(some: tuple[Cpu, ...], numbers: tuple[int, ...]) -> set[int]:
    return {cpu.node for cpu in some if cpu.number in numbers}


def cores_of(some: tuple[Cpu, ...], numbers: tuple[int, ...]) -> set[tuple[int, int]]:
    return {cpu.core for cpu in some if cpu.number in numbers}


def config(**resources: object) -> RunConfig:
    return from_dict({"environment": {"num_envs": 64}, "resources": resources})


@pytest.mark.parametrize("learners", [8, 16, 32])
def test_two_sockets_and_eight_gpus(learners: int, tmp_path: Path) -> None:
    """2 sockets x 24 cores x 2 threads; GPUs 0-3 on the first node, 4-7 on the second."""
    some = cpus(tmp_path, 24, 24)
    machine = Machine(some, tuple(Gpu(i, i // 4) for i in range(8)), 2**20)
    plan = make_plan(config(learners=learners), machine)
    seen: set[tuple[int, int]] = set()
    for rank, learner in enumerate(plan.learners):
        assert learner.device == f"cuda:{rank % 8}"
        assert nodes_of(some, learner.cpus.cores) == {rank % 8 // 4}
        assert learner.node == rank % 8 // 4, "its memory, too"
        mine, theirs = (cores_of(some, numbers) for numbers in learner.cpus)
        assert len(mine) == 1
        assert len(learner.cpus.learner) == 2, "siblings stay together"
        assert mine.isdisjoint(theirs) or mine == theirs
        assert seen.isdisjoint(mine | theirs)
        seen |= mine | theirs
    assert len(seen) == 48, "no core is idle"


def test_where_there_is_one_node_memory_lies_anywhere(tmp_path: Path) -> None:
    plan = make_plan(config(learners=2), Machine(cpus(tmp_path, 8), (), 2**20))
    assert [learner.node for learner in plan.learners] == [None, None]


def test_where_one_node_has_most_gpus_its_learners_simulate_on_the_other_too(
    tmp_path: Path,
) -> None:
    some = cpus(tmp_path, 24, 24)
    shares = assign_cpus(some, [0, 0, 0, 1], alone=True)
    assert [len(cores_of(some, share.cores)) for share in shares] == [12] * 4
    for share, node in zip(shares, [0, 0, 0, 1], strict=True):
        assert nodes_of(some, share.learner) == {node}
    assert nodes_of(some, shares[3].cores) == {1}


def test_all_gpus_on_one_node_leave_no_core_of_the_other_idle(tmp_path: Path) -> None:
    some = cpus(tmp_path, 8, 8)
    shares = assign_cpus(some, [0, 0], alone=True)
    assert sorted(n for share in shares for n in share.cores) == list(range(32))
    assert [nodes_of(some, share.learner) for share in shares] == [{0}, {0}]


@pytest.mark.parametrize("node", [None, 7])
def test_a_gpu_of_which_no_node_is_known_goes_where_cores_are_left(
    node: int | None, tmp_path: Path
) -> None:
    some = cpus(tmp_path, 4, 4)
    shares = assign_cpus(some, [0, node], alone=True)
    assert [nodes_of(some, share.cores) for share in shares] == [{0}, {1}]


def test_without_gpus_siblings_stay_together(tmp_path: Path) -> None:
    some = cpus(tmp_path, 4)
    shares = assign_cpus(some, [None] * 4, alone=False)
    assert shares == [CpuSet(pair, pair) for pair in ((0, 4), (1, 5), (2, 6), (3, 7))]


def test_more_learners_than_cores_take_a_hardware_thread_each(tmp_path: Path) -> None:
    some = cpus(tmp_path, 2)
    assert sorted(share.cores for share in assign_cpus(some, [None] * 4, alone=True)) == [
        (0,), (1,), (2,), (3,),
    ]  # fmt: skip


def test_a_learner_with_one_core_shares_it_with_its_simulators(tmp_path: Path) -> None:
    some = cpus(tmp_path, 2)
    assert assign_cpus(some, [0, 0], alone=True) == [CpuSet((0, 2), (0, 2)), CpuSet((1, 3), (1, 3))]


@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    threads=st.integers(1, 3),
    nodes=st.lists(st.none() | st.integers(0, 4), min_size=1, max_size=40),
    alone=st.booleans(),
)
def test_nobody_is_without_and_nothing_is_idle(
    sizes: list[int], threads: int, nodes: list[int | None], alone: bool
) -> None:
    some = tuple(
        Cpu(100 * socket + 10 * core + thread, (socket, core), socket)
        for socket, size in enumerate(sizes)
        for core in range(size)
        for thread in range(threads)
    )
    shares = assign_cpus(some, nodes, alone=alone)
    assert len(shares) == len(nodes)
    assert all(share.learner and share.simulators for share in shares)
    assert {n for share in shares for n in share.cores} == {cpu.number for cpu in some} or (
        len(nodes) > len(some)
    )
    if len(nodes) <= len(some):
        assert sum(len(share.cores) for share in shares) == len(some), "shares overlap"
    if len(nodes) <= len(physical_cores(some)):
        users = [cores_of(some, share.cores) for share in shares]
        assert sum(map(len, users)) == len(set().union(*users)), "a core is shared"
