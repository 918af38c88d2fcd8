"""`--learners auto`: the fastest number of learners on this machine, measured once and cached.

    candidates --a short run each--> agent steps/s --> the fastest; storage.rate_cache keeps them

Runs in the parent, before the run itself. A cached result is valid for one machine and one
workload: all settings that change the cost of an agent step, none that only change what is learned.
Rates that were measured while other programs used the processors are used, but not cached.
"""

from __future__ import annotations

import gc
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, NamedTuple

from galamp.core.config import ReportConfig, RunConfig
from galamp.core.errors import GalampError, RunFailed, StoppedBySignal, UserError
from galamp.core.eval_config import EvalConfig
from galamp.core.machine.load import Usage, others_share, read_usage
from galamp.core.machine.machine import Machine, inspect_machine
from galamp.core.settings import AUTO
from galamp.core.stop_config import StopConfig
from galamp.core.throughput import ThroughputMeter
from galamp.gossip.topologies import FILE
from galamp.storage.rate_cache import RateCache
from galamp.storage.run_folder import RunFolder, StoredChoices
from galamp.supervision.devices import usable_devices
from galamp.supervision.plan import LEARNERS_PER_CORE, make_plan
from galamp.supervision.signals import Signals
from galamp.telemetry.display.streams import warn
from galamp.training.result import RunResult
from galamp.training.supervisor import Supervisor
from galamp.training.train import train
from galamp.training.workload import workload

WARM_UP_S, MEASURE_S = 2.0, 4.0
START_S = 2.0
"""Start-up time of a short run, for the announced estimate."""
GOOD_ENOUGH = 0.97
"""The smallest number of learners with this share of the highest rate is chosen: it takes less
memory, and a difference of 3 % is noise."""

MIN_CHANGES = 20
"""A learner counts its steps once per rollout: with long rollouts, a few seconds show too few
changes."""
MAX_MEASURE_S = 15.0

MAX_OTHERS_SHARE = 0.1
"""Rates are cached if other programs took at most this share of the processors meanwhile."""
LOCK_TIMEOUT_S = 120.0
"""Longest wait for another process of this user that measures on this machine."""

NO_CHOICES = StoredChoices()
"""Stored choices of a new run: none."""

Notify = Callable[[str], object]


class Measured(NamedTuple):
    """Measured rates, and the largest share of the processors that other programs took meanwhile.

    Attributes:
        rates: agent steps/s by number of learners.
        others: 0 to 1.
    """

    rates: dict[int, float]
    others: float


def with_quickest(
    config: RunConfig,
    notify: Notify,
    cache: RateCache | None = None,
    *,
    new: bool = True,
    kept: StoredChoices = NO_CHOICES,
) -> RunConfig:
    """Return `config` with the fastest number of learners on this machine.

    Args:
        config: the settings of the run, whose number of learners is open.
        notify: called with each line for the user.
        cache: cache of rates (default: the user's).
        new: whether the run is a new one, which needs a folder of its own.
        kept: stored choices of a run that is resumed.

    Raises:
        UserError: the settings do not fit the machine, or one another.
        RunFailed: no number of learners could be run.
        StoppedBySignal: a signal has stopped the measurement.
    """
    machine = inspect_machine(config.resources.device)
    tried = config
    if kept.devices:
        device = usable_devices(config.resources.device, machine)
        tried = replace(config, resources=replace(config.resources, device=device))
    check(tried, machine, new=new)
    rates, when = _rates(tried, machine, cache or RateCache(), notify)
    best = quickest(rates)
    listed = ", ".join(f"{count}: {rate:,.0f}" for count, rate in sorted(rates.items()))
    notify(f"--learners auto: {best} (agent steps/s by learners, {when}: {listed})")
    return replace(config, resources=replace(config.resources, learners=best))


def _rates(
    config: RunConfig, machine: Machine, cache: RateCache, notify: Notify
) -> tuple[dict[int, float], str]:
    """Return the rates, cached or measured now, and a note on which of the two.

    Raises:
        UserError, RunFailed, StoppedBySignal: as `measured`.
    """
    key, numbers = workload(config, machine), candidates(config, machine)
    if (known := _cached(cache, key, numbers)) is not None:
        return known
    with cache.measuring(
        key["machine"],
        LOCK_TIMEOUT_S,
        lambda: notify("--learners auto: waiting for another start that measures"),
    ):
        if (known := _cached(cache, key, numbers)) is not None:
            return known  # measured by the other process
        found = measured(config, numbers, notify)
        _store_rates(cache, key, found, notify)
    return found.rates, "measured now"


def _cached(
    cache: RateCache, key: dict[str, Any], numbers: Sequence[int]
) -> tuple[dict[int, float], str] | None:
    """Return the cached rates of the candidates; None if there are none."""
    found = cache.find(key)
    if found is None:
        return None
    rates = {number: rate for number, rate in found.by_learners.items() if number in numbers}
    return (rates, f"as measured on {found.measured}, see {cache.path}") if rates else None


