"""What GPUs do meanwhile: energy and utilisation, read through NVML.

Runs in the bench. The energy counter is the driver's own, so nothing between two looks is missed;
utilisation is the share of time in which a kernel ran, averaged over the looks.
"""

from __future__ import annotations

import importlib
import time
from dataclasses import dataclass
from statistics import mean
from typing import Any

from galamp.errors import UserError

MJ_PER_J = 1e3
MISSING = "bin/bench gpu reads power through NVML: install it with `pip install nvidia-ml-py`"


@dataclass(frozen=True)
class GpuUse:
    """All GPUs over one measurement.

    Attributes:
        utilisation: share of time in which a kernel ran, the mean over GPUs and looks, 0 to 1.
        watts: mean power of all GPUs together.
        frames_per_joule: emulator frames per joule of that.
    """

    utilisation: float
    watts: float
    frames_per_joule: float


class Gauge:
    """NVML opened, and what it showed from `start` on."""

    def __init__(self) -> None:
        """Open NVML.

        Raises:
            UserError: no NVML, or no GPU.
        """
        try:
            self._nvml: Any = importlib.import_module("pynvml")
        except ImportError:
            raise UserError(MISSING) from None
        try:
            self._nvml.nvmlInit()
            count = self._nvml.nvmlDeviceGetCount()
        except self._nvml.NVMLError as error:
            raise UserError(f"no GPU: {error}; bin/bench gpu needs one and its driver") from None
        if count == 0:
            raise UserError("no GPU: NVML finds none; bin/bench gpu needs one")
        self._devices = [self._nvml.nvmlDeviceGetHandleByIndex(index) for index in range(count)]
        self._begin_j = self._begin_s = 0.0
        self._looks: list[float] = []

    @property
    def names(self) -> str:
        """The GPUs' names."""
        names = [self._nvml.nvmlDeviceGetName(device) for device in self._devices]
        return ", ".join(name.decode() if isinstance(name, bytes) else name for name in names)

    def start(self) -> None:
        """Begin anew."""
        self._looks = []
        self._begin_j, self._begin_s = self._joules(), time.monotonic()

    def look(self) -> None:
        """Take one reading of utilisation."""
        for device in self._devices:
            self._looks.append(self._nvml.nvmlDeviceGetUtilizationRates(device).gpu / 100)

    def used(self, frames_per_s: float) -> GpuUse:
        """Return what was used since `start`, at so many emulator frames per second."""
        seconds = time.monotonic() - self._begin_s
        watts = (self._joules() - self._begin_j) / seconds
        per_joule = frames_per_s / watts if watts else 0.0
        return GpuUse(mean(self._looks) if self._looks else 0.0, watts, per_joule)

    def _joules(self) -> float:
        counters = (self._nvml.nvmlDeviceGetTotalEnergyConsumption(d) for d in self._devices)
        return float(sum(counters)) / MJ_PER_J
