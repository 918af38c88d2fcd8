"""System monitor: what the run takes of processors, memory and GPUs, sampled every two seconds.

    /proc, NVML --SystemMonitor.sample--> SystemReading --> Snapshot, metrics.jsonl

Runs in the supervisor; it only reads. A sample takes about a millisecond, and two file reads per
process. Of a process that ends between two samples, the last part is missed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from galamp.core.errors import RunFailed
from galamp.core.machine.gpu_meters import Meter, Nvml, Reading
from galamp.core.machine.machine import Machine
from galamp.core.machine.memory import UNLIMITED_BYTES, available_bytes
from galamp.core.machine.process_use import CoreTime, ProcessUse, core_times, process_use
from galamp.telemetry.snapshot import GpuReading, SystemReading

SAMPLE_EVERY_S = 2.0


class GpuMonitor:
    """The GPUs of a run, by device; opened at the first sample."""

    def __init__(
        self, gpus: Mapping[str, str], open_meter: Callable[[Sequence[str]], Meter] = Nvml
    ) -> None:
        """Watch `gpus`, device -> UUID."""
        self._gpus, self._open = gpus, open_meter
        self._meter: Meter | None = None
        self._names: list[str] = []
        self._before: tuple[float, list[Reading]] | None = None
        self.note = ""

    def sample(self, now_s: float) -> tuple[tuple[GpuReading, ...], float | None]:
        """Return the readings, and the power of all together since the last sample."""
        if not self._gpus or not self._opened():
            return (), None
        assert self._meter is not None
        readings = self._meter.read()
        watts = _watts(self._before, (now_s, readings))
        self._before = now_s, readings
        shown = zip(self._gpus, self._names, readings, strict=True)
        return tuple(_shown(*each) for each in shown), watts

    def _opened(self) -> bool:
        if self._meter is None and not self.note:
            try:
                self._meter = self._open(list(self._gpus.values()))
                self._names = self._meter.names()
            except RunFailed as error:
                self.note = f"no figures: {error}"
        return self._meter is not None


def _shown(device: str, name: str, reading: Reading) -> GpuReading:
    return GpuReading(
        device, name, reading.utilisation, reading.memory_bytes, reading.memory_total_bytes,
        reading.watts,
    )  # fmt: skip


def _watts(
    before: tuple[float, list[Reading]] | None, now: tuple[float, list[Reading]]
) -> float | None:
    """Return the power: by the energy counters where all have one, else as it is now."""
    if before is not None and now[0] > before[0]:
        spent = [
            last.joules - first.joules
            for first, last in zip(before[1], now[1], strict=True)
            if first.joules is not None and last.joules is not None
        ]
        if len(spent) == len(now[1]):
            return sum(spent) / (now[0] - before[0])
    watts = [reading.watts for reading in now[1] if reading.watts is not None]
    return sum(watts) if watts and len(watts) == len(now[1]) else None


class SystemMonitor:
    """Samples the machine under one attempt of a run."""

    def __init__(
        self,
        cores: Sequence[int],
        pids: Callable[[], Iterable[int]],
        shared_bytes: int,
        gpus: GpuMonitor,
    ) -> None:
        """Sample the processors `cores` and the processes `pids` that share `shared_bytes`."""
        self._cores, self._pids, self._shared_bytes = tuple(cores), pids, shared_bytes
        self._gpus = gpus
        self._due_s = -math.inf
        self._times: dict[int, CoreTime] = {}
        self._uses: dict[int, ProcessUse] = {}
        self.reading = SystemReading()

    def sample(self) -> None:
        """Sample, unless the last one is recent."""
        now_s = time.monotonic()
        if now_s < self._due_s:
            return
        self._due_s = now_s + SAMPLE_EVERY_S
        times, found = core_times(self._cores), ((pid, process_use(pid)) for pid in self._pids())
        uses = {pid: use for pid, use in found if use is not None}
        gpus, watts = self._gpus.sample(now_s)
        if self._times:
            self.reading = self._reading(times, uses, gpus, watts)
        self._times, self._uses = times, uses

    def _reading(
        self,
        times: dict[int, CoreTime],
        uses: dict[int, ProcessUse],
        gpus: tuple[GpuReading, ...],
        watts: float | None,
    ) -> SystemReading:
        gains = [
            CoreTime(times[core].total - before.total, times[core].busy - before.busy)
            for core, before in self._times.items()
            if core in times
        ]
        total = sum(gain.total for gain in gains)
        own = sum(
            use.ticks - (self._uses[pid].ticks if pid in self._uses else 0)
            for pid, use in uses.items()
        )
        run = min(1.0, max(0, own) / total) if total > 0 else None
        busy = sum(gain.busy for gain in gains) / total if total > 0 else None
        free_bytes = available_bytes()
        return SystemReading(
            cores=tuple(core for core in self._times if core in times),
            loads=tuple(gain.busy / gain.total if gain.total > 0 else 0.0 for gain in gains),
            run_share=run,
            others_share=None if run is None or busy is None else max(0.0, busy - run),
            memory_bytes=self._shared_bytes + sum(use.private_bytes for use in uses.values()),
            free_bytes=None if free_bytes == UNLIMITED_BYTES else free_bytes,
            gpus=gpus,
            gpu_note=self._gpus.note,
            watts=watts,
        )


def gpus_of(machine: Machine, devices: Iterable[str]) -> dict[str, str]:
    """Return device -> UUID of those of a machine's GPUs that are among `devices`."""
    used = set(devices)
    return {gpu.device: gpu.uuid for gpu in machine.gpus if gpu.device in used and gpu.uuid}