def _store_rates(cache: RateCache, key: dict[str, Any], found: Measured, notify: Notify) -> None:
    if found.others > MAX_OTHERS_SHARE:
        notify(
            f"--learners auto: other programs took up to {found.others:.0%} of the processors "
            "meanwhile: these rates are used now, and measured again next time"
        )
        return
    try:
        cache.save(key, found.rates)
    except OSError as error:
        warn(f"{cache.path}: {error.strerror}: the rates will be measured again next time")


def check(config: RunConfig, machine: Machine, *, new: bool) -> None:
    """Raise errors now that would otherwise appear only after the measurement.

    Raises:
        UserError: the settings do not fit the machine, or one another.
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
    """Return the numbers of learners to measure, in ascending order.

    On CPUs: half as many as cores, as many, twice as many, and 1. On GPUs: one, two or four per
    GPU, with at least two cores per learner. Cores that a control group's quota excludes do not
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
    """Return the smallest number of learners whose rate is `GOOD_ENOUGH`."""
    enough = GOOD_ENOUGH * max(rates.values())
    return min(count for count, rate in rates.items() if rate >= enough)


class ThroughputProbe:
    """Run callback that waits for a warm-up, measures throughput, and ends the run.

    Measures from one change of the learners' step count to another. `rate` is in agent steps/s over
    all learners; 0 until measured. `others` is the share of the processors that other programs took
    meanwhile, 0 to 1.
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
        self._meter = ThroughputMeter()
        self._changes = -1

    def tick(self, supervisor: Supervisor) -> None:
        """Advance the measurement; see `galamp.training.supervisor.Callback`."""
        if self.rate or not all(child.has_worked for child in supervisor.children.learners):
            return
        now_s, steps = time.monotonic(), supervisor.run_layout.status_board.agent_steps()
        self._warm_s = self._warm_s or now_s + self.warm_up_s
        if now_s >= self._warm_s and self._changed(steps) and self._is_complete(now_s, steps):
            supervisor.finish()

    def _changed(self, steps: int) -> bool:
        before, self._steps = self._steps, steps
        return before not in (None, steps)

    def _is_complete(self, now_s: float, steps: int) -> bool:
        """Return whether the measurement is complete; called when the step count has changed."""
        self._meter.add(now_s, steps)
        self._changes += 1
        if self._changes == 0:
            self._before = self._usage()
            return False
        passed_s = self._meter.seconds
        enough = self._changes >= MIN_CHANGES or passed_s >= MAX_MEASURE_S
        if passed_s >= self.measure_s and enough:
            self.rate = self._meter.rate
            self.others = others_share(self._before, self._usage())
        return self.rate > 0


def measured(config: RunConfig, numbers: Sequence[int], notify: Notify) -> Measured:
    """Measure those of `numbers` that this machine and graph allow.

    Raises:
        UserError, RunFailed: none of them could be measured.
        StoppedBySignal: a signal has stopped the measurement.
    """
    seconds = len(numbers) * (START_S + WARM_UP_S + MEASURE_S)
    notify(
        f"--learners auto: trying {', '.join(map(str, numbers))}, about {seconds:.0f} s, once for "
        "this machine and these settings"
    )
    rates, failures, others = dict[int, float](), list[GalampError](), 0.0
    with Signals(detach=config.report.on_hangup == "detach") as signals:
        for number in numbers:
            probe = ThroughputProbe()
            try:
                rates[number] = rate_of(config, number, probe, signals)
                others = max(others, probe.others)
            except (UserError, RunFailed) as error:
                if not rates and failures and str(error) == str(failures[-1]):
                    raise  # the cause is not the number of learners
                failures.append(error)
                notify(f"--learners auto: {number} is left out: {error}")
    if not rates:
        raise failures[0]
    return Measured(rates, others)


def rate_of(config: RunConfig, learners: int, probe: ThroughputProbe, signals: Signals) -> float:
    """Run `config` with `learners` learners until `probe` ends the run; returns agent steps/s.

    Raises:
        UserError: the machine or the graph does not allow this number.
        RunFailed: the run failed.
        StoppedBySignal: a signal has stopped it.
    """
    with tempfile.TemporaryDirectory(prefix="galamp-calibration-") as folder:
        report = ReportConfig(
            run_dir=os.path.join(folder, "run"), quiet=True, checkpoint_every_s=1e6
        )
        short = replace(
            config,
            total_steps=10**15,
            resources=replace(config.resources, learners=learners),
            stop=StopConfig(),
            evaluation=EvalConfig(),
            report=report,
        )
        try:
            result = train(short, callbacks=[probe], signals=signals).result
        finally:
            gc.unfreeze()
            gc.collect()  # free the short run's memory
    check_result(result, signals)
    return probe.rate


def check_result(result: RunResult, signals: Signals) -> None:
    """Check that a short run was ended by its probe.

    Raises:
        RunFailed: it failed.
        StoppedBySignal: a signal has ended it, or came while it ended.
    """
    if result.status == "stopped":
        raise StoppedBySignal(result.exit_code)
    number = signals.receive()
    if number is not None:
        raise StoppedBySignal(128 + number)
    if result.failure is not None:
        raise RunFailed(str(result.failure))
