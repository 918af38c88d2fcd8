"""`--learners auto`: the number of learners that is quickest here, measured once and remembered.

    candidates --a short run each--> agent steps/s --> the quickest; storage.rate_cache keeps them

Runs in the parent, before the run that asked for it. What is remembered holds for one machine and
one workload: all that says what an agent step costs, and nothing that says what is learned from it.
What was measured while others used the machine, too, is used and not remembered.
"""

from __future__ import annotations

import gc
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import datetime
from typing import Any, NamedTuple

import torch

import galamp
from galamp.core.config import ReportConfig, RunConfig
from galamp.core.errors import GalampError, RunFailed, StoppedBySignal, UserError
from galamp.core.machine.load import Usage, others_share, read_usage
from galamp.core.machine.machine import Machine, inspect_machine, machine_id, processor_name
from galamp.core.settings import AUTO
from galamp.environments.names import canonical_env_id
from galamp.gossip.topologies import FILE
from galamp.storage.rate_cache import RateCache
from galamp.storage.run_folder import RunFolder, StoredChoices
from galamp.supervision.plan import LEARNERS_PER_CORE, make_plan, usable_devices
from galamp.supervision.signals import Signals
from galamp.training.session import complain
from galamp.training.supervisor import RunResult, Supervisor
from galamp.training.train import train

WARM_UP_S, MEASURE_S = 2.0, 4.0
START_S = 2.0
"""What a run takes besides, for the announcement."""
AS_GOOD = 0.97
"""Fewer learners that reach this share of the greatest rate are preferred: they take less memory,
and that much is noise."""

LEAST_CHANGES = 20
"""A learner counts its steps once per rollout: of long ones, a few seconds see too few."""
LONGEST_S = 15.0

TOLERATED = 0.1
"""Rates are remembered if others took no more than this share of the processors meanwhile."""
WAIT_S = 120.0
"""Another start of the user's that measures on this machine is waited for at most so long."""

KEPT_NOTHING = StoredChoices()
"""Of a new run."""

Tell = Callable[[str], object]


class Measured(NamedTuple):
    """What was measured, and the greatest share of the processors that others took meanwhile.

    Attributes:
        rates: agent steps/s by number of learners.
        others: 0 to 1.
    """

    rates: dict[int, float]
    others: float


def with_quickest(
    config: RunConfig,
    tell: Tell,
    cache: RateCache | None = None,
    *,
    new: bool = True,
    kept: StoredChoices = KEPT_NOTHING,
) -> RunConfig:
    """Return `config` with the number of learners that is quickest on this machine.

    Args:
        config: the settings of the run, whose number of learners is open.
        tell: takes lines for the user.
        cache: where rates are kept (default: the user's).
        new: whether the run is a new one, which needs a folder of its own.
        kept: what a run that goes on has of its own.

    Raises:
        UserError: the settings do not fit the machine, or one another.
        RunFailed: no number of learners could be run.
        StoppedBySignal: the user wants no more of it.
    """
    machine = inspect_machine(config.resources.device)
    tried = config
    if kept.devices:
        device = usable_devices(config.resources.device, machine)
        tried = replace(config, resources=replace(config.resources, device=device))
    check(tried, machine, new=new)
    rates, when = _rates(tried, machine, cache or RateCache(), tell)
    best = quickest(rates)
    listed = ", ".join(f"{count}: {rate:,.0f}" for count, rate in sorted(rates.items()))
    tell(f"--learners auto: {best} (agent steps/s by learners, {when}: {listed})")
    return replace(config, resources=replace(config.resources, learners=best))


def _rates(
    config: RunConfig, machine: Machine, cache: RateCache, tell: Tell
) -> tuple[dict[int, float], str]:
    """Return the rates, as remembered or as measured now, and a word on which of the two it is.

    Raises:
        UserError, RunFailed, StoppedBySignal: as `measured`.
    """
    key, numbers = workload(config, machine), candidates(config, machine)
    if (known := _remembered(cache, key, numbers)) is not None:
        return known
    with cache.measuring(
        key["machine"],
        WAIT_S,
        lambda: tell("--learners auto: waiting for another start that measures"),
    ):
        if (known := _remembered(cache, key, numbers)) is not None:
            return known  # by the other start
        found = measured(config, numbers, tell)
        _remember(cache, key, found, tell)
    return found.rates, "measured now"


def _remembered(
    cache: RateCache, key: dict[str, Any], numbers: Sequence[int]
) -> tuple[dict[int, float], str] | None:
    """Return what is remembered of the numbers that would be tried; others are nobody's choice."""
    found = cache.find(key)
    if found is None:
        return None
    rates = {number: rate for number, rate in found.by_learners.items() if number in numbers}
    return (rates, f"as measured on {found.measured}, see {cache.path}") if rates else None


def _remember(cache: RateCache, key: dict[str, Any], found: Measured, tell: Tell) -> None:
    if found.others > TOLERATED:
        tell(
            f"--learners auto: other programs took up to {found.others:.0%} of the processors "
            "meanwhile: these rates are used now, and measured again next time"
        )
        return
    try:
        cache.keep(key, found.rates)
    except OSError as error:
        complain(f"{cache.path}: {error.strerror}: the rates will be measured again next time")


def check(config: RunConfig, machine: Machine, *, new: bool) -> None:
    """Find mistakes that would otherwise be told only after all the measuring.

    Raises:
        UserError: there is one.
    """
    if config.gossip.method == "single":
        raise UserError(
            "--learners auto: --method single is one learner with everyone's environments, whose "
            "number is not to be guessed; expected a whole number"
        )
    if config.gossip.topology.startswith(FILE):
        raise UserError(
            f"--learners auto: the graph of --topology {config.gossip.topology} is for one number "
            "of learners; give that number"
        )
    make_plan(replace(config, resources=replace(config.resources, learners=AUTO)), machine)
    report = config.report
    if new and report.run_dir:
        env_id, now = config.environment.env_id, datetime.now()
        RunFolder.create(None, report.run_dir, env_id, report.name, config.seed, now).close()


