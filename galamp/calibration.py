"""`--learners auto`: the number of learners that is quickest here, measured once and remembered.

    candidates --a short run each--> agent steps/s --> the quickest; galamp.storage.rates keeps them

Runs in the parent, before the run that asked for it. What is remembered holds for one machine and
one workload: all that says what an agent step costs, and nothing that says what is learned from it.
"""

from __future__ import annotations

import os
import platform
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

import galamp
from galamp.config import ReportConfig, RunConfig
from galamp.environments import canonical_env_id
from galamp.errors import RunFailed, StoppedBySignal, UserError
from galamp.plan import LEARNERS_PER_CORE, LEARNERS_PER_GPU, Machine, inspect_machine
from galamp.session import Outcome, complain
from galamp.storage.rates import RateCache
from galamp.supervisor import Supervisor
from galamp.training import train

WARM_UP_S, MEASURE_S = 2.0, 4.0
START_S = 2.0
"""What a run takes besides, for the announcement."""
AS_GOOD = 0.97
"""Fewer learners that reach this share of the greatest rate are preferred: they take less memory,
and that much is noise."""

Tell = Callable[[str], object]


def with_quickest(config: RunConfig, tell: Tell, cache: RateCache | None = None) -> RunConfig:
    """Return `config` with the number of learners that is quickest on this machine.

    Args:
        config: the settings of the run, whose number of learners is open.
        tell: takes lines for the user.
        cache: where rates are kept (default: the user's).

    Raises:
        UserError: the settings do not fit the machine, or one another.
        RunFailed: no number of learners could be run.
        StoppedBySignal: the user wants no more of it.
    """
    if config.gossip.method == "a2c":
        tell("--learners auto: --method a2c has one learner, and nothing to choose")
        return config
    cache = cache or RateCache()
    machine = inspect_machine(config.resources.device)
    key = workload(config, machine)
    found = cache.find(key)
    if found is not None:
        rates, when = found.by_learners, f"as measured on {found.measured}"
    else:
        rates, when = _measured(config, candidates(config, machine), tell), "measured now"
        try:
            cache.keep(key, rates)
        except OSError as error:
            complain(f"{cache.path}: {error.strerror}: the rates will be measured again next time")
    best = quickest(rates)
    listed = ", ".join(f"{count}: {rate:,.0f}" for count, rate in sorted(rates.items()))
    tell(f"--learners auto: {best} (agent steps/s by learners, {when}: {listed})")
    return replace(config, resources=replace(config.resources, learners=best))


def candidates(config: RunConfig, machine: Machine) -> list[int]:
    """Return the numbers of learners to try, in ascending order.

    On CPUs half as many as cores, as many, twice as many, and one alone; on GPUs one, two or four
    on each, with at least two cores apiece.
    """
    cores = len(machine.cores)
    if machine.gpus and config.resources.device != "cpu":
        listed = config.resources.device.count("cuda:")
        gpus = listed or machine.gpus
        numbers = {gpus * each for each in (1, 2, LEARNERS_PER_GPU)}
        most = max(gpus, cores // 2)
    else:
        numbers = {1, cores // 2, cores, 2 * cores}
        most = LEARNERS_PER_CORE * cores
    return sorted(number for number in numbers if 1 <= number <= most)


def quickest(rates: Mapping[int, float]) -> int:
    """Return the least number of learners that is as good as the quickest."""
    enough = AS_GOOD * max(rates.values())
    return min(count for count, rate in rates.items() if rate >= enough)


def workload(config: RunConfig, machine: Machine) -> dict[str, Any]:
    """Return what the rates depend on: this machine, these versions, and the cost of a step."""
    resources = asdict(config.resources)
    for name in ("learners", "hang_after_s", "max_restarts"):
        del resources[name]
    environment = config.environment
    return {
        "machine": [platform.node(), processor(), len(machine.cores), machine.gpus],
        "versions": [galamp.__version__, torch.__version__],
        "environment": asdict(environment) | {"env_id": canonical_env_id(environment.env_id)},
        "algorithm": [config.algorithm.num_steps, config.algorithm.precision],
        "network": config.model.network,
        "gossip": asdict(config.gossip),
        "resources": resources,
    }


def processor() -> str:
    """Return the name of the processor, as far as the kernel tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.machine()
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.machine())


@dataclass
class Stopwatch:
    """A run's companion: it lets the run warm up, measures it, and ends it.

    `rate` is in agent steps/s, over all learners; 0 until it was measured.
    """

    warm_up_s: float = WARM_UP_S
    measure_s: float = MEASURE_S
    rate: float = 0.0
    _since_s: float | None = None
    _first: tuple[float, int] | None = None

    def tick(self, supervisor: Supervisor) -> None:
        """Look at the clock; see `galamp.supervisor.Companion`."""
        now_s = time.monotonic()
        if self.rate or not all(post.has_worked for post in supervisor.crew.learners):
            return
        self._since_s = self._since_s or now_s
        if now_s - self._since_s < self.warm_up_s:
            return
        steps = supervisor.arena.board.agent_steps()
        if self._first is None:
            self._first = now_s, steps
        elif now_s - self._first[0] >= self.measure_s:
            self.rate = (steps - self._first[1]) / (now_s - self._first[0])
            supervisor.finish()


def _measured(config: RunConfig, numbers: Sequence[int], tell: Tell) -> dict[int, float]:
    """Try all `numbers` of learners; those that this machine or the graph cannot have are left out.

    Raises:
        UserError: none of them fits.
    """
    seconds = len(numbers) * (START_S + WARM_UP_S + MEASURE_S)
    tell(
        f"--learners auto: trying {', '.join(map(str, numbers))}, about {seconds:.0f} s, once for "
        "this machine and these settings"
    )
    rates, refused = dict[int, float](), list[UserError]()
    for number in numbers:
        try:
            rates[number] = rate_of(config, number, Stopwatch())
        except UserError as error:
            refused.append(error)
    if not rates:
        raise refused[0]
    return rates


def rate_of(config: RunConfig, learners: int, stopwatch: Stopwatch) -> float:
    """Run `config` with so many learners for as long as `stopwatch` does; returns agent steps/s.

    Raises:
        UserError: the machine or the graph cannot have so many.
        RunFailed: the run failed.
        StoppedBySignal: the user wants no more of it.
    """
    with tempfile.TemporaryDirectory(prefix="galamp-calibration-") as folder:
        report = ReportConfig(
            run_dir=os.path.join(folder, "run"), quiet=True, checkpoint_every_s=1e6
        )
        short = replace(
            config,
            total_steps=10**15,
            resources=replace(config.resources, learners=learners),
            report=report,
        )
        outcome = train(short, companions=[stopwatch])
    _check(outcome, learners)
    return stopwatch.rate


def _check(outcome: Outcome, learners: int) -> None:
    result = outcome.result
    if result.status == "stopped":
        raise StoppedBySignal(result.exit_code)
    if result.failure is not None:
        raise RunFailed(f"--learners auto, trying {learners}: {result.failure}")
