"""Parts of a learner on a device of choice, in this process: its algorithm, gossip, collecting."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from galamp.algorithms import make_algorithm
from galamp.algorithms.a2c_config import A2CConfig
from galamp.algorithms.base import Algorithm, Rollout
from galamp.algorithms.distributions import make_distribution
from galamp.algorithms.networks import build_model
from galamp.core.action_spec import ActionSpec, DiscreteActions
from galamp.core.config import GossipConfig
from galamp.gossip.exchange import Exchange, exchange_specs
from galamp.gossip.topologies import make_topology
from galamp.gossip.transport.parameter_slots import ParameterSlots
from galamp.gossip.transport.publication_ring import PublicationRing
from galamp.memory.arrays import SharedArrays, Wakeup
from galamp.memory.control import ControlBlock
from galamp.memory.rollout_ports import LearnerPort, SimulatorPort
from galamp.memory.rollouts import RingWake, RolloutRing, RolloutShape
from galamp.memory.status import StatusBoard, StatusRow
from galamp.workers.collector import Collector
from tests.fakecuda.inside import counts, reset_counts

ACTIONS, STEPS, ENVS = 4, 5, 4
DISCRETE = DiscreteActions(ACTIONS)
SHAPES = {"gala": (4, 84, 84), "nature": (4, 84, 84), "mlp": (4,)}
DTYPES = {"gala": "uint8", "nature": "uint8", "mlp": "float32"}


KEPT: list[SharedArrays] = []
"""What is page-locked stays: no other block may come to lie at the same addresses."""


def a2c(network: str, device: str, actions: ActionSpec = DISCRETE, **settings: Any) -> Algorithm:
    policy = make_distribution(actions)
    free = policy.state_independent
    task = SHAPES[network], DTYPES[network], policy.num_inputs
    model = build_model(network, *task, seed=1, state_independent=free)
    config = A2CConfig(learning_rate=1e-3, **settings)
    return make_algorithm(config, model, actions=actions, device=device, seed=1)


def rollout(network: str, seed: int) -> Rollout:
    generator = torch.Generator().manual_seed(seed)
    shape = (STEPS + 1, ENVS, *SHAPES[network])
    pixels = torch.randint(0, 255, shape, generator=generator, dtype=torch.uint8)
    flags = [torch.rand(STEPS, ENVS, generator=generator) for _ in range(3)]
    return Rollout(
        observations=pixels if DTYPES[network] == "uint8" else pixels / 255.0,
        actions=torch.randint(0, ACTIONS, (STEPS, ENVS), generator=generator),
        rewards=torch.randn(STEPS, ENVS, generator=generator),
        terminated=flags[0] < 0.1,
        truncated=flags[1] < 0.1,
        valid=flags[2] < 0.9,
        first=torch.zeros(STEPS + 1, ENVS, dtype=torch.bool),
    )


def moved(rollout: Rollout, device: str) -> Rollout:
    return rollout.mapped(lambda tensor: tensor.to(device))


def counted(work: Callable[[], object]) -> dict[str, int]:
    """Return what `work` counts."""
    reset_counts()
    work()
    return counts()


class Learners:
    """The exchange of learners on a GPU each, all in this process."""

    def __init__(
        self,
        graph: str,
        devices: Sequence[str],
        config: GossipConfig,
        idle: Callable[[], None] = lambda: None,
    ) -> None:
        count, size = len(devices), 3000
        sizes = {"parameters": size, "square_average": size}
        self.topology, self.config, self._idle = make_topology(graph, count), config, idle
        specs = ControlBlock.specs(count) + StatusBoard.specs(count, 1)
        self.arrays = SharedArrays.create(specs + exchange_specs(config, self.topology, sizes))
        self.control, self._wakeups = ControlBlock(self.arrays), [Wakeup() for _ in devices]
        self.control.prepare()
        self.states = [
            {name: torch.linspace(rank, rank + 1, size).to(device) for name, size in sizes.items()}
            for rank, device in enumerate(devices)
        ]
        self.gradients = [torch.zeros_like(state["parameters"]) for state in self.states]
        KEPT.append(self.arrays)
        self.rows = [StatusBoard(self.arrays, count).learner(rank) for rank in range(count)]
        self.slots = [ParameterSlots(self.arrays, rank) for rank in range(count)]
        self.publication_rings = [
            PublicationRing(self.arrays, rank) for rank in range(count) if config.certificate
        ]
        self.exchanges = [self.exchange(rank) for rank in range(count)]

    def exchange(self, rank: int) -> Exchange:
        """Begin an incarnation of a learner's exchange, with its state as it is."""
        self.control.set_alive(rank, True)
        one = Exchange(
            self.arrays,
            rank,
            self.topology,
            self.config,
            state=self.states[rank],
            gradient=self.gradients[rank],
            seed=0,
            wakeups=self._wakeups,
            row=self.rows[rank],
            idle=self._idle,
        )
        one.resume_from(0, 0)
        return one

    def turns(self, count: int) -> list[dict[str, int]]:
        """Let each take so many turns; returns what each of the last ones counted."""
        for turn in range(count - 1):
            for one in self.exchanges:
                one.turn(turn + 1)
        return [counted(lambda one=one: one.turn(count)) for one in self.exchanges]  # type: ignore[misc]

    def train(self, turns: int) -> list[Tensor]:
        """Let each take turns after updates of its own; returns all vectors then, on the CPU."""
        for turn in range(1, turns + 1):
            for rank, one in enumerate(self.exchanges):
                for at, vector in enumerate(self.states[rank].values(), 1):
                    step = torch.linspace(turn * at, -rank, len(vector))
                    vector.add_(step.sin().to(vector.device), alpha=0.01)
                one.turn(turn)
        return [vector.cpu() for state in self.states for vector in state.values()]

    def published(self, rank: int) -> Tensor:
        """Return a learner's newest parameters as its peers find them."""
        found = self.slots[rank].copy(len(self.gradients[rank]))
        assert found is not None, "none are whole"
        return found


