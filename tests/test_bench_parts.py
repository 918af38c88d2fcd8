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

from galamp.bench import cli, nvml, starts, tables
from galamp.bench.exchanges import costs, costs_table
from galamp.bench.limit import Limit, parts_table
from galamp.bench.neighbour import Neighbour, beside, merged
from galamp.bench.nvml import Gauge, GpuUse
from galamp.bench.parts import PARTS, Parts, block
from galamp.bench.runs import Measurement, Workload
from galamp.bench.starts import first_step_s
from galamp.display.console import table_console
from galamp.errors import RunFailed

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


class FakeNvml:
    """One GPU that draws 200 W and works half of the time."""

    class NVMLError(Exception):
        pass

    def __init__(self, gpus: int) -> None:
        self.gpus, self.clock_s = gpus, 100.0

    def nvmlInit(self) -> None:
        if self.gpus < 0:
            raise self.NVMLError("Driver Not Loaded")

    def nvmlDeviceGetCount(self) -> int:
        return self.gpus

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetName(self, device: int) -> bytes:
        return b"GPU %d" % device

    def nvmlDeviceGetUtilizationRates(self, device: int) -> SimpleNamespace:
        return SimpleNamespace(gpu=40 + 20 * device)

    def nvmlDeviceGetTotalEnergyConsumption(self, device: int) -> int:
        return int(self.clock_s * 200 * 1000)


def test_power_is_the_energy_over_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeNvml(2)
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    monkeypatch.setattr(nvml.time, "monotonic", lambda: fake.clock_s)
    gauge = Gauge()
    assert gauge.names == "GPU 0, GPU 1"
    gauge.start()
    gauge.look()
    fake.clock_s += 10.0
    assert gauge.used(frames_per_s=8000.0) == GpuUse(
        utilisation=pytest.approx(0.5), watts=pytest.approx(400), frames_per_joule=pytest.approx(20)
    )


@pytest.mark.parametrize(
    ("module", "says"),
    [(FakeNvml(-1), "Driver Not Loaded"), (FakeNvml(0), "NVML finds none"), (None, "pip install")],
)
def test_without_a_gpu_the_bench_says_so(
    module: FakeNvml | None,
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", module)
    assert cli.main(["gpu"]) == 2
    told = capsys.readouterr().err
    assert says in told
    assert told.count("\n") == 1


def test_uneven_simulators_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["gpu", "--learners", "3", "--simulators", "16"]) == 2
    assert "multiple of --learners 3" in capsys.readouterr().err


def test_gpu_columns_are_shown_where_measured() -> None:
    plain = Measurement("limit", 1, 100.0, 400.0, 1.0, 1.0, 1, 0.5, 0.0)
    used = replace(plain, system="1 learners", gpu=GpuUse(0.5, 300.0, 12.34))
    shown = io.StringIO()
    table_console(shown).print(tables.table([used, plain], "1 learners"))
    assert re.search(r"1 learners .* 50 % +300 +12\.3", shown.getvalue())
    assert "watts" not in str([c.header for c in tables.table([plain], "limit").columns])
