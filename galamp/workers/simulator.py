"""Simulator: a process that steps environments with the learner's actions.

    actions of row n --> Environment.step --> outcome of row n, observations of row n + 1

The learner chooses the next row. When the learner dies, the simulator continues and answers the
learner's next incarnation.

It imports numpy and the emulator, never torch: that would cost a second and 200 MB per process.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from galamp.core.config import EnvironmentConfig
from galamp.core.errors import StopRun
from galamp.core.failpoints import hit
from galamp.core.processes.reaper import Strays
from galamp.core.processes.tracing import TracingPermit
from galamp.core.seeding import seed_generators
from galamp.environments import make_environment
from galamp.environments.base import EpisodeCounter, closing_quietly
from galamp.memory.arrays import SharedArrays
from galamp.memory.control import ControlBlock
from galamp.memory.metrics import EpisodeRing
from galamp.memory.rollout_ports import SimulatorPort
from galamp.memory.rollouts import RingWake, RolloutShape
from galamp.memory.status import Phase, StatusBoard

STRAYS_EVERY_S = 5.0
"""Interval at which ended background processes of an environment are reaped."""

ACTIONS_REPORTED = 32
"""Number of last actions that are reported with an environment's exception."""


@dataclass(frozen=True)
class SimulatorTask:
    """Arguments of simulator `worker` of learner `rank`; `index` counts over all learners.

    `remote` learners are on other nodes.
    """

    arrays: SharedArrays
    rank: int
    worker: int
    index: int
    learners: int
    shape: RolloutShape
    wake: RingWake
    environment: EnvironmentConfig
    seeds: tuple[int, ...]
    process_seed: int
    threads: int
    incarnation: int = 0
    remote: int = 0


def main(task: SimulatorTask) -> None:
    """Simulate until the run is over."""
    control = ControlBlock(task.arrays)
    status = StatusBoard(task.arrays, task.learners, task.remote).simulator(task.index)
    status.reset()
    port = SimulatorPort(
        task.arrays, task.rank, task.shape, task.wake, task.worker, task.incarnation
    )

    tracing = TracingPermit(lambda: control.tracer)

    def idle() -> None:
        status.heartbeat()
        tracing.follow()
        if control.quit:
            raise StopRun

    seeded = seed_generators(task.process_seed)
    last_actions: deque[list[Any]] = deque(maxlen=ACTIONS_REPORTED)
    with failure_noted(task, last_actions):
        environment = make_environment(
            task.environment, task.seeds, threads=task.threads, progress=status.heartbeat
        )
        seed_generators(task.process_seed, seeded)
        observations = environment.reset()
    episodes = EpisodeRing(task.arrays, task.index)
    counter = EpisodeCounter(environment.num_envs)
    strays = Strays(STRAYS_EVERY_S)
    port.arrive()
    with closing_quietly(environment):
        while True:
            status.enter(Phase.WAIT)
            actions = port.actions(observations, idle)
            status.enter(Phase.STEP)
            last_actions.append(actions.tolist())
            with failure_noted(task, last_actions):
                step = environment.step(actions)
            hit("simulator.stepped")
            observations = step.observations
            port.write(
                observations,
                rewards=step.rewards,
                terminated=step.terminated,
                truncated=step.truncated,
                valid=np.logical_not(step.reset),
                first=step.begins,
            )
            for episode in counter.update(step):
                episodes.append(episode.ret, episode.length, episode.env_index + port.envs.start)
            status["agent_steps"] += environment.num_envs
            strays.reap()


@contextmanager
def failure_noted(task: SimulatorTask, last_actions: Iterable[list[Any]]) -> Iterator[None]:
    """Add to an environment's exception a note with all that is needed to reproduce it."""
    try:
        yield
    except BaseException as error:
        error.add_note(failure_note(task, last_actions))
        raise


def failure_note(task: SimulatorTask, last_actions: Iterable[list[Any]]) -> str:
    """Return all that is needed to reproduce an environment's exception, in one line."""
    return (
        f"in {task.environment.env_id}, incarnation {task.incarnation} of simulator "
        f"{task.rank}.{task.worker}, environments with seeds {list(task.seeds)}; last actions "
        f"[envs], oldest first: {list(last_actions)}"
    )
