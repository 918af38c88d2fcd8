"""One measurement: a system is started, timed by its rows, its memory measured, and ended.

Runs in the bench. Start-up is left out: the clock is the system's own `wall_s`, from the first row
`warm_up_s` after its first agent step to the first row `seconds` later.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from galamp.core.errors import RunFailed
from galamp.core.throughput import ThroughputMeter
from galamp.storage.run_logs import read_metrics
from galamp.tools.bench.nvml import Gauge, GpuUse
from galamp.tools.bench.processes import ABORT_GRACE_S, Program, Usage, members, pss_mb

ROOT = Path(__file__).resolve().parents[3]
"""The folder that holds bin/, galamp/ and the environments."""

GALAMP = "galamp"
ENDLESS = 10**12
"""Agent steps that no measurement reaches."""

START_DEADLINE_S = 180.0
"""Most time that a system may take to its first agent step, and that a late row is waited for."""

POLL_S = 0.2
MEASURED = ("wall_s", "global_step", "emulator_frames")
"""Fields of a row that are used."""

SETTINGS = {"a2c": (), "ppo": ("--preset", "ppo-atari"), "vtrace": ("--algorithm", "vtrace")}
"""Algorithm of a workload -> galamp's flags for it."""

Row = dict[str, Any]


@dataclass(frozen=True)
class System:
    """A measured program: a name, and a command that also takes `--seed` and `--run-dir`.

    `gauge` samples the GPUs meanwhile.
    """

    name: str
    command: tuple[str, ...]
    gauge: Gauge | None = None

    def measure(
        self, number: int, *, seconds: float, warm_up_s: float, timeout_s: float | None = None
    ) -> Measurement:
        """Run it for as long as it takes; see the function `measure`."""
        return measure(self, number, seconds=seconds, warm_up_s=warm_up_s, timeout_s=timeout_s)


class Measurable(Protocol):
    """Anything that the bench can measure in turns."""

    @property
    def name(self) -> str:
        """Its name in tables."""

    def measure(
        self, number: int, *, seconds: float, warm_up_s: float, timeout_s: float | None = None
    ) -> Measurement:
        """Return the result of round `number`; see the function `measure`."""


@dataclass(frozen=True)
class Measurement:
    """Result of one repetition.

    Attributes:
        system: name of the system.
        round: number of the repetition, from 1.
        agent_steps_per_s: agent steps per second over all environments.
        emulator_frames_per_s: the same in emulator frames.
        seconds: measured time, without warm-up and start-up.
        pss_mb: memory of all processes half way, shared pages counted once, in MB.
        processes: their number.
        cpu_share: share of all cores that the system used.
        other_cpu_share: share that anything else used; more than a little spoils the measurement.
        gpu: use of the GPUs, where that was measured.
    """

    system: str
    round: int
    agent_steps_per_s: float
    emulator_frames_per_s: float
    seconds: float
    pss_mb: float
    processes: int
    cpu_share: float
    other_cpu_share: float
    gpu: GpuUse | None = None


@dataclass(frozen=True)
class Workload:
    """Training task of every system; `rom` is the emulator's name of the game."""

    env_id: str
    rom: str
    learners: int
    num_envs: int
    network: str
    precision: str = "float32"
    algorithm: str = "a2c"

    @property
    def total_envs(self) -> int:
        """Environments over all learners: a peer, which has no learners, gets as many."""
        return self.learners * self.num_envs


def galamp_system(
    workload: Workload, name: str = GALAMP, *, more: Sequence[str] = ("--device", "cpu")
) -> System:
    """Return galamp as its users run it; `more` are flags for devices and the like."""
    command: tuple[object, ...] = (
        *(sys.executable, "-m", "galamp", "run", "--env-id", workload.env_id),
        *("--learners", workload.learners, "--num-envs", workload.num_envs),
        *("--network", workload.network, "--precision", workload.precision),
        *(*SETTINGS[workload.algorithm], *more),
        *("--total-steps", ENDLESS, "--json"),
    )
    return System(name, tuple(map(str, command)))


class Window(NamedTuple):
    """First, middle and last row of the measured time; None until written."""

    first: Row | None
    middle: Row | None
    last: Row | None


