"""The bench's bare parts, ceiling and gossip costs, on small things."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

from galamp.bench import cli
from galamp.bench.exchanges import costs, costs_table
from galamp.bench.limit import Limit, parts_table
from galamp.bench.parts import PARTS, Parts, block
from galamp.bench.runs import Workload
from galamp.errors import RunFailed

CARTPOLE = Workload("CartPole-v1", "", learners=1, num_envs=4, network="mlp")


@pytest.fixture(autouse=True)
def same_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_a_block_times_every_part_of_real_training() -> None:
    parts = Parts("CartPole-v1", 4, "mlp")
    before = parts.algorithm.parameters.data.clone()
    costs_ms = block(parts)
    assert list(costs_ms) == list(PARTS)
    assert all(0.0 < cost < 100.0 for cost in costs_ms.values())
    assert parts.algorithm.version > 0
    assert not torch.equal(parts.algorithm.parameters.data, before)


def test_the_ceiling_is_what_the_cores_parts_allow() -> None:
    limit = Limit(CARTPOLE)
    found = limit.measure(1, seconds=1.0, warm_up_s=1.0)
    assert found.system == "limit"
    (parts,) = limit.rounds
    cores = len(os.sched_getaffinity(0))
    assert found.agent_steps_per_s == pytest.approx(cores * 1e3 / sum(parts.values()), rel=0.5)
    assert found.processes == 1 + cores
    assert 50 < found.pss_mb < 5000
    assert parts_table(limit.rounds).row_count == len(PARTS)


def test_parts_that_fail_are_told() -> None:
    missing = Workload("NoSuchGame-v0", "", learners=1, num_envs=4, network="mlp")
    with pytest.raises(RunFailed, match="limit: a core's parts could not be measured"):
        Limit(missing).measure(1, seconds=1.0, warm_up_s=1.0)


def test_every_topology_has_its_cost() -> None:
    found = {one.topology: one for one in costs(4, 1000)}
    assert {"ring", "exponential", "complete", "star"} <= found.keys()
    assert "none" not in found
    assert found["ring"].peers == 1
    assert found["complete"].peers == 3
    assert found["complete"].read_mb == pytest.approx(3 * 4000 / 1e6)
    for one in found.values():
        assert 0 < one.quick_ms <= one.turn_ms <= one.slow_ms
    assert costs_table(list(found.values())).row_count == len(found)


@pytest.mark.parametrize("words", ["--learners 1,0", "--num-envs 8,,16", "--learners x"])
def test_wrong_lists_are_refused(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["scale", *words.split()])
    assert ended.value.code == 2
    assert "expected a whole number of at least 1" in capsys.readouterr().err


def test_gossip_prints_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["gossip", "--learners", "4", "--parameters", "100"]) == 0
    assert "random-pairs" in capsys.readouterr().out
