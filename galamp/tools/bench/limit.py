"""Ceiling of this machine: the rate of its cores if the bare parts of training were all the work.

    galamp.tools.bench.parts --> milliseconds per agent step of every part on every core
    on CPUs      ceiling = sum over cores of 1 / (emulate + act + learn)
    on one GPU   ceiling = the lesser of: sum over emulating cores of 1 / emulate,
                           sum over learners of 1 / (act + learn + gossip)

galamp adds gossip on CPUs, transport between processes, the supervisor, and every wait of one
process for another.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, median

from rich.table import Table

from galamp.core.errors import RunFailed
from galamp.supervision.devices import CPU
from galamp.telemetry.display.console import plain_table
from galamp.tools.bench.parts import ACT, EMULATE, GOSSIP, PARTS
from galamp.tools.bench.processes import Program, Usage, members, pss_mb
from galamp.tools.bench.runs import POLL_S, ROOT, START_DEADLINE_S, Measurement, Workload, cores

LIMIT = "limit"
FRAMES_PER_STEP = 4


@dataclass
class Limit:
    """The bare parts, measured like a system.

    Attributes:
        device: device of the learners: `cpu`, or one GPU such as `cuda:0`.
        rounds: milliseconds per agent step of every part, the mean over the cores that do it; one
            per round.
    """

    workload: Workload
    name: str = LIMIT
    device: str = CPU
    rounds: list[dict[str, float]] = field(default_factory=list)

    def measure(
        self,
        number: int,
        *,
        seconds: float,
        warm_up_s: float,
        timeout_s: float | None = None,
    ) -> Measurement:
        """Run the parts on all cores; see `galamp.tools.bench.runs.measure`.

        Raises:
            RunFailed: they could not be measured.
        """
        work = self.workload
        command = [
            *(sys.executable, "-m", "galamp.tools.bench.parts", "--env-id", work.env_id),
            *("--num-envs", work.num_envs, "--network", work.network),
            *("--precision", work.precision, "--device", self.device),
            *("--learners", work.learners, "--seconds", warm_up_s + seconds),
        ]
        until_s = time.monotonic() + (START_DEADLINE_S if timeout_s is None else timeout_s)
        with (
            tempfile.TemporaryDirectory(prefix="galamp-bench-") as folder,
            Program(command, ROOT, Path(folder, "output.log")) as program,
        ):
            pids = self._started(program, until_s)
            program.ends_within(warm_up_s)
            before = Usage.of(program.session)
            program.ends_within(seconds)
            weight, shares = pss_mb(pids), Usage.of(program.session).shares_since(before, cores())
            if program.wait(max(0.0, until_s - time.monotonic()) + warm_up_s + seconds) != 0:
                raise RunFailed(f"{self.name}: {program.last_line()}")
            each: list[dict[str, float]] = json.loads(program.last_line())
        self.rounds.append(means(each))
        rate = ceiling(each)
        frames = rate * FRAMES_PER_STEP
        return Measurement(self.name, number, rate, frames, seconds, weight, len(pids), *shares)

    def _started(self, program: Program, until_s: float) -> list[int]:
        """Return all its processes, once there is one for every core."""
        while len(pids := members(program.session)) <= cores():
            if program.ends_within(POLL_S) or time.monotonic() > until_s:
                raise RunFailed(f"{self.name}: {program.last_line()}")
        return pids


def means(each: Sequence[dict[str, float]]) -> dict[str, float]:
    """Return milliseconds per agent step of every part, the mean over the processes that do it."""
    found = {name: [one[name] for one in each if name in one] for name in (*PARTS, GOSSIP)}
    return {name: mean(costs) for name, costs in found.items() if costs}


def ceiling(each: Sequence[dict[str, float]]) -> float:
    """Return the agent steps/s that processes with these parts allow.

    Where some emulate and others learn, the slower of the two groups decides.
    """
    emulating = [one for one in each if EMULATE in one]
    learning = [one for one in each if ACT in one]
    return min(sum(1e3 / sum(one.values()) for one in group) for group in (emulating, learning))


def parts_table(rounds: Sequence[dict[str, float]]) -> Table:
    """Return the cost of every part: the median over the rounds, and the spread."""
    result = plain_table(("bare part, per core", "ms per agent step", "min - max"))
    for part in rounds[0]:
        costs = [each[part] for each in rounds]
        result.add_row(part, f"{median(costs):.3f}", f"{min(costs):.3f} - {max(costs):.3f}")
    return result
