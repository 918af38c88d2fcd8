"""One measurement: a system is started, timed by the rows that it writes, weighed, and ended.

Runs in the bench. Start-up is left out: the clock is the system's own `wall_s`, from the first row
`warm_up_s` after its first agent step to the first row `seconds` later.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from galamp.core.errors import RunFailed
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
"""What of a row is looked at."""

Row = dict[str, Any]


@dataclass(frozen=True)
class System:
    """What is measured: a name, and the command that takes `--seed` and `--run-dir` besides.

    `gauge` reads what the GPUs do meanwhile.
    """

    name: str
    command: tuple[str, ...]
    gauge: Gauge | None = None

    def measure(
        self, number: int, *, seconds: float, warm_up_s: float, patience_s: float | None = None
    ) -> Measurement:
        """Run it for as long as it takes; see the function `measure`."""
        return measure(self, number, seconds=seconds, warm_up_s=warm_up_s, patience_s=patience_s)


class Measurable(Protocol):
    """What the bench can measure in turns."""

    @property
    def name(self) -> str:
        """What it is called in tables."""

    def measure(
        self, number: int, *, seconds: float, warm_up_s: float, patience_s: float | None = None
    ) -> Measurement:
        """Return what round `number` gave; see the function `measure`."""


@dataclass(frozen=True)
class Measurement:
    """What one repetition gave.

    Attributes:
        system: name of the system.
        round: which repetition, from 1.
        agent_steps_per_s: agent steps per second over all environments.
        emulator_frames_per_s: the same in emulator frames.
        seconds: how long was measured, warm-up and start-up left out.
        pss_mb: memory of all processes half way, shared pages counted once, in MB.
        processes: how many they were.
        cpu_share: share of all cores that the system used.
        other_cpu_share: share that anything else used; more than a little spoils the measurement.
        gpu: what the GPUs did, where that was measured.
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
    """What every system trains on; `rom` is the emulator's name of the game."""

    env_id: str
    rom: str
    learners: int
    num_envs: int
    network: str
    precision: str = "float32"

    @property
    def simulators(self) -> int:
        """Simulators over all learners: a peer, which has no learners, gets as many."""
        return self.learners * self.num_envs


def galamp_system(
    workload: Workload, name: str = GALAMP, *, more: Sequence[str] = ("--device", "cpu")
) -> System:
    """Return galamp as its users run it; `more` are flags that say where and how."""
    command: tuple[object, ...] = (
        *(sys.executable, "-m", "galamp", "run", "--env-id", workload.env_id),
        *("--learners", workload.learners, "--num-envs", workload.num_envs),
        *("--network", workload.network, "--precision", workload.precision, *more),
        *("--total-steps", ENDLESS, "--json"),
    )
    return System(name, tuple(map(str, command)))


class Window(NamedTuple):
    """The rows at the beginning, the middle and the end of what is measured; None until written."""

    first: Row | None
    middle: Row | None
    last: Row | None


def window(rows: Sequence[Row], warm_up_s: float, seconds: float) -> Window:
    """Find what is measured among the rows written so far."""
    begun = next((row for row in rows if row["global_step"] > 0), None)
    first = begun and _row_at(rows, begun["wall_s"] + warm_up_s)
    middle = first and _row_at(rows, first["wall_s"] + seconds / 2)
    last = first and _row_at(rows, first["wall_s"] + seconds)
    return Window(first, middle, last)


def _row_at(rows: Sequence[Row], wall_s: float) -> Row | None:
    return next((row for row in rows if row["wall_s"] >= wall_s), None)


class Rate(NamedTuple):
    """How much was done in how long."""

    agent_steps_per_s: float
    emulator_frames_per_s: float
    seconds: float


def rate(first: Row, last: Row) -> Rate:
    """Return what was done between two rows, per second."""
    seconds = last["wall_s"] - first["wall_s"]
    steps = last["global_step"] - first["global_step"]
    frames = last["emulator_frames"] - first["emulator_frames"]
    return Rate(steps / seconds, frames / seconds, seconds)


def read_rows(path: Path) -> list[Row]:
    """Return time and counts of the timed rows of a file that grows, or does not exist yet."""
    rows = (row for row in read_metrics(path) if "wall_s" in row)
    return [{name: row[name] for name in MEASURED if name in row} for row in rows]


def alternation(systems: Sequence[Measurable], repeats: int) -> Iterator[tuple[int, Measurable]]:
    """Yield (round, system) as A B C A B C ...: what drifts with time then touches all alike."""
    for number in range(1, repeats + 1):
        for system in systems:
            yield number, system


def measure(
    system: System,
    number: int,
    *,
    seconds: float,
    warm_up_s: float,
    patience_s: float | None = None,
) -> Measurement:
    """Run a system for as long as it takes to measure it.

    Args:
        system: what is run.
        number: the round, and the seed.
        seconds: how long is measured.
        warm_up_s: how long is left out before that.
        patience_s: most time for start and end together (default: `START_DEADLINE_S` for the
            start, `processes.STOP_GRACE_S` for the end).

    Raises:
        RunFailed: it ended by itself, made no progress, or left something behind.
    """
    known = START_DEADLINE_S if patience_s is None else patience_s
    give_up_s = time.monotonic() + known + warm_up_s + seconds
    with tempfile.TemporaryDirectory(prefix="galamp-bench-") as folder:
        run = Path(folder, "run")
        run.mkdir(mode=0o700)
        command = [*system.command, "--seed", str(number), "--run-dir", str(run)]
        with Program(command, ROOT, Path(folder, "output.log")) as program:
            try:
                measurement = _watch(system, number, program, run, seconds, warm_up_s, give_up_s)
                left_s = max(ABORT_GRACE_S, give_up_s - time.monotonic())
                program.stop(None if patience_s is None else left_s)
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
    """Follow the rows until all has been seen."""
    before: Usage | None = None
    weight: tuple[float, int] | None = None
    while True:
        late = time.monotonic() > give_up_s  # before the look: weighing may take long
        first, middle, last = window(read_rows(run / "metrics.jsonl"), warm_up_s, seconds)
        if first and before is None:
            before = Usage.of(program.session)
            if system.gauge is not None:
                system.gauge.start()
        if system.gauge is not None:
            system.gauge.look()
        if middle and weight is None:
            pids = members(program.session)
            weight = pss_mb(pids), len(pids)
        if first and last and before and weight:
            break
        if program.exit_code is not None:
            raise RunFailed(f"ended with code {program.exit_code}: {program.complaint()}")
        if late:
            raise RunFailed(f"was not measured in time; its last words: {program.last_words()}")
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
