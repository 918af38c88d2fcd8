"""Pipeline: a learner acts for the next rollout while it learns from the last one (`--pipeline`).

    turn k   learner's thread   act for rollout k by the policy after update k - 2
             update thread      update k - 1, on rollout k - 1
             both are done      update k - 1 counts, gossip

The policy that acts is a copy of the one that learns, as of the end of the turn before. So every
rollout but the first is exactly one update older than the parameters that it changes, however busy
the machine is, and lock-step is repeatable. What is saved, published and mixed is the policy that
learns, between two turns. The rollout that was collected last is then not learned from yet: at the
end of a run it is (`drain`); after a kill it is lost.

After IMPALA (Espeholt et al. 2018), with one actor per learner and a lag that does not vary.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from galamp.algorithms.base import Algorithm, Rollout
from galamp.algorithms.normalising import rescaled
from galamp.core.normalisation import Scales
from galamp.memory.metrics import POLICY_LAG
from galamp.memory.status import Phase
from galamp.workers.turns import Parts, Turns
from galamp.workers.update_thread import UpdateThread


class Pending(NamedTuple):
    """A rollout that is not learned from yet.

    Attributes:
        rollout: stays as it is until the next one is complete.
        memory: what acting remembered at its start, [B, S]; None if nothing.
        agent_steps: of all learners at its start.
        version: updates of the policy that acted.
        scales: of its observations and rewards; None without a normaliser.
    """

    rollout: Rollout
    memory: Tensor | None
    agent_steps: int
    version: int
    scales: Scales | None


class Pipeline(Turns):
    """Turns in which a rollout is collected while the one before is learned from."""

    def __init__(self, parts: Parts, behaviour: Algorithm, device: torch.device) -> None:
        """Act with `behaviour`, a copy of the algorithm, with which `parts.collector` collects."""
        super().__init__(parts)
        self._behaviour = behaviour
        self._thread = UpdateThread(device, parts.reduce)
        self._pending: Pending | None = None
        self._scales: Scales | None = None
        self._algorithm.heartbeat = self._thread.heartbeat

    def turn(self, number: int, turn: int, agent_steps: int) -> None:
        """Collect a rollout, and meanwhile learn from the one before; see `Turns.turn`."""
        normaliser, pending = self._normaliser, self._pending
        learns = normaliser is None or normaliser.start_turn(turn)
        self._behaviour.schedule(agent_steps, self._parts.total_steps)
        self._behaviour.follow(self._algorithm)
        memory, version = self._behaviour.memory, self._algorithm.version
        memory = None if memory is None else memory.clone()
        if pending is not None:
            self._start(pending)
        rollout = self._collector.collect(number)
        if normaliser is not None:
            self._count(normaliser, number)
            self._status.metrics.report(normaliser.gauges())
        self._finish(pending)
        self._pending = None
        if learns:
            kept = self._collector.keep(rollout)
            scales = None if normaliser is None else normaliser.scales
            self._pending = Pending(kept, memory, agent_steps, version, scales)
        else:
            self._parts.exchange.pass_turn()

    def drain(self) -> None:
        """Learn from the last rollout, too; then exchange."""
        pending, self._pending = self._pending, None
        if pending is not None:
            self._start(pending)
            self._finish(pending)

    def close(self) -> None:
        """Complete an update that is in progress, without an exchange; see `Turns.close`.

        Raises:
            RunFailed: it does not end.
            Exception: what the update has raised.
        """
        self._thread.close()
        self._pending = None
        if self._normaliser is not None:
            self._normaliser.end_turn()

    def _start(self, pending: Pending) -> None:
        """Start the update on a rollout, in the scales in which it was collected."""
        algorithm, normaliser = self._algorithm, self._normaliser
        algorithm.schedule(pending.agent_steps, self._parts.total_steps)
        if normaliser is not None and pending.scales is not None:
            normaliser.enter(pending.scales)
            if normaliser.scaling.observations is not None:
                before = self._scales or pending.scales
                algorithm.rescale(partial(rescaled, before=before, after=pending.scales))
            self._scales = pending.scales
        if pending.memory is not None:
            algorithm.remember(pending.memory)
        self._status.metrics.report({POLICY_LAG: algorithm.version - pending.version})
        self._thread.start(partial(algorithm.update, pending.rollout))

    def _finish(self, pending: Pending | None) -> None:
        """End a turn: wait for its update, if there is one, and exchange."""
        if pending is not None:
            self._status.enter(Phase.UPDATE)
            self._learned(self._thread.finish(self._status.heartbeat))
        if self._normaliser is not None:
            self._normaliser.end_turn()
        if pending is not None:
            self._exchange()
