"""Task of a learner: its arguments, and what it makes of them before it begins.

    RunLayout --LearnerTask--> learner --make_algorithm_for--> Algorithm, Normaliser

The supervisor writes it; runs in learners.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from galamp.algorithms.base import Algorithm
from galamp.algorithms.normalising import Layers
from galamp.core.algorithm_config import AlgorithmConfig
from galamp.core.config import GossipConfig
from galamp.core.nodes import Ranks
from galamp.core.normalisation import NormaliserSpec
from galamp.environments.base import EnvironmentSpec
from galamp.gossip.exchange import averages_gradients
from galamp.gossip.topologies.base import Topology
from galamp.memory.arrays import SharedArrays, Wakeup
from galamp.memory.rollouts import RingWake, RolloutShape
from galamp.workers.building import build_algorithm, build_normalised
from galamp.workers.normaliser import Normaliser, Pool


@dataclass(frozen=True)
class LearnerTask:
    """Arguments of learner `rank`, one of `learners` on this node, in its `place` among all.

    `sharing` learners, including itself, are on its device.
    """

    arrays: SharedArrays
    rank: int
    learners: int
    place: Ranks
    device: str
    sharing: int
    graphs: bool
    threads: int
    env_splits: int
    shape: RolloutShape
    wake: RingWake
    gossip_wakeups: tuple[Wakeup, ...]
    environment: EnvironmentSpec
    algorithm: AlgorithmConfig
    network: str
    normaliser: NormaliserSpec | None
    gossip: GossipConfig
    topology: Topology
    model_seed: int
    sampling_seed: int
    process_seed: int
    gossip_seed: int
    state_sizes: dict[str, int]
    total_steps: int


def copy_for_acting(task: LearnerTask, algorithm: Algorithm) -> Algorithm:
    """Build a second copy of `algorithm`, which acts, and draws from the same generator."""
    copy, _ = _build(task)
    copy.generator = algorithm.generator
    return copy


def _build(task: LearnerTask) -> tuple[Algorithm, Layers | None]:
    """Build the network and the algorithm, and find what of it is normalised, if anything is."""
    if task.normaliser is None:
        algorithm = build_algorithm(
            task.algorithm,
            task.network,
            task.environment,
            device=task.device,
            model_seed=task.model_seed,
            sampling_seed=task.sampling_seed,
        )
        return algorithm, None
    return build_normalised(
        task.algorithm,
        task.network,
        task.environment,
        task.normaliser,
        device=task.device,
        model_seed=task.model_seed,
        sampling_seed=task.sampling_seed,
    )


def make_algorithm_for(
    task: LearnerTask, idle: Callable[[], None]
) -> tuple[Algorithm, Normaliser | None]:
    """Build the network, the algorithm, and the normaliser that is asked for.

    All learners start with the same parameters. `idle` is called in waits for other learners.
    """
    algorithm, layers = _build(task)
    if task.normaliser is None or layers is None:
        return algorithm, None
    pools = averages_gradients(task.gossip) or bool(task.topology.edges())
    normaliser = Normaliser(
        task.normaliser,
        Pool(
            task.arrays,
            task.rank,
            range(task.learners) if pools else (task.rank,),
            synchronous=task.gossip.exchanges_in_lock_step,
            wakeups=task.gossip_wakeups,
            idle=idle,
        ),
        layers,
        envs=task.shape.num_envs,
        device=task.device,
        clip_rewards=task.environment.clip_rewards,
    )
    return algorithm, normaliser
