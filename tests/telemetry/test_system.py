"""What the supervisor samples of the machine, and other readings for the screen."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from galamp.core.errors import RunFailed
from galamp.core.machine import process_use
from galamp.core.machine.gpu_meters import Reading
from galamp.core.machine.machine import Gpu, Machine, plain_machine
from galamp.core.machine.process_use import CoreTime, ProcessUse, core_times
from galamp.gossip.transport.publication import Publication, Source
from galamp.memory.arrays import SharedArrays
from galamp.memory.latest_observation import latest_observation
from galamp.memory.rollout_ports import SimulatorPort
from galamp.memory.rollouts import RingWake, RolloutRing, RolloutShape
from galamp.telemetry import system_monitor
from galamp.telemetry.display.system_view import system_view
from galamp.telemetry.game_frame import game_frame
from galamp.telemetry.metric_history import MAX_ROWS, MetricHistoryBuilder
from galamp.telemetry.mixed_edges import MixedEdges
from galamp.telemetry.snapshot import EdgeSnapshot
from galamp.telemetry.system_monitor import GpuMonitor, SystemMonitor, gpus_of
from galamp.telemetry.time_left import WARM_S, TimeLeft
from tests.support.snapshots import busy


def test_what_the_kernel_tells_of_cores_and_processes(tmp_path: Path) -> None:
    (tmp_path / "stat").write_text("cpu 9 9 9\ncpu0 10 0 5 80 5 0 0 0 3 3\ncpu1 1 1 1 1\nintr 5\n")
    assert core_times([0, 7], tmp_path) == {0: CoreTime(100, 15)}
    assert core_times([0], tmp_path / "none") == {}
    folder = tmp_path / "12"
    folder.mkdir()
    fields = "S 1 12 12 0 -1 4194304 100 0 0 0 70 30 5 5 20 0 1 0 99"
    (folder / "stat").write_text(f"12 (a) b) {fields}\n")
    (folder / "statm").write_text("5000 300 100 1 0 200 0\n")
    page = process_use.mmap.PAGESIZE
    assert process_use.process_use(12, tmp_path) == ProcessUse(100, 200 * page)
    assert process_use.process_use(13, tmp_path) is None


class Machinery:
    """A machine whose clock, cores and processes the test turns."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s, self.total, self.busy, self.own = 100.0, 0, 0, 0
        monkeypatch.setattr(system_monitor.time, "monotonic", lambda: self.now_s)
        monkeypatch.setattr(system_monitor, "core_times", self._cores)
        monkeypatch.setattr(system_monitor, "process_use", self._process)
        monkeypatch.setattr(system_monitor, "available_bytes", lambda: 5000)

    def _cores(self, cores: tuple[int, ...]) -> dict[int, CoreTime]:
        return {core: CoreTime(self.total, self.busy) for core in cores}

    def _process(self, pid: int) -> ProcessUse | None:
        return ProcessUse(self.own, 30) if pid < 100 else None


