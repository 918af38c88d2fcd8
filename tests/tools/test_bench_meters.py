"""What the bench reads of GPUs: of those that a run uses alone, whatever else the machine has."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from types import SimpleNamespace

import pytest

from galamp.core.errors import RunFailed
from galamp.core.machine import gpu_meters
from galamp.core.machine.gpu_meters import Nothing, Nvml, Reading, Smi, bare, meter_of, parse_smi
from galamp.core.machine.machine import Gpu
from galamp.tools.bench import nvml
from galamp.tools.bench.nvml import COUNTED, SAMPLED, Gauge, GpuUse, uuids

FIRST, SECOND, THIRD, FOURTH = (f"{digit * 8}-0000-0000-0000-000000000000" for digit in "1234")


class FakeGpu:
    """A GPU that draws so many watts; None: what NVML does not support on it."""

    def __init__(
        self, watts: float, *, share: int | None = 50, power: bool = True, energy: bool = True
    ) -> None:
        self.watts, self.share, self.power, self.energy = watts, share, power, energy


class FakeNvml:
    """NVML with GPUs by name, in an order of its own."""

    class NVMLError(Exception):
        pass

    def __init__(self, gpus: Mapping[str, FakeGpu], driver: bool = True) -> None:
        self.gpus, self.driver, self.clock_s = dict(gpus), driver, 100.0
        self.read: set[str] = set()

    def nvmlInit(self) -> None:
        if not self.driver:
            raise self.NVMLError("Driver Not Loaded")

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        if uuid not in self.gpus:
            raise self.NVMLError("Not Found")
        return uuid

    def nvmlDeviceGetName(self, device: str) -> bytes:
        return b"GPU of %d W" % self._of(device).watts

    def nvmlDeviceGetUtilizationRates(self, device: str) -> SimpleNamespace:
        return SimpleNamespace(gpu=self._known(self._of(device).share))

    def nvmlDeviceGetPowerUsage(self, device: str) -> int:
        gpu = self._of(device)
        return int(self._known(gpu.watts * 1000 if gpu.power else None))

    def nvmlDeviceGetTotalEnergyConsumption(self, device: str) -> int:
        gpu = self._of(device)
        return int(self._known(self.clock_s * gpu.watts * 1000 if gpu.energy else None))

    def nvmlDeviceGetMemoryInfo(self, device: str) -> SimpleNamespace:
        return SimpleNamespace(used=int(self._of(device).watts * 2**20), total=2**40)

    def _of(self, device: str) -> FakeGpu:
        self.read.add(device)
        return self.gpus[device]

    def _known(self, value: float | None) -> float:
        if value is None:
            raise self.NVMLError("Not Supported")
        return value


def installed(monkeypatch: pytest.MonkeyPatch, fake: FakeNvml | None) -> None:
    """Have `fake` be the package; nvidia-smi is not there."""
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    monkeypatch.setattr(gpu_meters, "SMI", "/no/such/nvidia-smi")
    if fake is not None:
        monkeypatch.setattr(nvml.time, "monotonic", lambda: fake.clock_s)


def measured(fake: FakeNvml, *names: str) -> GpuUse:
    """Return what a gauge says of 10 s with two samples, at 8,000 frames/s."""
    gauge = Gauge(names)
    gauge.start()
    for _ in range(2):
        fake.clock_s += 5.0
        gauge.sample()
    return gauge.used(frames_per_s=8000.0)


def test_power_is_the_energy_of_the_runs_gpus_over_the_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The machine has four; the run's two are the last and the second, in this order."""
    gpus = {
        f"GPU-{FIRST}": FakeGpu(1000, share=100),
        f"GPU-{SECOND}": FakeGpu(100, share=20),
        f"GPU-{THIRD}": FakeGpu(2000, share=100),
        f"GPU-{FOURTH}": FakeGpu(300, share=60),
    }
    fake = FakeNvml(gpus)
    installed(monkeypatch, fake)
    assert Gauge([FOURTH, SECOND]).names == "GPU of 300 W, GPU of 100 W"
    assert measured(fake, FOURTH, SECOND) == GpuUse(
        utilisation=pytest.approx(0.4),
        watts=pytest.approx(400.0),
        frames_per_joule=pytest.approx(20.0),
        watts_from=COUNTED,
    )
    assert fake.read == {f"GPU-{FOURTH}", f"GPU-{SECOND}"}


@pytest.mark.parametrize("without", [(True,), (True, False)])
def test_without_an_energy_counter_power_is_sampled(
    monkeypatch: pytest.MonkeyPatch, without: tuple[bool, ...]
) -> None:
    """Also where one of two has a counter: half of one and half of the other is neither."""
    names = [FIRST, SECOND][: len(without)]
    gpus = {
        f"GPU-{name}": FakeGpu(150, energy=not lacks)
        for name, lacks in zip(names, without, strict=True)
    }
    fake = FakeNvml(gpus)
    installed(monkeypatch, fake)
    found = measured(fake, *names)
    assert found.watts == pytest.approx(150.0 * len(names))
    assert found.watts_from == SAMPLED


