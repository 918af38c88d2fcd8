"""The bench's bare parts, ceiling and gossip costs, on small things."""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from galamp.core.errors import RunFailed
from galamp.core.machine.machine import plain_machine
from galamp.telemetry.display.console import table_console
from galamp.tools.bench import cli, starts, tables
from galamp.tools.bench.exchanges import costs, costs_table
from galamp.tools.bench.gpu import command
from galamp.tools.bench.limit import Limit, ceiling, means, parts_table
from galamp.tools.bench.neighbour import Neighbour, beside, merged
from galamp.tools.bench.nvml import COUNTED, GpuUse
from galamp.tools.bench.parts import (
    ACT,
    EMULATE,
    GOSSIP,
    LEARN,
    PARTS,
    DeviceParts,
    Emulator,
    Parts,
    block,
    shares,
)
from galamp.tools.bench.runs import Measurement, Workload
from galamp.tools.bench.starts import first_step_s
from galamp.tools.bench.synthetic import ATARI, synthetic_learners, take_turns

pytestmark = [pytest.mark.real, pytest.mark.counted]  # for they start processes

CARTPOLE = Workload("CartPole-v1", "", learners=1, num_envs=4, network="mlp")


@pytest.fixture(autouse=True)
def same_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def launcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stands for bin/galamp, which would make an environment in a tree that has none."""
    path = tmp_path / "launcher"
    path.write_text(
        f'#!/bin/sh\necho started >> "{tmp_path}/starts"\nexec "{sys.executable}" -m galamp "$@"\n'
    )
    path.chmod(0o755)
    monkeypatch.setattr(starts, "LAUNCHER", path)
    return path


def test_a_block_times_every_part_of_real_training() -> None:
    parts = Parts("CartPole-v1", 4, "mlp")
    before = parts.algorithm.parameters.data.clone()
    costs_ms = block(parts)
    assert list(costs_ms) == list(PARTS)
    assert all(0.0 < cost < 100.0 for cost in costs_ms.values())
    assert parts.algorithm.version > 0
    assert not torch.equal(parts.algorithm.parameters.data, before)


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.parametrize(
    ("device", "says"),
    [("cuda", "shows 0 GPUs to torch; use --device cpu"), ("tpu", "expected auto, cpu, cuda")],
)
def test_gossip_on_what_is_not_there_is_refused(
    device: str, says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert cli.main(["gossip", "--device", device]) == 2
    told = capsys.readouterr().err
    assert says in told
    assert told.count("\n") == 1


@pytest.mark.real
@pytest.mark.slow
def test_start_times_a_real_start(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["start", "--learners", "1", "--num-envs", "2", "--network", "gala", "--repeats", "1"]
    assert cli.main(words) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if "1 learner" in line)
    assert float(line.split()[2]) > 0.5, "less than it takes to load torch"


def test_a_start_that_fails_is_told(launcher: Path) -> None:
    nothing = Workload("ALE/Nothing-v5", "nothing", 1, 2, "gala")
    with pytest.raises(RunFailed, match=r"ended at its start: galamp: .*Nothing"):
        first_step_s(nothing)
    assert launcher.with_name("starts").exists(), "it started something else"


@pytest.mark.slow
@pytest.mark.real
def test_a_small_program_is_measured_beside_a_run() -> None:
    found = beside(Workload("ALE/Pong-v5", "pong", 1, 2, "gala"), (), 0.1)
    assert found.agent_steps_per_s > 0
    assert min(found.late_ms) > 0
    assert min(found.stretch) >= 0.99, "less time than the processor needs"


@pytest.mark.slow
def test_neighbour_prints_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--learners", "1", "--num-envs", "2", "--network", "gala"]
    assert cli.main(["neighbour", *words, "--seconds", "0.1", "--repeats", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name in ("nothing", "a run", "a run with --nice 0", "a run with --no-pin"):
        found = next(line for line in lines if re.match(rf"  {name}  ", line)).split()
        assert len(found) == len(name.split()) + 5 + (name != "nothing")


def test_what_neighbours_met_in_several_rounds_is_taken_together() -> None:
    rounds = [Neighbour((1.0, 2.0), (3.0,), 10.0), Neighbour((4.0,), (5.0, 6.0), 30.0)]
    assert merged(rounds) == Neighbour((1.0, 2.0, 4.0), (3.0, 5.0, 6.0), 20.0)


def test_a_neighbour_that_cannot_start_is_told() -> None:
    nothing = Workload("ALE/Nothing-v5", "nothing", 1, 2, "gala")
    with pytest.raises(RunFailed, match=r"ended at its start: galamp: .*Nothing"):
        beside(nothing, (), 0.1)


PLAIN = Measurement("limit", 1, 100.0, 400.0, 1.0, 1.0, 1, 0.5, 0.0)


def table_of(measurements: list[Measurement]) -> str:
    shown = io.StringIO()
    table_console(shown).print(tables.table(measurements, measurements[0].system))
    return shown.getvalue()


def test_gpu_columns_are_shown_where_measured() -> None:
    used = replace(PLAIN, system="1 learners", gpu=GpuUse(0.5, 300.0, 12.34, COUNTED))
    assert re.search(r"1 learners .* 50 % +300 +12\.3", table_of([used, PLAIN]))
    assert tables.gpu_remarks([used, PLAIN]) == [
        "Watts: of the GPUs of the run alone, by energy counter."
    ]
    assert "watts" not in table_of([PLAIN])
    assert tables.gpu_remarks([PLAIN]) == []


def test_what_a_gpu_does_not_tell_is_a_dash() -> None:
    silent = replace(PLAIN, gpu=GpuUse(None, None, None))
    assert re.search(r"limit .* 50 % +- +- +- *$", table_of([silent]), re.MULTILINE)
    assert "can be read" in tables.gpu_remarks([silent])[0]
    busy = replace(PLAIN, gpu=GpuUse(0.25, None, None))
    assert re.search(r"limit .* 25 % +- +- *$", table_of([busy]), re.MULTILINE)
    # Of two rounds, one tells nothing: a median of the other would pass for both.
    assert re.search(r"limit .* 50 % +- +- +- *$", table_of([busy, silent]), re.MULTILINE)


# Parts on a device


def test_a_learner_on_synthetic_data_learns_and_gossips() -> None:
    learners = synthetic_learners(ATARI, learners=2, num_envs=2, network="gala", device="cpu")
    before = [learner.algorithm.parameters.data.clone() for learner in learners]
    gauges = take_turns(learners, 3)
    assert 1.0 < gauges["entropy"] < 1.4
    assert gauges["value_loss"] > 0
    for learner, old in zip(learners, before, strict=True):
        assert learner.algorithm.version == 3
        assert learner.status.metrics["sent"] == 3
        assert learner.status.metrics["mixes"] >= 2
        assert learner.collector.agent_steps == learner.steps_per_turn == 10
        assert not torch.equal(learner.algorithm.parameters.data, old)


def test_what_synthetic_simulators_write_is_what_is_learned_from() -> None:
    (learner,) = synthetic_learners(ATARI, learners=1, num_envs=4, network="gala", device="cpu")
    seen = [
        vars(learner.collector.collect(number).mapped(torch.Tensor.clone)) for number in range(3)
    ]
    assert torch.equal(seen[0]["observations"][-1], seen[1]["observations"][0])
    assert len({one["observations"][0].sum().item() for one in seen}) == 3
    assert all(bool(one["valid"].all()) for one in seen)
    rewards = torch.stack([one["rewards"] for one in seen])
    assert set(rewards.unique().tolist()) == {-1.0, 0.0, 1.0}


def test_a_device_block_times_act_learn_and_gossip() -> None:
    environment = Emulator("CartPole-v1", 1).spec
    sizes = {"num_envs": 4, "network": "mlp", "device": "cpu"}
    parts = DeviceParts(environment, learners=4, **sizes)  # type: ignore[arg-type]
    costs_ms = parts.block()
    assert list(costs_ms) == [ACT, LEARN, GOSSIP]
    assert all(0.0 < cost < 100.0 for cost in costs_ms.values())


def words_of_cores(device: str, learners: int, cores: int) -> list[tuple[int, list[object]]]:
    options = SimpleNamespace(device=device, learners=learners, num_envs=60)
    return list(shares(list(range(cores)), options))  # type: ignore[arg-type]


def test_on_a_gpu_some_cores_learn_and_the_others_emulate() -> None:
    assert words_of_cores("cpu", 2, 2) == [(0, []), (1, [])]
    learn = ["--part", LEARN]
    emulate: list[object] = ["--part", EMULATE, "--num-envs"]
    assert words_of_cores("cuda:0", 2, 5) == [
        (0, learn),
        (1, learn),
        *((core, [*emulate, 40]) for core in (2, 3, 4)),
    ]
    # With fewer cores than learners, the last one does both.
    assert words_of_cores("cuda:0", 4, 2) == [(0, learn), (1, learn), (1, [*emulate, 120])]
    assert words_of_cores("cuda:0", 1, 64)[-1] == (63, [*emulate, 1])


def test_the_slower_of_emulation_and_learning_is_the_ceiling() -> None:
    every = {EMULATE: 0.25, ACT: 0.15, LEARN: 0.1}
    assert ceiling([every, every]) == pytest.approx(4000.0)
    emulating, learning = {EMULATE: 0.5}, {ACT: 0.03, LEARN: 0.015, GOSSIP: 0.005}
    assert ceiling([learning, emulating, emulating]) == pytest.approx(4000.0)
    slow = {ACT: 0.5, LEARN: 0.4, GOSSIP: 0.1}
    assert ceiling([slow, slow, *[emulating] * 9]) == pytest.approx(2000.0)
    assert means([learning, {EMULATE: 0.5}, {EMULATE: 0.7}]) == {
        EMULATE: pytest.approx(0.6),
        **learning,
    }


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--device gpu", "'gpu': expected cpu, cuda or cuda:N"),
        ("--device cuda:01", "'cuda:01': expected"),
        ("--device cuda", "bench gpu needs a GPU"),
    ],
)
def test_limit_on_a_gpu_that_is_not_there(
    words: str, says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "inspect_machine", lambda device: plain_machine([0], 0, 64))
    try:
        code = cli.main(["limit", *words.split()])
    except SystemExit as left:
        code = left.code  # type: ignore[assignment]
    told = capsys.readouterr().err
    assert code == 2
    assert says in told
    assert told.count("\n") == 1


def test_a_gpu_beyond_those_that_are_there_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "inspect_machine", lambda device: plain_machine([0], 2, 64))
    assert cli.main(["limit", "--device", "cuda:2"]) == 2
    assert "torch sees 2 GPUs here" in capsys.readouterr().err