def test_the_load_is_told_apart_from_others(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machinery(monkeypatch)
    monitor = SystemMonitor((0, 1), lambda: (7, 8, 100), 1000, GpuMonitor({}))
    monitor.sample()
    assert monitor.reading.run_share is None
    machine.total, machine.busy, machine.own = 100, 90, 60
    monitor.sample()
    assert monitor.reading.run_share is None, "the last sample is too recent"
    machine.now_s += 2.0
    monitor.sample()
    seen = monitor.reading
    assert (seen.cores, seen.loads) == ((0, 1), (0.9, 0.9))
    assert seen.run_share == pytest.approx(0.6)
    assert seen.others_share == pytest.approx(0.3)
    assert (seen.memory_bytes, seen.free_bytes) == (1060, 5000)
    assert (seen.gpus, seen.watts, seen.gpu_note) == ((), None, "")


class Meter:
    """A meter of one GPU; its counter grows by 300 J a reading."""

    every_s = 0.0

    def __init__(self, joules: bool) -> None:
        self._joules: float | None = 0.0 if joules else None

    def names(self) -> list[str]:
        return ["H200"]

    def read(self) -> list[Reading]:
        if self._joules is not None:
            self._joules += 300.0
        return [Reading(0.5, 250.0, self._joules, 2**30, 2**37)]


@pytest.mark.parametrize(("joules", "watts"), [(True, 150.0), (False, 250.0)])
def test_power_is_counted_where_there_is_a_counter(joules: bool, watts: float) -> None:
    monitor = GpuMonitor({"cuda:1": "uuid"}, lambda uuids: Meter(joules))
    assert monitor.sample(10.0)[1] == 250.0
    (gpu,), power = monitor.sample(12.0)
    assert power == watts
    assert (gpu.device, gpu.name, gpu.utilisation, gpu.memory_bytes) == (
        "cuda:1",
        "H200",
        0.5,
        2**30,
    )


def test_the_command_of_a_note_is_shown_whole_in_a_narrow_window() -> None:
    note = "nvidia-ml-py is not installed: /opt/my-env/bin/python -m pip install 'galamp[gpu]'"
    snapshot = busy(2)
    noted = replace(snapshot, system=replace(snapshot.system, run_share=0.5, gpu_note=note))
    shown = [line.plain for line in system_view(noted, 40, 40)]
    assert max(map(len, shown)) <= 40
    assert note in " ".join(shown)


def test_without_a_driver_the_reason_is_said_and_nothing_to_install() -> None:
    def broken(uuids: object) -> Any:
        raise RunFailed("NVML: Driver Not Loaded")

    monitor = GpuMonitor({"cuda:0": "uuid"}, broken)
    assert monitor.sample(1.0) == ((), None)
    assert monitor.note == "no figures: NVML: Driver Not Loaded"


def test_only_gpus_that_learners_use_are_read() -> None:
    machine = plain_machine([0], 0, 10)
    gpus = (Gpu(0, uuid="a"), Gpu(1, uuid="b"), Gpu(2))
    found = gpus_of(Machine(machine.cpus, gpus, 10), ["cuda:1", "cuda:2", "cuda:1"])
    assert found == {"cuda:1": "b"}


def test_the_time_left_is_calm() -> None:
    """Not 17 m at 8 s, 9 m at 38 s, 3 m at 69 s."""
    left = TimeLeft()
    left.add(0.0, 0)
    left.add(WARM_S - 1, 700)
    assert left.seconds(WARM_S - 1, 10_000) is None
    told = []
    for second in range(int(WARM_S), 60):
        steps = 100 * second + (30 if second % 2 else -30)
        left.add(float(second), steps)
        told.append((second, left.seconds(float(second), 100_000 - steps)))
    ends = [round(second + (seconds or 0.0)) for second, seconds in told]
    assert len(set(ends)) <= 4, "else it counts down"
    assert abs(ends[-1] - 1000) < 100


def test_ages_count_rounds_of_the_receiver() -> None:
    edges = MixedEdges()
    edges.add([Publication(1, n, 10 + n, 0, 0, 1.0, 0.5, ()) for n in range(3)])
    mixed = (Source(0, 5, 0.25), Source(2, 6, 0.25))
    edges.add([Publication(1, 3, 13, 0, 0, 1.0, 0.5, mixed)])
    edges.add([Publication(1, 4, 14, 0, 0, 1.0, 0.5, (Source(0, 7, 0.5),))])
    edges.add([Publication(1, 5, 15, 0, 0, 1.0, 1.0, ())])
    assert edges.reading() == [EdgeSnapshot(0, 1, 1, 2, 0.5), EdgeSnapshot(2, 1, 2, 1, 0.25)]


def test_the_history_stays_small_and_keeps_the_newest_row() -> None:
    builder = MetricHistoryBuilder(1)
    numbers = set()
    for step in range(3 * MAX_ROWS):
        builder.add({"global_step": step, "charts/SPS": step / 3, "learner0/SPS": None})
        assert builder.reading is not None
        numbers.add(builder.reading.number)
        assert builder.reading.steps[-1] == step
        assert len(builder.reading.steps) <= MAX_ROWS + 1
    assert len(numbers) == 3 * MAX_ROWS, "each reading can be told from the last"
    assert builder.reading is not None
    assert list(builder.reading.columns) == ["charts/SPS"]
    assert builder.reading.columns["charts/SPS"][-1] == float(f"{step / 3:.5g}")


def test_the_newest_observation_is_read_without_a_trace() -> None:
    shape = RolloutShape(3, 4, 2, (2, 20, 20), "uint8")
    arrays = SharedArrays.create(RolloutRing.specs(0, shape))
    assert latest_observation(arrays, 0, shape, 3) is None
    ports = [SimulatorPort(arrays, 0, shape, RingWake.create(2), worker) for worker in range(2)]
    outcome = {"valid": np.ones(2, np.bool_)}
    for port in ports:
        port.arrive()
        port._answer(1, 0, np.zeros((2, 2, 20, 20), np.uint8))
    for step in range(1, 8):
        ports[1].write(np.full((2, 2, 20, 20), step, np.uint8), **outcome)
        before = bytes(arrays._memory)
        seen = latest_observation(arrays, 0, shape, 3)
        assert seen is not None
        assert (seen.shape, set(seen.ravel())) == ((2, 20, 20), {step})
        assert bytes(arrays._memory) == before
    other = latest_observation(arrays, 0, shape, 0)
    assert other is not None
    assert not other.any(), "its simulator has written one row"


def test_a_stack_of_frames_is_shown_by_its_newest_and_a_vector_by_its_numbers() -> None:
    stack = np.stack([np.full((20, 30), level, np.uint8) for level in (1, 2)])
    frame = game_frame(stack, 0, 3)
    assert (frame.width, frame.height, frame.env_index) == (30, 20, 3)
    assert bytes.fromhex(frame.pixels) == b"\x02" * 600
    vector = game_frame(np.array([0.5, -1.0], np.float32), 0, 0)
    assert (vector.width, vector.pixels, vector.values) == (0, "", (0.5, -1.0))
