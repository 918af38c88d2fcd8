"""Synthetic learners: a run's learners without emulators, on random data.

    SyntheticLearner.turn:  collect <--random observations, rewards-- SyntheticSimulator
                            (copy, act, actions back) --> update --> gossip

Runs in processes of the bench. The learner is the one of a run, with its copies, launches and
waits; everything it waits for is ready immediately. All learners are in this process and take
turns, so each computes alone. A single learner does not gossip; of two, each mixes the other's
publication.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from galamp.algorithms.a2c_config import A2CConfig
from galamp.core.action_spec import DiscreteActions
from galamp.core.config import (
    EnvironmentConfig,
    ModelConfig,
    ResourceConfig,
    RunConfig,
)
from galamp.core.machine.machine import plain_machine
from galamp.environments.base import EnvironmentSpec
from galamp.gossip.topologies import make_topology
from galamp.memory.rollout_ports import SimulatorPort
from galamp.memory.status import Phase
from galamp.supervision.devices import CPU
from galamp.supervision.layout import RunLayout, sketch_model
from galamp.supervision.plan import make_plan
from galamp.workers.gpu import use_gpu
from galamp.workers.learner import Learner
from galamp.workers.learner_task import LearnerTask

ROWS = 8
"""Observations [ROWS, envs, ...] that a simulator repeats."""
END_SHARE = 0.01
"""Share of the steps that end an episode."""

ATARI = EnvironmentSpec(
    env_id="ALE/Breakout-v5",
    observation_shape=(4, 84, 84),
    observation_dtype="uint8",
    actions=DiscreteActions(4),
    action_meanings=("NOOP", "FIRE", "RIGHT", "LEFT"),
    frames_per_step=4,
    clip_rewards=True,
    protocol="synthetic",
)
"""Specification of an Atari environment."""


class NothingSent(Exception):
    """No actions are waiting for an answer."""


class SyntheticSimulator:
    """Answers actions immediately, with observations and rewards that were drawn in advance."""

    def __init__(self, port: SimulatorPort, environment: EnvironmentSpec, seed: int) -> None:
        """Draw all from `seed`."""
        envs = port.envs.stop - port.envs.start
        random, shape = np.random.default_rng(seed), (ROWS, envs, *environment.observation_shape)
        if environment.observation_dtype == "uint8":
            self._observations = random.integers(0, 256, shape, np.uint8)
        else:
            self._observations = random.standard_normal(shape, np.float32)
        self._rewards = random.integers(-1, 2, (ROWS, envs)).astype(np.float32)
        self._ends = random.random((ROWS, envs)) < END_SHARE
        self._never, self._always = np.zeros(envs, np.bool_), np.ones(envs, np.bool_)
        self._port, self._step = port, 0
        port.arrive()

    def answer(self) -> None:
        """Take a step, if actions were sent."""
        try:
            self._port.actions(self._observations[self._step % ROWS], self._nothing_sent)
        except NothingSent:
            return
        self._step += 1
        row = self._step % ROWS
        self._port.write(
            self._observations[row],
            rewards=self._rewards[row],
            terminated=self._ends[row],
            truncated=self._never,
            valid=self._always,
        )

    @staticmethod
    def _nothing_sent() -> None:
        raise NothingSent


class SyntheticLearner(Learner):
    """A learner whose simulators are in its own process, and step while it waits for them."""

    def __init__(self, task: LearnerTask) -> None:
        """Make the learner and the simulators of its task."""
        self._simulators = [
            SyntheticSimulator(
                SimulatorPort(task.arrays, task.rank, task.shape, task.wake, worker),
                task.environment,
                seed=task.rank * task.shape.workers + worker,
            )
            for worker in range(task.shape.workers)
        ]
        self._number = 0
        super().__init__(task)

    def idle(self) -> None:
        """Called at every turn of a wait; see `Learner.idle`."""
        super().idle()
        for simulator in self._simulators:
            simulator.answer()

    def turn(self) -> dict[str, float]:
        """Collect one rollout, learn from it, gossip; returns the metrics of the update."""
        rollout = self.collector.collect(self._number)
        self.status.enter(Phase.UPDATE)
        gauges = self.algorithm.update(rollout, self._reduce_gradient)
        self.status.enter(Phase.GOSSIP)
        self.exchange.turn(self.algorithm.version)
        self.status.enter(Phase.OTHER)
        self._number += 1
        return gauges

    @property
    def steps_per_turn(self) -> int:
        """Agent steps of one turn."""
        return self.task.shape.num_steps * self.task.shape.num_envs


def synthetic_learners(
    environment: EnvironmentSpec,
    *,
    learners: int,
    num_envs: int,
    network: str,
    device: str,
    precision: str = "float32",
) -> list[SyntheticLearner]:
    """Return learners of `num_envs` environments each, all on `device`, in a ring.

    Raises:
        UserError: this machine cannot have so many.
    """
    config = RunConfig(
        environment=EnvironmentConfig(env_id=environment.env_id, num_envs=num_envs),
        algorithm=A2CConfig(precision=precision),
        model=ModelConfig(network=network),
        resources=ResourceConfig(
            learners=learners, device=device, simulator_workers=min(2, num_envs), threads=1
        ),
    )
    gpus = 0 if device == CPU else torch.device(device).index + 1
    plan = make_plan(config, plain_machine(sorted(os.sched_getaffinity(0)), gpus, 2**20))
    topology = make_topology(config.gossip.topology, learners, seed=config.seed)
    run_layout = RunLayout(plan, topology, environment, sketch_model(plan, environment), Path(), 1)
    for rank in range(learners):
        run_layout.control.set_alive(rank, True)
    for index in range(plan.simulators):
        run_layout.control.set_simulator_incarnation(index, 0)
    if device != CPU:
        use_gpu(device, benchmark=True)
    return [SyntheticLearner(run_layout.learner(rank, 0)[1]) for rank in range(learners)]


def take_turns(learners: Sequence[SyntheticLearner], turns: int) -> dict[str, float]:
    """Let each learner do `turns` turns; returns the metrics of the last update."""
    gauges: dict[str, float] = {}
    for _ in range(turns):
        for learner in learners:
            gauges = learner.turn()
    return gauges
