"""A learner's rollouts: observations in, actions out, until one is full.

    simulators --row--> LearnerPort.take --> Actor.act --> send --> simulators

Runs in the learner. The environments are split into parts that take turns: while the policy acts
for one, the others step. Where the policy lives is its `Actor`'s to know.

The lanes of a simulator that has died or is late are acted on, and learned from by nobody.
"""

from __future__ import annotations

import itertools
import sys
import traceback

import torch

from galamp.algorithms.base import Algorithm, Rollout
from galamp.algorithms.cuda_graphs import Graphs
from galamp.core.failpoints import reach
from galamp.core.machine.gpu_failures import is_memory_full
from galamp.memory.rollout_ports import Idle, LearnerPort
from galamp.memory.rollouts import NUM_SLOTS, RolloutShape
from galamp.memory.status import Phase, StatusRow
from galamp.workers.acting import Actor, DeviceActor, HostActor


class Collector:
    """Fills rollouts with the present policy."""

    def __init__(
        self,
        port: LearnerPort,
        algorithm: Algorithm,
        metrics: StatusRow,
        idle: Idle,
        *,
        device: torch.device,
        env_splits: int,
        clip_rewards: bool,
    ) -> None:
        self._port, self._algorithm, self._metrics, self._idle = port, algorithm, metrics, idle
        self._steps = port.shape.num_steps
        algorithm.expect(port.shape.num_steps, port.shape.num_envs)
        self._splits = split(port.shape, env_splits)
        self._actor: Actor
        if device.type == "cuda":
            metrics["page_lock_refusal"] = max(metrics["page_lock_refusal"], port.page_lock())
            self._actor = DeviceActor(port.slots, algorithm, device, clip_rewards=clip_rewards)
        else:
            self._actor = HostActor(port.slots, algorithm, clip_rewards=clip_rewards)

    def record(self, reduces: bool | None) -> bool:
        """Have the GPU act and learn by CUDA graphs from now on, if they can be recorded.

        Returns whether they could.

        If not, in this life of the learner or in a former one, kernels are launched one by one: the
        same is learned. Why is told on standard error, and that it is so in the learner's row.

        Args:
            reduces: what `reduce` will return in updates; None if there will be none.
        """
        actor, algorithm = self._actor, self._algorithm
        if not isinstance(actor, DeviceActor) or self._metrics["graph_refusal"]:
            return False
        drawn = algorithm.generator.get_state()
        try:
            graphs = Graphs()
            launches = actor.record(graphs, [envs for _, envs in self._splits])
            self._metrics.beat()
            algorithm.record(actor.filled, graphs, reduces)
            actor.launches = launches
        except Exception as error:
            if is_memory_full(str(error)):
                raise  # that is another matter, and told as such
            traceback.print_exc(file=sys.stderr)
            self._metrics["graph_refusal"] = 1
            # The capture may still have the generator: torch then draws nothing more from it.
            algorithm.generator = torch.Generator(algorithm.generator.device).set_state(drawn)
            return False
        return True

    def collect(self, number: int) -> Rollout:
        """Collect rollout `number`; it is valid until the next one is begun."""
        slot, first = number % NUM_SLOTS, number * self._steps
        self._metrics.enter(Phase.COLLECT)
        self._port.begin(number, self._idle)
        for step in range(self._steps):
            if step == self._steps // 2:
                reach("collector.half")
            for workers, envs in self._splits:
                self._take(first + step, workers)
                self._port.send(first + step, workers, self._actor.act(slot, step, envs))
        for workers, envs in self._splits:
            self._take(first + self._steps, workers)
            self._actor.see(slot, self._steps, envs)
        return self._actor.rollout(slot, self._port.valid_mask)

    @property
    def agent_steps(self) -> int:
        """Agent steps of the last rollout: those of simulators that took part."""
        return int(self._port.valid_mask.sum())

    def _take(self, row: int, workers: range) -> None:
        """Wait for the simulators; the time after that is the policy's."""
        self._metrics.enter(Phase.COLLECT)
        self._port.take(row, workers, self._idle)
        self._metrics.enter(Phase.INFER)


def split(shape: RolloutShape, parts: int) -> list[tuple[range, slice]]:
    """Split the environments into contiguous parts: the simulators of each, and its lanes."""
    edges = [shape.workers * part // parts for part in range(parts + 1)]
    workers = [range(low, high) for low, high in itertools.pairwise(edges)]
    return [(w, slice(shape.envs(w[0]).start, shape.envs(w[-1]).stop)) for w in workers]
