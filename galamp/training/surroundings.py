"""Surroundings of an attempt: who samples the machine, and what was measured on it before.

    RunLayout, Machine --monitor_of--> SystemMonitor
    ~/.cache/galamp --known_rates--> agent steps/s by number of learners

Runs in the supervisor.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

from galamp.core.config import RunConfig
from galamp.core.machine.machine import Machine
from galamp.storage.rate_cache import RateCache
from galamp.supervision.layout import RunLayout
from galamp.telemetry.system_monitor import GpuMonitor, SystemMonitor, gpus_of
from galamp.training.workload import workload
from galamp.workers.forkserver import server_pid


def monitor_of(run_layout: RunLayout, machine: Machine) -> SystemMonitor:
    """Return what samples the machine under the processes of an attempt."""
    board = run_layout.status_board
    rows = [*board.learners(), *map(board.simulator, range(run_layout.plan.simulators))]
    rows += [] if run_layout.board is None else [board.bridge()]

    def pids() -> Iterator[int]:
        yield from filter(None, (os.getpid(), server_pid(), *(row["pid"] for row in rows)))

    gpus = GpuMonitor(gpus_of(machine, run_layout.plan.devices))
    return SystemMonitor(machine.cores, pids, run_layout.arrays.size_bytes, gpus)


def known_rates(config: RunConfig, machine: Machine) -> Mapping[int, float]:
    """Return agent steps/s by number of learners, as `--learners auto` has measured them here."""
    found = RateCache().find(workload(config, machine))
    return found.by_learners if found else {}
