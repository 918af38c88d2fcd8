"""Learners of a run in this process: a thread each, which steps its simulators while it waits.

    settings --train_in_process--> RunLayout --> Learner, its loop --actions--> SteppedSimulator
                                                             <--observations--

They are the learners of a run, with its shared memory and its gossip; there are no other processes.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from galamp.core.config import RunConfig
from galamp.core.machine.machine import plain_machine
from galamp.environments import make_environment
from galamp.gossip.topologies import make_topology
from galamp.memory.rollout_ports import SimulatorPort
from galamp.supervision.layout import RunLayout, sketch_model
from galamp.supervision.plan import Plan, make_plan
from galamp.workers.learner import Learner
from galamp.workers.learner_task import LearnerTask
from galamp.workers.simulator import SimulatorTask


class NothingSent(Exception):
    """No actions are waiting for an answer."""


class SteppedSimulator:
    """A simulator that takes a step when it is asked to, if actions were sent."""

    def __init__(self, task: SimulatorTask) -> None:
        self._port = SimulatorPort(task.arrays, task.rank, task.shape, task.wake, task.worker)
        self._environment = make_environment(task.environment, task.seeds)
        self._observations = self._environment.reset()
        self._port.arrive()

    def answer(self) -> None:
        try:
            actions = self._port.actions(self._observations, self._nothing_sent)
        except NothingSent:
            return
        step = self._environment.step(actions)
        self._observations = step.observations
        self._port.write(
            step.observations,
            rewards=step.rewards,
            terminated=step.terminated,
            truncated=step.truncated,
            valid=np.logical_not(step.reset),
        )

    @staticmethod
    def _nothing_sent() -> None:
        raise NothingSent


class LearnerInThread(Learner):
    """A learner that steps its simulators in every wait."""

    def __init__(self, task: LearnerTask, simulators: Sequence[SteppedSimulator]) -> None:
        self._simulators = simulators
        super().__init__(task)

    def idle(self) -> None:
        super().idle()
        for simulator in self._simulators:
            simulator.answer()

    def main(self) -> None:
        """Learn to the end; an error ends the others' waits."""
        try:
            self.run()
        except BaseException:
            self.control.quit = True
            raise


def planned(config: RunConfig) -> Plan:
    """Return the plan of a run on eight cores."""
    return make_plan(config, plain_machine(range(8), 0, 2**20))


def train_in_process(plan: Plan) -> list[LearnerInThread]:
    """Train to the end; returns the learners as they are then."""
    config, count = plan.config, len(plan.learners)
    environment = make_environment(config.environment, [0])
    environment.close()
    every = config.gossip.global_average_every
    topology = make_topology(
        config.gossip.topology, count, seed=config.seed, global_average_every=every
    )
    sketch = sketch_model(plan, environment.spec)
    layout = RunLayout(plan, topology, environment.spec, sketch, Path(), 1)
    workers = range(layout.shape.workers)
    learners = []
    for rank in range(count):
        layout.control.set_alive(rank, True)
        for worker in workers:
            index = layout.simulator_index(rank, worker)
            layout.control.set_simulator_incarnation(index, 0)
    for rank in range(count):
        simulators = [SteppedSimulator(layout.simulator(rank, worker, 0)[1]) for worker in workers]
        learners.append(LearnerInThread(layout.learner(rank, 0)[1], simulators))
    with ThreadPoolExecutor(count) as pool:
        for done in [pool.submit(learner.main) for learner in learners]:
            done.result()
    return learners