def candidates(config: RunConfig, machine: Machine) -> list[int]:
    """Return the numbers of learners to try, in ascending order.

    On CPUs half as many as cores, as many, twice as many, and one alone; on GPUs one, two or four
    on each, with at least two cores apiece. Cores of which a control group allows no use do not
    count.
    """
    cores = machine.usable
    if machine.gpus and config.resources.device != "cpu":
        listed = config.resources.device.count("cuda:")
        gpus = listed or len(machine.gpus)
        numbers = {gpus * each for each in (1, 2, 4)}
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
    for name in ("learners", "start_timeout_s", "hang_after_s", "max_restarts"):
        del resources[name]
    environment, algorithm = config.environment, config.algorithm
    return {
        "machine": [machine_id(), processor_name(), len(machine.cores), cards(machine)],
        "quota": machine.quota if machine.throttled else None,
        "versions": [galamp.__version__, torch.__version__],
        "environment": asdict(environment) | {"env_id": canonical_env_id(environment.env_id)},
        "algorithm": [algorithm.algorithm, algorithm.num_steps, algorithm.precision],
        "network": config.model.network,
        "gossip": asdict(config.gossip),
        "resources": resources,
    }


def cards(machine: Machine) -> list[str]:
    """Return the names of a machine's GPUs; of one that was not tried, its device's name."""
    return [gpu.name or gpu.device for gpu in machine.gpus]


class ThroughputProbe:
    """A run's companion: it lets the run warm up, measures it, and ends it.

    It measures from one change of the learners' count of steps to another. `rate` is in agent
    steps/s, over all learners; 0 until it was measured. `others` is the share of the processors
    that others took meanwhile, 0 to 1.
    """

    def __init__(
        self,
        warm_up_s: float = WARM_UP_S,
        measure_s: float = MEASURE_S,
        usage: Callable[[], Usage | None] = read_usage,
    ) -> None:
        self.warm_up_s, self.measure_s, self.rate = warm_up_s, measure_s, 0.0
        self.others = 0.0
        self._usage = usage
        self._before: Usage | None = None
        self._warm_s: float | None = None
        self._steps: int | None = None
        self._first: tuple[float, int] | None = None
        self._changes = 0

    def tick(self, supervisor: Supervisor) -> None:
        """Look at the clock; see `galamp.training.supervisor.Companion`."""
        if self.rate or not all(child.has_worked for child in supervisor.children.learners):
            return
        now_s, steps = time.monotonic(), supervisor.run_layout.status_board.agent_steps()
        self._warm_s = self._warm_s or now_s + self.warm_up_s
        if now_s >= self._warm_s and self._changed(steps) and self._passed(now_s, steps):
            supervisor.finish()

    def _changed(self, steps: int) -> bool:
        before, self._steps = self._steps, steps
        return before not in (None, steps)

    def _passed(self, now_s: float, steps: int) -> bool:
        """Whether enough has been seen, now that the count has changed."""
        if self._first is None:
            self._first, self._before = (now_s, steps), self._usage()
            return False
        self._changes += 1
        passed_s = now_s - self._first[0]
        enough = self._changes >= LEAST_CHANGES or passed_s >= LONGEST_S
        if passed_s >= self.measure_s and enough:
            self.rate = (steps - self._first[1]) / passed_s
            self.others = others_share(self._before, self._usage())
        return self.rate > 0


def measured(config: RunConfig, numbers: Sequence[int], tell: Tell) -> Measured:
    """Measure those of `numbers` that this machine and the graph can have.

    Raises:
        UserError, RunFailed: none of them.
        StoppedBySignal: the user wants no more of it.
    """
    seconds = len(numbers) * (START_S + WARM_UP_S + MEASURE_S)
    tell(
        f"--learners auto: trying {', '.join(map(str, numbers))}, about {seconds:.0f} s, once for "
        "this machine and these settings"
    )
    rates, failures, others = dict[int, float](), list[GalampError](), 0.0
    with Signals(detach=config.report.on_hangup == "detach") as signals:
        for number in numbers:
            stopwatch = ThroughputProbe()
            try:
                rates[number] = rate_of(config, number, stopwatch, signals)
                others = max(others, stopwatch.others)
            except (UserError, RunFailed) as error:
                if not rates and failures and str(error) == str(failures[-1]):
                    raise  # it is not the number that is wrong
                failures.append(error)
                tell(f"--learners auto: {number} is left out: {error}")
    if not rates:
        raise failures[0]
    return Measured(rates, others)


def rate_of(
    config: RunConfig, learners: int, stopwatch: ThroughputProbe, signals: Signals
) -> float:
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
        try:
            result = train(short, callbacks=[stopwatch], signals=signals).result
        finally:
            gc.unfreeze()
            gc.collect()  # the short run's memory
    check_result(result, signals)
    return stopwatch.rate


def check_result(result: RunResult, signals: Signals) -> None:
    """See how a short run has ended.

    Raises:
        RunFailed: not by its stopwatch.
        StoppedBySignal: by a signal, or one came while it ended.
    """
    if result.status == "stopped":
        raise StoppedBySignal(result.exit_code)
    number = signals.take()
    if number is not None:
        raise StoppedBySignal(128 + number)
    if result.failure is not None:
        raise RunFailed(str(result.failure))
