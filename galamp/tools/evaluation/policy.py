"""Policy of an agent: its network, the distribution of its actions, and what it remembers.

    Batch --computed--> Computed: outputs, values, next states --drawn--> actions of a policy

Runs wherever a trained agent acts.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from galamp.algorithms import gives_values
from galamp.algorithms.distributions import make_distribution
from galamp.algorithms.networks import taking
from galamp.algorithms.networks.recurrent import RecurrentActorCritic, forgotten
from galamp.core.errors import UserError
from galamp.core.normalisation import Scales
from galamp.storage.checkpoint import Identity
from galamp.tools.evaluation.inputs import Batch
from galamp.tools.evaluation.memory import Memory
from galamp.tools.evaluation.policy_module import PolicyModule
from galamp.tools.evaluation.threads import one_thread

SMALL_BATCH = 8
"""Largest batch that one thread computes on a CPU."""

State = tuple[npt.NDArray[np.float32], ...]
"""States of a recurrent network, `[B, S]`, as Stable-Baselines3 hands them about."""


class Computed(NamedTuple):
    """What the network gives for a batch."""

    outputs: Tensor
    """[B, A] float32."""
    values: Tensor
    """[B] float32."""
    state: Tensor | None = None
    """[B, S] float32, the next one of a recurrent network."""


class Policy:
    """A trained network that acts.

    Attributes:
        distribution: of the actions, given the network's outputs.
        takes_the_best: whether the outputs are values of actions, of which the best is taken.
    """

    def __init__(
        self,
        identity: Identity,
        network: nn.Module,
        dtype: str,
        scales: Scales | None,
        device: torch.device,
    ) -> None:
        """Take the network for observations of `dtype`, and their scales, if they have any."""
        self._identity, self._scales, self._device = identity, scales, device
        self._networks, self._modules = {dtype: network}, dict[str, PolicyModule]()
        self.distribution = make_distribution(identity.actions, device)
        # An older checkpoint names the algorithm alone.
        self.takes_the_best = identity.outputs_are_values or gives_values(identity.algorithm)
        size = network.state_size if isinstance(network, RecurrentActorCritic) else 0
        self._memory = Memory(size, device) if size else None
        self._state_size = size
        self._generator = torch.Generator(device)

    @property
    def normalises(self) -> bool:
        """Whether observations are normalised."""
        return self._scales is not None and self._scales.chosen

    def seed(self, seed: int) -> None:
        """Seed the random choices of actions."""
        self._generator.manual_seed(seed)

    def forget(self) -> None:
        """Forget every environment."""
        if self._memory is not None:
            self._memory.forget()

    def module(self, dtype: str) -> PolicyModule:
        """Return the network with its normaliser, for observations of `uint8` or `float32`."""
        if dtype not in self._modules:
            # Normalised observations are floats.
            network = self._network(dtype if self._scales is None else "float32")
            self._modules[dtype] = PolicyModule(network, self._scales)
        return self._modules[dtype]

    def computed(self, batch: Batch, state: Tensor | None = None) -> Computed:
        """Return what the network gives for a batch; `state` [B, S] is for a recurrent one."""
        size = len(batch.array)
        if not size:
            outputs = torch.zeros(0, self.distribution.num_inputs, device=self._device)
            return Computed(outputs, outputs.new_zeros(0), state)
        with self._threads(size), torch.inference_mode():
            return Computed(*self.module(batch.dtype)(self._on_device(batch.array), state))

    def drawn(self, outputs: Tensor, greedy: bool) -> npt.NDArray[Any]:
        """Return a policy's actions `[B, ...]` for outputs [B, A]."""
        if not len(outputs):
            return self._identity.actions.zeros(0)
        best, policy = greedy or self.takes_the_best, self.distribution
        with self._threads(len(outputs)), torch.inference_mode():
            actions = policy.mode(outputs) if best else policy.sample(outputs, self._generator)
        chosen: npt.NDArray[Any] = actions.cpu().numpy()
        return chosen

    def remembering(
        self, batch: Batch, greedy: bool, first: Any, envs: npt.NDArray[np.int64] | None
    ) -> npt.NDArray[Any]:
        """Return a policy's actions `[B, ...]`, and remember the observations.

        Args:
            batch: the observations.
            greedy: take the most probable actions.
            first: `[B]` bool, or one for all: whose episode begins.
            envs: `[B]`, of which environments they are; None: of the first B.
        """
        size = len(batch.array)
        if self._memory is None or not size:
            return self.drawn(self.computed(batch).outputs, greedy)
        begins = self._on_device(np.broadcast_to(np.asarray(first, np.bool_), (size,)))
        indices = self._on_device(np.arange(size) if envs is None else envs)
        found = self.computed(batch, self._memory.states(indices, begins))
        assert found.state is not None
        self._memory.keep(indices, found.state)
        return self.drawn(found.outputs, greedy)

    def state_of(self, state: State | None, episode_start: Any, size: int) -> Tensor | None:
        """Return a caller's state as [B, S], zero where an episode begins; None: no memory.

        Raises:
            UserError: it is of another batch, or of another network.
        """
        if not self._state_size:
            return None
        shape = (size, self._state_size)
        given = np.zeros(shape, np.float32) if state is None else np.asarray(state[0], np.float32)
        if given.shape != shape:
            raise UserError(
                f"state of shape {list(given.shape)}: expected {list(shape)}, as predict has "
                "returned it for as many observations"
            )
        begins = np.asarray(False if episode_start is None else episode_start, np.bool_)
        return forgotten(
            self._on_device(given), self._on_device(np.broadcast_to(begins.reshape(-1), (size,)))
        )

    def _on_device(self, array: npt.NDArray[Any]) -> Tensor:
        # torch accepts only writable arrays.
        return torch.from_numpy(np.require(array, requirements=["C", "W"])).to(self._device)

    def _threads(self, size: int) -> AbstractContextManager[None]:
        """Return a context manager that sets the number of threads for a batch of `size`."""
        small = self._device.type == "cpu" and size <= SMALL_BATCH
        return one_thread() if small else nullcontext()

    def _network(self, dtype: str) -> nn.Module:
        """Return the network for observations of `dtype`, with the same parameters."""
        if dtype not in self._networks:
            other, known = next(iter(self._networks.values())), self._identity
            self._networks[dtype] = taking(
                other,
                known.network,
                known.observation_shape,
                dtype,
                self.distribution.num_inputs,
                known.observation_scale,
            )
        return self._networks[dtype]
