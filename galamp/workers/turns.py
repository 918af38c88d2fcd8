"""Turns of a learner: collect a rollout, learn from it, exchange; here one after the other.

    Learner.run --turn--> collect --rollout--> update --parameters--> exchange

Runs in the learner. `Pipeline` is the other way: there collecting and learning overlap.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from galamp.algorithms.base import Algorithm, Rollout
from galamp.algorithms.normalising import rescaled
from galamp.core.errors import StopRun
from galamp.core.failpoints import hit
from galamp.gossip.exchange import Exchange
from galamp.memory.metrics import LEARNING_RATE
from galamp.memory.rollout_ports import LearnerPort
from galamp.memory.status import Phase, StatusRow
from galamp.workers.collector import Collector
from galamp.workers.normaliser import Normaliser


@dataclass(frozen=True)
class Parts:
    """What a learner's turns work with.

    Attributes:
        algorithm: learns.
        collector: collects rollouts.
        port: of these rollouts.
        exchange: with the other learners.
        reduce: passed to updates; None if they do not exchange gradients.
        normaliser: of what comes from simulators; None if nothing is normalised.
        status: row of the learner.
        total_steps: of all learners, at which the run ends.
    """

    algorithm: Algorithm
    collector: Collector
    port: LearnerPort
    exchange: Exchange
    reduce: Callable[[], bool] | None
    normaliser: Normaliser | None
    status: StatusRow
    total_steps: int


class Turns(ABC):
    """Turns of one learner."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._algorithm, self._collector = parts.algorithm, parts.collector
        self._normaliser, self._status = parts.normaliser, parts.status

    @abstractmethod
    def turn(self, number: int, turn: int, agent_steps: int) -> None:
        """Take a turn, with rollout `number`.

        Args:
            number: of the rollout.
            turn: turns so far.
            agent_steps: of all learners so far.

        Raises:
            StopRun: the run is over; see `close`.
        """

    def drain(self) -> None:  # noqa: B027
        """End the last turn of a run: all that was collected is learned from."""

    def close(self) -> None:  # noqa: B027
        """Leave a turn, with the learned state as it is: nothing writes to it any more."""

    def _count(self, normaliser: Normaliser, number: int) -> None:
        """Count the rollout `number` in the normaliser's statistics."""
        port = self._parts.port
        normaliser.count(port.slots[number % port.shape.slots], port.valid_mask)

    def _learned(self, gauges: dict[str, float]) -> None:
        """Report an update that has changed the parameters."""
        hit("learner.updated")
        metrics = self._status.metrics
        metrics.report(gauges | {LEARNING_RATE: self._algorithm.learning_rate})
        metrics["overflows"] += not math.isfinite(gauges["grad_norm"])

    def _exchange(self) -> None:
        self._status.enter(Phase.GOSSIP)
        self._parts.exchange.turn(self._algorithm.version)
        hit("learner.mixed")


class PlainTurns(Turns):
    """Turns in which a rollout is learned from before the next one is begun."""

    def turn(self, number: int, turn: int, agent_steps: int) -> None:
        """Collect a rollout, update, and exchange; see `Turns.turn`."""
        self._algorithm.schedule(agent_steps, self._parts.total_steps)
        if self._normaliser is None:
            self._update(self._collector.collect(number))
            self._exchange()
        else:
            self._normalised(self._normaliser, number, turn)

    def _normalised(self, normaliser: Normaliser, number: int, turn: int) -> None:
        """Collect a rollout and update in the newest scales; exchange in raw ones.

        Before there are enough data to choose the first scales, nothing is learned.
        """
        before = normaliser.scales
        learns = normaliser.start_turn(turn)
        if normaliser.scaling.observations is not None:
            self._algorithm.rescale(partial(rescaled, before=before, after=normaliser.scales))
        try:
            rollout = self._collector.collect(number)
            self._count(normaliser, number)
            if learns:
                self._update(rollout)
        except StopRun:
            normaliser.end_turn()
            raise
        normaliser.end_turn()
        self._status.metrics.report(normaliser.gauges())
        if learns:
            self._exchange()
        else:
            self._algorithm.discard()
            self._parts.exchange.pass_turn()

    def _update(self, rollout: Rollout) -> None:
        self._status.enter(Phase.UPDATE)
        self._learned(self._algorithm.update(rollout, self._parts.reduce))