def test_sampled_power_is_the_mean_of_the_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = FakeGpu(100, energy=False)
    fake = FakeNvml({f"GPU-{FIRST}": gpu})
    installed(monkeypatch, fake)
    gauge = Gauge([FIRST])
    gauge.start()
    for watts in (200, 600):
        gpu.watts = watts
        gauge.sample()
    fake.clock_s += 1.0
    assert gauge.used(600.0) == GpuUse(0.5, pytest.approx(300.0), pytest.approx(2.0), SAMPLED)


def test_a_part_of_a_gpu_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under MIG torch names the part, which NVML finds and says nothing of."""
    part = FakeGpu(500, share=None, power=False, energy=False)
    fake = FakeNvml({f"GPU-{FIRST}": FakeGpu(500), f"MIG-{SECOND}": part})
    installed(monkeypatch, fake)
    assert measured(fake, SECOND) == GpuUse(None, None, None, "")
    assert fake.read == {f"MIG-{SECOND}"}


def test_an_old_gpu_tells_what_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeNvml({f"GPU-{FIRST}": FakeGpu(70, share=None, energy=False)})
    installed(monkeypatch, fake)
    assert measured(fake, FIRST) == GpuUse(
        None, pytest.approx(70.0), pytest.approx(8000 / 70), SAMPLED
    )
    mixed = FakeNvml({f"GPU-{FIRST}": FakeGpu(70, power=False, energy=False)})
    installed(monkeypatch, mixed)
    assert measured(mixed, FIRST) == GpuUse(pytest.approx(0.5), None, None, "")


def test_a_gpu_that_nvml_does_not_know_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeNvml({f"GPU-{FIRST}": FakeGpu(70)})
    installed(monkeypatch, fake)
    assert measured(fake, SECOND) == GpuUse(None, None, None, "")
    assert measured(fake, FIRST, SECOND).watts is None
    assert measured(fake) == GpuUse(None, None, None, "")


def test_prefixes_do_not_matter() -> None:
    assert {bare(FIRST), bare(f"GPU-{FIRST}"), bare(f"MIG-{FIRST}")} == {FIRST}


# nvidia-smi


ROWS = f"""GPU-{SECOND}, NVIDIA H200, 37, 512.25
GPU-{FIRST}, NVIDIA A2, [N/A], [Not Supported]
"""


def test_rows_of_nvidia_smi() -> None:
    found = parse_smi(f"warning: infoROM is corrupted\n{ROWS}\n")
    assert set(found) == {f"GPU-{FIRST}", f"GPU-{SECOND}"}
    meter = Smi([SECOND, FIRST, THIRD], lambda: ROWS)
    assert meter.names() == ["NVIDIA H200", "NVIDIA A2", ""]
    assert meter.read() == [Reading(pytest.approx(0.37), 512.25, None), Reading(), Reading()]


def test_a_failing_look_of_nvidia_smi_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    clock_s = 100.0
    monkeypatch.setattr(nvml.time, "monotonic", lambda: clock_s)
    answers = iter([ROWS, ROWS, None, ROWS.replace("512.25", "100")])

    def run() -> str:
        answer = next(answers, ROWS)
        if answer is None:
            raise RunFailed("nvidia-smi timed out")
        return answer

    gauge = Gauge([SECOND], Smi([SECOND], run))
    gauge.start()
    for _ in range(3):  # of which the first comes too soon
        gauge.sample()
        clock_s += 1.0
    found = gauge.used(100.0)
    assert found.watts == pytest.approx((512.25 + 100) / 2)
    assert found.watts_from == SAMPLED


def test_nvidia_smi_is_asked_for_what_is_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    script = tmp_path_factory.mktemp("bin") / "nvidia-smi"
    script.write_text(f'#!/bin/sh\necho "$@" >&2\ncat <<END\n{ROWS}END\n')
    script.chmod(0o755)
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setattr(gpu_meters, "SMI", str(script))
    meter = meter_of([SECOND])
    assert isinstance(meter, Smi)
    assert meter.read()[0].watts == 512.25
    script.write_text("#!/bin/sh\nexit 9\n")
    assert isinstance(meter_of([SECOND]), Nothing)


@pytest.mark.parametrize("fake", [None, FakeNvml({}, driver=False)])
def test_where_nothing_reads_gpus_nothing_is_told(
    fake: FakeNvml | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(monkeypatch, fake)
    with pytest.raises(RunFailed):
        Nvml([FIRST])
    gauge = Gauge([FIRST])
    assert gauge.names == ""
    gauge.start()
    gauge.sample()
    assert gauge.used(100.0) == GpuUse(None, None, None, "")


# UUIDs


def test_the_uuids_are_those_of_the_gpus_that_were_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    found = tuple(Gpu(index, uuid=uuid) for index, uuid in enumerate((FIRST, SECOND)))
    monkeypatch.setattr(nvml, "inspect_gpus", lambda device: (found, {}))
    assert uuids() == {"cuda:0": FIRST, "cuda:1": SECOND}


def test_gpus_that_torch_cannot_use_are_left_out_and_told_if_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    unusable = {"cuda:0": "the driver is too old"}
    found = (Gpu(1, uuid=SECOND),)
    monkeypatch.setattr(nvml, "inspect_gpus", lambda device: (found, unusable))
    assert uuids() == {"cuda:1": SECOND}
    monkeypatch.setattr(nvml, "inspect_gpus", lambda device: ((), unusable))
    with pytest.raises(RunFailed, match="cuda:0 cannot be used: the driver is too old"):
        uuids()
