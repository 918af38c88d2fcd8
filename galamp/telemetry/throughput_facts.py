"""Facts of a run's throughput, for the bottleneck: settings, phases, and how idle simulators are.

    RunLayout, LearnerReading, ..., SystemReading --FactsReader--> Facts --> bottleneck

Runs in the supervisor; it only reads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from galamp.core.throughput import ThroughputMeter
from galamp.memory.status import Phase
from galamp.supervision.layout import RunLayout
from galamp.telemetry.bottleneck import Facts
from galamp.telemetry.learner_reading import RATE_WINDOW_S, LearnerReading
from galamp.telemetry.metrics_row import mean_of
from galamp.telemetry.snapshot import SystemReading

SAMPLE_EVERY_S = 2.0


class FactsReader:
    """Reads the facts of one attempt."""

    def __init__(self, run_layout: RunLayout, rates: Mapping[int, float]) -> None:
        """Read of `run_layout`; `rates` are agent steps/s by number of learners."""
        self._layout, self._rates = run_layout, rates
        self._simulators = [
            run_layout.status_board.simulator(index)
            for index in range(run_layout.count * run_layout.shape.workers)
        ]
        self._phases = ThroughputMeter(RATE_WINDOW_S)
        self._due_s = 0.0

    def sample(self, now_s: float) -> bool:
        """Record the simulators' phases, unless that was done just now; returns whether it was."""
        if now_s < self._due_s:
            return False
        self._due_s = now_s + SAMPLE_EVERY_S
        self._phases.add(now_s, np.sum([row.phase_s() for row in self._simulators], axis=0))
        return True

    def facts(self, learners: Sequence[LearnerReading], system: SystemReading) -> Facts:
        """Return what is known now."""
        plan = self._layout.plan
        resources, gossip = plan.config.resources, plan.config.gossip
        run, others = system.run_share, system.others_share
        rates = [gpu.utilisation for gpu in system.gpus if gpu.utilisation is not None]
        gpus = {device for device in plan.devices if device.startswith("cuda")}
        return Facts(
            shares=mean_of([each.phase_shares() for each in learners]),
            updates=min((each.updates for each in learners), default=0),
            learners=len(learners),
            cores=len(system.cores),
            busy=None if run is None or others is None else run + others,
            others=others or 0.0,
            envs=self._layout.shape.num_envs,
            splits=resources.env_splits,
            workers=resources.simulator_workers,
            threads=resources.threads,
            simulators_idle=self._idle(),
            on_gpu=bool(gpus),
            gpu=sum(rates) / len(rates) if rates else None,
            gpus=len(gpus),
            synchronous=gossip.synchronous,
            max_staleness=gossip.max_staleness,
            rates=self._rates,
        )

    def _idle(self) -> float | None:
        """Return the share of the simulators' time in which they waited; None if unknown."""
        spent = np.asarray(self._phases.gain, np.float64)
        total = float(spent.sum())
        return float(spent[Phase.WAIT] / total) if spent.ndim and total > 0 else None