def window(rows: Sequence[Row], warm_up_s: float, seconds: float) -> Window:
    """Return the measured window among the rows written so far."""
    begun = next((row for row in rows if row["global_step"] > 0), None)
    first = begun and _row_at(rows, begun["wall_s"] + warm_up_s)
    middle = first and _row_at(rows, first["wall_s"] + seconds / 2)
    last = first and _row_at(rows, first["wall_s"] + seconds)
    return Window(first, middle, last)


def _row_at(rows: Sequence[Row], wall_s: float) -> Row | None:
    return next((row for row in rows if row["wall_s"] >= wall_s), None)


class Rate(NamedTuple):
    """Rates over a time."""

    agent_steps_per_s: float
    emulator_frames_per_s: float
    seconds: float


def rate(first: Row, last: Row) -> Rate:
    """Return the rates between two rows."""
    steps, frames = ThroughputMeter(), ThroughputMeter()
    for row in (first, last):
        steps.add(row["wall_s"], row["global_step"])
        frames.add(row["wall_s"], row["emulator_frames"])
    return Rate(steps.rate, frames.rate, steps.seconds)


def read_rows(path: Path) -> list[Row]:
    """Return time and counts of the timed rows of a file that grows, or does not exist yet."""
    rows = (row for row in read_metrics(path) if "wall_s" in row)
    return [{name: row[name] for name in MEASURED if name in row} for row in rows]


def alternation(systems: Sequence[Measurable], repeats: int) -> Iterator[tuple[int, Measurable]]:
    """Yield (round, system) as A B C A B C ...: a drift over time then affects all alike."""
    for number in range(1, repeats + 1):
        for system in systems:
            yield number, system


def measure(
    system: System,
    number: int,
    *,
    seconds: float,
    warm_up_s: float,
    timeout_s: float | None = None,
    cores: Collection[int] = (),
) -> Measurement:
    """Run a system for as long as the measurement takes.

    Args:
        system: the measured system.
        number: the round, and the seed.
        seconds: measured time.
        warm_up_s: time before that.
        timeout_s: most time for start and end together (default: `START_DEADLINE_S` for the
            start, `processes.STOP_GRACE_S` for the end).
        cores: processors that it may use; none: those of this process.

    Raises:
        RunFailed: it ended by itself, made no progress, or left processes behind.
    """
    known = START_DEADLINE_S if timeout_s is None else timeout_s
    give_up_s = time.monotonic() + known + warm_up_s + seconds
    with tempfile.TemporaryDirectory(prefix="galamp-bench-") as folder:
        run = Path(folder, "run")
        run.mkdir(mode=0o700)
        command = [*system.command, "--seed", str(number), "--run-dir", str(run)]
        with Program(command, ROOT, Path(folder, "output.log"), cores=cores) as program:
            try:
                measurement = _watch(system, number, program, run, seconds, warm_up_s, give_up_s)
                left_s = max(ABORT_GRACE_S, give_up_s - time.monotonic())
                program.stop(None if timeout_s is None else left_s)
            except RunFailed as error:
                raise RunFailed(f"{system.name}: {error}") from None
    return measurement


def _watch(
    system: System,
    number: int,
    program: Program,
    run: Path,
    seconds: float,
    warm_up_s: float,
    give_up_s: float,
) -> Measurement:
    """Follow the rows until the measurement is complete."""
    before: Usage | None = None
    weight: tuple[float, int] | None = None
    while True:
        late = time.monotonic() > give_up_s  # before reading rows: measuring memory may take long
        first, middle, last = window(read_rows(run / "metrics.jsonl"), warm_up_s, seconds)
        if first and before is None:
            before = Usage.of(program.session)
            if system.gauge is not None:
                system.gauge.start()
        if system.gauge is not None:
            system.gauge.sample()
        if middle and weight is None:
            pids = members(program.session)
            weight = pss_mb(pids), len(pids)
        if first and last and before and weight:
            break
        if program.exit_code is not None:
            raise RunFailed(f"ended with code {program.exit_code}: {program.complaint()}")
        if late:
            raise RunFailed(f"was not measured in time; its last words: {program.last_line()}")
        time.sleep(POLL_S)
    shares = Usage.of(program.session).shares_since(before, cores())
    speed = rate(first, last)
    if speed.agent_steps_per_s <= 0:
        raise RunFailed(f"made no agent step in {speed.seconds:.0f} s")
    gpu = system.gauge.used(speed.emulator_frames_per_s) if system.gauge is not None else None
    return Measurement(system.name, number, *speed, *weight, *shares, gpu)


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0))
