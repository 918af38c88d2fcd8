"""A simulator process: steps environments with the learner's actions, and nothing else.

    actions of row n --> Environment.step --> outcome of row n, observations of row n + 1

Which row is next, its learner says; it outlives its learner, and answers the next one.

It imports numpy and the emulator, never torch: that would cost a second and 200 MB each.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from galamp.core.config import EnvironmentConfig
from galamp.core.errors import StopRun
from galamp.core.failpoints import reach
from galamp.core.processes.reaper import Strays
from galamp.core.seeding import seed_generators
from galamp.environments import make_environment
from galamp.environments.base import EpisodeCounter, closing_quietly
from galamp.memory.arrays import SharedArrays
from galamp.memory.control import ControlBlock
from galamp.memory.rollout_ports import SimulatorPort
from galamp.memory.rollouts import RingWake, RolloutShape
from galamp.memory.status import EpisodeRing, Phase, StatusBoard

STRAYS_EVERY_S = 5.0
"""So often, what an environment has started in the background and has ended is reaped."""

ACTIONS_TOLD = 32
"""So many of the last actions are told with what a game raises."""


@dataclass(frozen=True)
class SimulatorTask:
    """All that simulator `worker` of learner `rank` needs; `index` counts over all learners."""

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


def main(task: SimulatorTask) -> None:
    """Simulate until the run is over."""
    control = ControlBlock(task.arrays)
    metrics = StatusBoard(task.arrays, task.learners).simulator(task.index)
    metrics.reset()
    port = SimulatorPort(
        task.arrays, task.rank, task.shape, task.wake, task.worker, task.incarnation
    )

    def idle() -> None:
        metrics.heartbeat()
        if control.quit:
            raise StopRun

    seeded = seed_generators(task.process_seed)
    past: deque[list[int]] = deque(maxlen=ACTIONS_TOLD)
    with circumstances_told(task, past):
        environment = make_environment(
            task.environment, task.seeds, threads=task.threads, progress=metrics.heartbeat
        )
        seed_generators(task.process_seed, seeded)
        observations = environment.reset()
    episodes = EpisodeRing(task.arrays, task.index)
    counter = EpisodeCounter(environment.num_envs)
    strays = Strays(STRAYS_EVERY_S)
    port.arrive()
    with closing_quietly(environment):
        while True:
            metrics.enter(Phase.WAIT)
            actions = port.actions(observations, idle)
            metrics.enter(Phase.STEP)
            past.append(actions.tolist())
            with circumstances_told(task, past):
                step = environment.step(actions)
            reach("simulator.stepped")
            observations = step.observations
            port.write(
                observations,
                rewards=step.rewards,
                terminated=step.terminated,
                truncated=step.truncated,
                valid=np.logical_not(step.reset),
            )
            for episode in counter.update(step):
                episodes.append(episode.ret, episode.length, episode.env_index + port.envs.start)
            metrics["agent_steps"] += environment.num_envs
            strays.reap()


@contextmanager
def circumstances_told(task: SimulatorTask, past: Iterable[list[int]]) -> Iterator[None]:
    """Add to what a game raises within what is needed to bring it about again."""
    try:
        yield
    except BaseException as error:
        error.add_note(circumstances(task, past))
        raise


def circumstances(task: SimulatorTask, past: Iterable[list[int]]) -> str:
    """Return what is needed to bring about again what a game has raised."""
    return (
        f"in {task.environment.env_id}, life {task.incarnation} of simulator "
        f"{task.rank}.{task.worker}, lanes of seeds {list(task.seeds)}; last actions [lanes], "
        f"oldest first: {list(past)}"
    )