class Collecting:
    """A learner on `device` and a simulator per batch, which counts its steps, in this process."""

    def __init__(
        self,
        device: str,
        env_splits: int = 1,
        network: str = "mlp",
        actions: ActionSpec = DISCRETE,
        **settings: Any,
    ) -> None:
        observations = SHAPES[network], DTYPES[network]
        self.shape = RolloutShape(
            STEPS, ENVS, env_splits, *observations, actions.shape, actions.dtype
        )
        count = 1
        specs = RolloutRing.specs(0, self.shape) + StatusBoard.specs(count, env_splits)
        self.arrays, self.wake = SharedArrays.create(specs), RingWake.create(env_splits)
        KEPT.append(self.arrays)
        self.simulators = [
            SimulatorPort(self.arrays, 0, self.shape, self.wake, worker, 0)
            for worker in range(env_splits)
        ]
        self.row: StatusRow = StatusBoard(self.arrays, count).learner(0)
        self.port = LearnerPort(
            self.arrays, 0, self.shape, self.wake, dict.fromkeys(range(env_splits), 0).get
        )
        if device != "cpu":
            torch.cuda.set_device(device)
        self.algorithm = a2c(network, device, actions, **settings)
        self.collector = Collector(
            self.port,
            self.algorithm,
            self.row,
            self._simulate,
            device=torch.device(device),
            env_splits=env_splits,
            clip_rewards=False,
        )
        self.number = 0
        self.written = [0] * env_splits
        for simulator in self.simulators:
            simulator.arrive()

    def _simulate(self) -> None:
        """Have every simulator that has been sent actions take its step."""
        for worker, simulator in enumerate(self.simulators):
            try:
                simulator.actions(self._seen(worker), self._nothing_yet)
            except BlockingIOError:
                continue
            self.written[worker] += 1
            envs = simulator.envs.stop - simulator.envs.start
            simulator.write(
                self._seen(worker),
                rewards=np.full(envs, self.written[worker] % 3, np.float32),
                terminated=np.full(envs, self.written[worker] % 7 == 0),
                truncated=np.zeros(envs, np.bool_),
                valid=np.full(envs, self.written[worker] % 7 != 1),
            )

    def _seen(self, worker: int) -> np.ndarray[tuple[int, ...], np.dtype[Any]]:
        envs = self.simulators[worker].envs
        number = self.written[worker] * 10 + np.arange(envs.start, envs.stop)
        inputs = int(np.prod(self.shape.observation_shape))
        seen = np.sin(number[:, None] * np.arange(1.0, inputs + 1.0))
        if self.shape.observation_dtype == "uint8":
            seen = 127.0 * (1.0 + seen)
        shape = (len(number), *self.shape.observation_shape)
        return seen.astype(self.shape.observation_dtype).reshape(shape)

    @staticmethod
    def _nothing_yet() -> None:
        raise BlockingIOError

    def learn(
        self, rollouts: int, reduce: Callable[[], bool] | None = None
    ) -> tuple[Tensor, list[Rollout]]:
        """Collect and learn; returns the parameters then, and each rollout as it was learned."""
        learned = []
        for _ in range(rollouts):
            one = self.collector.collect(self.number)
            self.algorithm.update(one, reduce)
            self.number += 1
            learned.append(one.mapped(lambda tensor: tensor.cpu().clone()))
        return self.algorithm.parameters.data.cpu(), learned
