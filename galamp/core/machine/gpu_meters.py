"""GPU meters by UUID: NVML through nvidia-ml-py, or nvidia-smi where that is missing.

    UUIDs --meter_of--> Meter.read --> Reading, Reading, ...

Runs in the bench, and in the supervisor (`Nvml` only: nvidia-smi takes too long). GPUs are
identified by UUID: NVML counts all GPUs of the machine, torch only those that CUDA_VISIBLE_DEVICES
leaves, and each in its own order. A value that a GPU does not report (parts of a GPU under MIG, old
cards) is None, never an error.
"""

from __future__ import annotations

import importlib
import subprocess
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from galamp.core.errors import RunFailed
from galamp.core.pip_commands import install_extra

MJ_PER_J = MW_PER_W = 1e3
PREFIXES = ("GPU-", "MIG-")
"""NVML's prefixes of the UUID of a GPU, and of a part of one; torch writes neither."""

SMI = "nvidia-smi"
SMI_FIELDS = ("uuid", "name", "utilization.gpu", "power.draw")
SMI_DEADLINE_S = 5.0
SMI_EVERY_S = 1.0
"""Minimum interval of nvidia-smi: it starts a process, which takes a tenth of a second."""


class Reading(NamedTuple):
    """Values of one GPU at one moment; None: not reported."""

    utilisation: float | None = None
    watts: float | None = None
    joules: float | None = None
    memory_bytes: int | None = None
    """In use, by whomever."""
    memory_total_bytes: int | None = None


class Meter(Protocol):
    """Reads GPUs, in the order in which they were given."""

    every_s: float
    """Minimum time between two readings."""

    def names(self) -> list[str]:
        """Return each GPU's name; empty where that is unknown."""

    def read(self) -> list[Reading]:
        """Return each GPU's current values."""


def bare(uuid: str) -> str:
    """Return a UUID without NVML's prefix, if it has one."""
    for prefix in PREFIXES:
        uuid = uuid.removeprefix(prefix)
    return uuid


def meter_of(uuids: Sequence[str]) -> Meter:
    """Return a meter for these GPUs: NVML, else nvidia-smi, else one without values."""
    try:
        return Nvml(uuids)
    except RunFailed:
        pass
    try:
        return Smi(uuids)
    except RunFailed:
        return Nothing(uuids)


class Nvml:
    """GPUs read through NVML, by the package nvidia-ml-py."""

    every_s = 0.0

    def __init__(self, uuids: Sequence[str]) -> None:
        """Open NVML.

        Raises:
            RunFailed: the package is missing, or the driver is.
        """
        try:
            self._nvml: Any = importlib.import_module("pynvml")
        except ImportError:
            raise RunFailed(f"nvidia-ml-py is not installed: {install_extra('gpu')}") from None
        try:
            self._nvml.nvmlInit()
        except self._nvml.NVMLError as error:
            raise RunFailed(f"NVML: {error}") from None
        self._devices = [self._find(uuid) for uuid in uuids]

    def names(self) -> list[str]:
        """Return the names; see `Meter.names`."""
        found = (self._ask("nvmlDeviceGetName", device) for device in self._devices)
        return [name.decode() if isinstance(name, bytes) else name or "" for name in found]

    def read(self) -> list[Reading]:
        """Read all; see `Meter.read`."""
        return [self._read(device) for device in self._devices]

    def _read(self, device: Any) -> Reading:
        rates = self._ask("nvmlDeviceGetUtilizationRates", device)
        power = self._ask("nvmlDeviceGetPowerUsage", device)
        energy = self._ask("nvmlDeviceGetTotalEnergyConsumption", device)
        memory = self._ask("nvmlDeviceGetMemoryInfo", device)
        return Reading(
            None if rates is None else rates.gpu / 100,
            None if power is None else power / MW_PER_W,
            None if energy is None else energy / MJ_PER_J,
            None if memory is None else int(memory.used),
            None if memory is None else int(memory.total),
        )

    def _find(self, uuid: str) -> Any:
        """Return the handle of a GPU, or of a part of one; None where NVML knows neither."""
        names = [prefix + bare(uuid) for prefix in PREFIXES]
        found = (self._ask("nvmlDeviceGetHandleByUUID", name) for name in names)
        return next((device for device in found if device is not None), None)

    def _ask(self, name: str, subject: Any) -> Any:
        """Return the result of one of NVML's functions; None where it has none."""
        if subject is None:
            return None
        try:
            return getattr(self._nvml, name)(subject)
        except self._nvml.NVMLError:
            return None


class Smi:
    """GPUs read through the command nvidia-smi, which comes with the driver."""

    every_s = SMI_EVERY_S

    def __init__(self, uuids: Sequence[str], run: Callable[[], str] | None = None) -> None:
        """Try it once; `run` returns its output.

        Raises:
            RunFailed: it is missing, fails, or does not answer.
        """
        self._uuids, self._run = [PREFIXES[0] + bare(uuid) for uuid in uuids], run or run_smi
        self._names = {uuid: row["name"] for uuid, row in parse_smi(self._run()).items()}

    def names(self) -> list[str]:
        """Return the names; see `Meter.names`."""
        return [self._names.get(uuid, "") for uuid in self._uuids]

    def read(self) -> list[Reading]:
        """Read all; see `Meter.read`."""
        try:
            rows = parse_smi(self._run())
        except RunFailed:
            rows = {}
        return [_reading(rows.get(uuid, {})) for uuid in self._uuids]


def _reading(row: Mapping[str, str]) -> Reading:
    percent, watts = (_number(row.get(name, "")) for name in SMI_FIELDS[2:])
    return Reading(None if percent is None else percent / 100, watts)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:  # [N/A], [Not Supported]
        return None


def parse_smi(text: str) -> dict[str, dict[str, str]]:
    """Return the fields of nvidia-smi's rows by UUID; other lines are skipped."""
    rows = [[field.strip() for field in line.split(",")] for line in text.splitlines()]
    whole = [dict(zip(SMI_FIELDS, row, strict=True)) for row in rows if len(row) == len(SMI_FIELDS)]
    return {row["uuid"]: row for row in whole}


def run_smi() -> str:
    """Return the output of nvidia-smi for all GPUs, a row each of `SMI_FIELDS`.

    Raises:
        RunFailed: it is missing, fails, or does not answer.
    """
    command = [SMI, f"--query-gpu={','.join(SMI_FIELDS)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=SMI_DEADLINE_S, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise RunFailed(f"{SMI}: {error}") from None
    return done.stdout


class Nothing:
    """Meter of GPUs that cannot be read here."""

    every_s = 0.0

    def __init__(self, uuids: Sequence[str]) -> None:
        self._count = len(uuids)

    def names(self) -> list[str]:
        """Return no names."""
        return [""] * self._count

    def read(self) -> list[Reading]:
        """Return empty readings."""
        return [Reading()] * self._count
