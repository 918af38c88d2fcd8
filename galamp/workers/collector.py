"""Collector: fills one learner's rollouts. Observations in, actions out, until a rollout is full.

    simulators --row--> LearnerPort.receive --> Actor.act --> send --> simulators

Runs in the learner. The environments are split into parts that take turns: while the policy acts
for one part, the other parts step. An `Actor` runs the policy, on a CPU or a GPU.

The environments of a simulator that has died or is late are acted on, but never learned from.
"""

from __future__ import annotations

import itertools
import sys
import traceback

import torch

from galamp.algorithms.base import Algorithm, Rollout
from galamp.algorithms.cuda_graphs import Graphs
from galamp.core.failpoints import hit
from galamp.core.machine.gpu_failures import is_memory_full
from galamp.memory.rollout_ports import Idle, LearnerPort
from galamp.memory.rollouts import RolloutShape
from galamp.memory.status import Phase, StatusRow
from galamp.workers.acting import Actor, DeviceActor, HostActor
from galamp.workers.normaliser import Scaling


class Collector:
    """Collects rollouts with the current policy.

    With `learner`, another copy of the algorithm that learns, `algorithm` only acts.
    """

    def __init__(
        self,
        port: LearnerPort,
        algorithm: Algorithm,
        status: StatusRow,
        idle: Idle,
        *,
        device: torch.device,
        env_splits: int,
        clip_rewards: bool,
        scaling: Scaling | None = None,
        learner: Algorithm | None = None,
    ) -> None:
        self._port, self._algorithm, self._status, self._idle = port, algorithm, status, idle
        self._steps, envs = port.shape.num_steps, port.shape.num_envs
        self._learner = algorithm if learner is None else learner
        self._learner.prepare(self._steps, envs)
        acts_only = learner is not None
        if acts_only:
            algorithm.prepare(1, envs)
        self._splits = split(port.shape, env_splits)
        self._actor: Actor
        if device.type == "cuda":
            status.metrics["page_lock_refusal"] = max(
                status.metrics["page_lock_refusal"], port.page_lock()
            )
            self._actor = DeviceActor(
                port.slots, algorithm, device, clip_rewards=clip_rewards, scaling=scaling,
                copies=acts_only,
            )  # fmt: skip
        else:
            self._actor = HostActor(
                port.slots, algorithm, clip_rewards=clip_rewards, scaling=scaling,
                caches=not acts_only,
            )  # fmt: skip

    def record(self, reduces: bool | None) -> bool:
        """Record CUDA graphs for acting and learning on the GPU, and use them from now on.

        Returns whether they could be recorded. If not, in this or an earlier incarnation of the
        learner, kernels are launched one by one, and the learner learns the same. The reason goes
        to standard error; `graph_refusal` in the learner's status row is set.

        Args:
            reduces: what `reduce` will return in updates; None if there is no `reduce`.
        """
        actor, algorithm, learner = self._actor, self._algorithm, self._learner
        if not isinstance(actor, DeviceActor) or self._status["graph_refusal"]:
            return False
        drawn = algorithm.generator.get_state()
        try:
            graphs = Graphs()
            launches = actor.record(graphs, [envs for _, envs in self._splits])
            self._status.heartbeat()
            if learner is not algorithm:
                graphs = Graphs()  # with memory of their own: they run while the others do
            learner.record(actor.learned, graphs, reduces)
            actor.launches = launches
        except Exception as error:
            if is_memory_full(str(error)):
                raise  # a different failure, with its own message
            traceback.print_exc(file=sys.stderr)
            self._status["graph_refusal"] = 1
            # The capture may still hold the generator: torch then draws no more numbers from it.
            algorithm.generator = torch.Generator(algorithm.generator.device).set_state(drawn)
            learner.generator = algorithm.generator
            return False
        return True

    def collect(self, number: int) -> Rollout:
        """Collect rollout `number`; it may be used until the next one is started."""
        slot, first = number % self._port.shape.slots, number * self._steps
        self._status.enter(Phase.COLLECT)
        self._port.start_rollout(number, self._idle)
        for step in range(self._steps):
            if step == self._steps // 2:
                hit("collector.half")
            for workers, envs in self._splits:
                self._receive(first + step, workers)
                self._port.send(first + step, workers, self._actor.act(slot, step, envs))
        for workers, envs in self._splits:
            self._receive(first + self._steps, workers)
            self._actor.observe(slot, self._steps, envs)
        return self._actor.rollout(slot, self._port.valid_mask)

    def keep(self, rollout: Rollout) -> Rollout:
        """Return the last rollout where the next one leaves it alone, until the next call.

        On a CPU the ring needs a slot for that: `PIPELINE_SLOTS`.
        """
        return self._actor.keep(rollout)

    @property
    def agent_steps(self) -> int:
        """Agent steps of the last rollout, by active simulators."""
        return int(self._port.valid_mask.sum())

    def _receive(self, row: int, workers: range) -> None:
        """Wait for a row of simulators; the phase is COLLECT meanwhile, and INFER afterwards."""
        self._status.enter(Phase.COLLECT)
        self._port.receive(row, workers, self._idle)
        self._status.enter(Phase.INFER)


def split(shape: RolloutShape, parts: int) -> list[tuple[range, slice]]:
    """Split the environments into contiguous parts: (simulators, environments) of each."""
    edges = [shape.workers * part // parts for part in range(parts + 1)]
    workers = [range(low, high) for low, high in itertools.pairwise(edges)]
    return [(w, slice(shape.envs(w[0]).start, shape.envs(w[-1]).stop)) for w in workers]
