"""A learner process: collect a rollout, learn from it, gossip, report; over and over.

    simulators --observations--> collect: act --actions--> simulators
                                    | a full rollout
                                 update: one optimiser step
                                    | flat parameters
                                 gossip: publish to out-peers, mix with in-peers

It never waits for another learner, but in lock-step or at the staleness bound.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass

import torch

from galamp.algorithms import make_algorithm
from galamp.algorithms.base import Algorithm
from galamp.collector import Collector
from galamp.config import AlgorithmConfig, GossipConfig
from galamp.control import NEVER, ControlBlock
from galamp.environments.base import EnvironmentSpec
from galamp.errors import StopRun
from galamp.gossip.exchange import Exchange
from galamp.gossip.topologies.base import Topology
from galamp.metrics import MetricsBoard, Phase
from galamp.models import build_model
from galamp.rollouts import LearnerPort, RingWake, RolloutShape
from galamp.shm import SharedArrays, Wakeup
from galamp.state import FINAL, STATE_COUNTERS, State, StateSlots

SAVE_EVERY_S = 1.0
"""About so much training is lost when a learner is killed."""


@dataclass(frozen=True)
class LearnerTask:
    """All that learner `rank` needs."""

    arrays: SharedArrays
    rank: int
    learners: int
    device: str
    threads: int
    batches: int
    shape: RolloutShape
    wake: RingWake
    gossip_wakeups: tuple[Wakeup, ...]
    environment: EnvironmentSpec
    algorithm: AlgorithmConfig
    network: str
    gossip: GossipConfig
    topology: Topology
    model_seed: int
    sampling_seed: int
    gossip_seed: int
    state_sizes: dict[str, int]
    total_steps: int


def main(task: LearnerTask) -> None:
    """Learn until the run is over; the last state is left in shared memory."""
    torch.set_num_threads(task.threads)
    if task.device != "cpu":
        torch.cuda.set_device(task.device)
    learner = Learner(task)
    with contextlib.suppress(StopRun):
        learner.run()
    learner.save(FINAL)
    learner.metrics["done"] = 1


class Learner:
    """The state of the loop."""

    def __init__(self, task: LearnerTask) -> None:
        self.task = task
        self.control = ControlBlock(task.arrays)
        self.board = MetricsBoard(task.arrays, task.learners)
        self.metrics = self.board.learner(task.rank)
        self.metrics.reset()
        self.algorithm = make_algorithm_for(task)
        self.collector = Collector(
            LearnerPort(task.arrays, task.rank, task.shape, task.wake),
            self.algorithm,
            self.metrics,
            self.idle,
            device=torch.device(task.device),
            batches=task.batches,
            clip_rewards=task.environment.clip_rewards,
        )
        self.exchange = Exchange(
            task.arrays,
            task.rank,
            task.topology,
            task.gossip,
            state=self.algorithm.state(),
            gradient=self.algorithm.parameters.grad,
            seed=task.gossip_seed,
            wakeups=task.gossip_wakeups,
            row=self.metrics,
            idle=self.idle,
        )
        self._states = StateSlots(task.arrays, task.rank, task.state_sizes)
        self._saved_id = 0
        self._saved_s = time.monotonic()
        self._restore()

    def run(self) -> None:
        """Turn until the total is reached or the supervisor says stop."""
        number = 0
        while not self._finished():
            rollout = self.collector.collect(number)
            self.metrics.enter(Phase.UPDATE)
            gauges = self.algorithm.update(rollout, self._reduce)
            self.collector.release(number)
            self.metrics.enter(Phase.GOSSIP)
            self.exchange.turn(self.algorithm.version)
            self.metrics.enter(Phase.OTHER)
            self.metrics.report(gauges)
            self.metrics["updates"] = self.algorithm.version
            self.metrics["turns"] += 1
            self.metrics["agent_steps"] += self.task.shape.num_steps * self.task.shape.num_envs
            self._serve()
            number += 1

    def _reduce(self) -> bool:
        """Hand the gradient to the exchange; returns whether it is everyone's now."""
        self.metrics.enter(Phase.GOSSIP)
        self.exchange.reduce()
        self.metrics.enter(Phase.UPDATE)
        return self.exchange.reduces

    def idle(self) -> None:
        """Show life during a wait, and end it once the run is over."""
        self.metrics.beat()
        if self.control.quit:
            raise StopRun

    def save(self, save_id: int) -> None:
        """Leave the whole learned state where the supervisor finds it."""
        tensors = {name: t.detach().cpu().numpy() for name, t in self.algorithm.state().items()}
        counters = {name: self.metrics[name] for name in STATE_COUNTERS}
        generator = self.algorithm.generator.get_state().numpy()
        self._states.save(
            State(tensors, counters, generator),
            save_id=save_id,
            incarnation=self.control.incarnation(self.task.rank),
        )

    def _finished(self) -> bool:
        self.idle()
        turns = self.metrics["turns"]
        if turns >= self.control.stop_turn:
            return True
        if self.task.gossip.lock_step:
            by_all = self.task.shape.num_steps * self.task.shape.num_envs * self.task.learners
            return turns * by_all >= self.task.total_steps
        return self.board.agent_steps() >= self.task.total_steps

    def _serve(self) -> None:
        """Leave the state behind when asked to, and now and then in case of a sudden end."""
        save_id, at_turn = self.control.save_request
        turns = self.metrics["turns"]
        asked = save_id != self._saved_id and at_turn != NEVER and turns >= at_turn
        now_s = time.monotonic()
        if asked or now_s - self._saved_s > SAVE_EVERY_S:
            self._saved_id = save_id if asked else self._saved_id
            self._saved_s = now_s
            self.save(self._saved_id)

    def _restore(self) -> None:
        """Take over the state that a former life or a checkpoint left, if there is one."""
        found = self._states.restore()
        if found is None:
            self.exchange.begin(0, 0)
            self.save(0)
            return
        state, _ = found
        for name, tensor in self.algorithm.state().items():
            tensor.copy_(torch.from_numpy(state.tensors[name]).view_as(tensor))
        self.algorithm.generator.set_state(torch.from_numpy(state.generator))
        self.algorithm.version = state.counters["updates"]
        for name, value in state.counters.items():
            self.metrics[name] = value
        self.exchange.begin(self.metrics["turns"], self.metrics["rounds"])


def make_algorithm_for(task: LearnerTask) -> Algorithm:
    """Build the network and its algorithm; all learners start from the same parameters."""
    environment = task.environment
    model = build_model(
        task.network,
        environment.observation_shape,
        environment.observation_dtype,
        environment.num_actions,
        seed=task.model_seed,
    )
    return make_algorithm(task.algorithm, model, device=task.device, seed=task.sampling_seed)
