"""GPU use during a measurement: utilisation and power of the GPUs of a run, and of no others.

    UUIDs --Gauge: start, sample, sample, ..., used--> GpuUse

Runs in the bench. The energy counter is the driver's own, so nothing between two samples is missed;
where there is none, power is sampled. Utilisation is the share of time in which a kernel ran,
averaged over the samples.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

from galamp.core.errors import RunFailed
from galamp.core.machine.gpu_meters import Meter, Reading, meter_of
from galamp.core.machine.machine import inspect_gpus

COUNTED, SAMPLED = "energy counter", "sampled power"
"""Sources of the watts."""


@dataclass(frozen=True)
class GpuUse:
    """GPU use of a run over one measurement; None: not reported.

    Attributes:
        utilisation: share of time in which a kernel ran, 0 to 1, the mean over the samples and over
            those GPUs that report it.
        watts: mean power of all of them together, if all report it.
        frames_per_joule: emulator frames per joule of that.
        watts_from: `COUNTED` or `SAMPLED`; empty where there are no watts.
    """

    utilisation: float | None
    watts: float | None
    frames_per_joule: float | None
    watts_from: str = ""


def uuids() -> dict[str, str]:
    """Return device -> UUID, without a prefix, of the GPUs that can be used, in torch's order.

    Raises:
        RunFailed: there are GPUs, and none of them can be used.
    """
    gpus, unusable = inspect_gpus("cuda")
    if unusable and not gpus:
        raise RunFailed(*(f"{device} cannot be used: {why}" for device, why in unusable.items()))
    return {gpu.device: gpu.uuid for gpu in gpus}


class Gauge:
    """Samples the GPUs of one run, and returns their use since `start`."""

    def __init__(self, uuids: Sequence[str], meter: Meter | None = None) -> None:
        """Sample the GPUs `uuids`, as torch writes them, by `meter` (default: an available one)."""
        self._meter = meter or meter_of(uuids)
        self._first, self._started_s = list[Reading](), 0.0
        self._samples: list[list[Reading]] = []
        self._sampled_s = -self._meter.every_s

    @property
    def names(self) -> str:
        """The GPUs' names."""
        return ", ".join(filter(None, self._meter.names()))

    def start(self) -> None:
        """Start a new measurement."""
        self._first, self._started_s = self._meter.read(), time.monotonic()
        self._samples = [self._first]
        self._sampled_s = self._started_s

    def sample(self) -> None:
        """Take a reading, unless the last one is too recent."""
        now_s = time.monotonic()
        if now_s >= self._sampled_s + self._meter.every_s:
            self._samples.append(self._meter.read())
            self._sampled_s = now_s

    def used(self, frames_per_s: float) -> GpuUse:
        """Return the use since `start`, at `frames_per_s` emulator frames per second."""
        end, seconds = self._meter.read(), time.monotonic() - self._started_s
        watts, source = counted(self._first, end, seconds), COUNTED
        if watts is None:
            watts, source = sampled(self._samples), SAMPLED
        shares = [each.utilisation for sample in self._samples for each in sample]
        known = [share for share in shares if share is not None]
        return GpuUse(
            mean(known) if known else None,
            watts,
            frames_per_s / watts if watts else None,
            source if watts is not None else "",
        )


def counted(
    first_readings: Sequence[Reading], last_readings: Sequence[Reading], seconds: float
) -> float | None:
    """Return the mean power by the energy counters, in W; None where a GPU has none."""
    spent_j = 0.0
    for first, last in zip(first_readings, last_readings, strict=True):
        if first.joules is None or last.joules is None:
            return None
        spent_j += last.joules - first.joules
    return spent_j / seconds if first_readings and seconds > 0 else None


def sampled(samples: Sequence[Sequence[Reading]]) -> float | None:
    """Return the mean power over the samples at which all GPUs reported theirs, in W; else None."""
    totals = []
    for sample in samples:
        watts = [each.watts for each in sample if each.watts is not None]
        if sample and len(watts) == len(sample):
            totals.append(sum(watts))
    return mean(totals) if totals else None
