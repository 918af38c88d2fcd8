"""Trained agent: observations in, actions out, both numpy.

    galamp.load(path) --> Agent.act(observations [B, ...]) --> actions [B]

Runs in users' programs and in evaluation, in one process; starts no process and writes no file.
"""

from __future__ import annotations

import warnings
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from galamp.algorithms import gives_values
from galamp.algorithms.distributions import make_distribution
from galamp.algorithms.networks import check_network_asked, taking
from galamp.algorithms.networks.recurrent import RecurrentActorCritic
from galamp.core.errors import UserError
from galamp.core.machine.torch_device import usable_device
from galamp.environments import EnvironmentSpec, finish_probe, start_probe
from galamp.environments.names import ATARI, check_asked
from galamp.environments.observations import channels_are_last
from galamp.storage.checkpoint import Identity
from galamp.tools.evaluation.memory import Memory
from galamp.tools.evaluation.threads import one_thread
from galamp.tools.evaluation.trained import MEAN, Learner, Trained, locate, read
from galamp.tools.evaluation.trained_network import normaliser_of, trained_network

SMALL_BATCH = 8
"""Largest batch that one thread computes on a CPU."""


class Agent:
    """One policy of a training: that of a learner, or of the mean of all learners.

    Attributes:
        learner: the learner's rank, or `mean`.
        path: the checkpoint's folder.
        device: device of the network.
    """

    def __init__(
        self,
        trained: Trained,
        learner: Learner,
        device: torch.device,
        *,
        seed: int = 0,
        env_id: str = "",
        network: str = "",
    ) -> None:
        """Build the network and fill it; `env_id` and `network` are as for `load`.

        Raises:
            CheckpointError: the parameters make no network for these observations.
            UserError: a module would be imported for it that only the checkpoint names.
        """
        holder = f"checkpoint {trained.path}"
        stored = trained.checkpoint.identity.network
        check_network_asked(stored, network, holder, "give galamp.load the network")
        self.learner, self.path, self.device = learner, trained.path, device
        self._env_id = env_id
        # The learners' arrays are copied into the network, and not kept.
        self._trained = trained.without_learners()
        # Frames are bytes, vectors are floats; `act` handles any other type.
        dtype = "uint8" if len(self.identity.observation_shape) == 3 else "float32"
        model = trained_network(trained, learner, dtype, device)
        self._normalise = normaliser_of(trained, learner, model, device)
        self._models = {dtype: model}
        self._distribution = make_distribution(self.identity.actions, device)
        known = self.identity  # an older checkpoint names the algorithm alone
        self._takes_the_best = known.outputs_are_values or gives_values(known.algorithm)
        (model,) = self._models.values()
        self._memory = (
            Memory(model.state_size, device) if isinstance(model, RecurrentActorCritic) else None
        )
        self.seed(seed)

    @property
    def identity(self) -> Identity:
        """Environment, protocol, shapes and network of the training."""
        return self._trained.checkpoint.identity

    @property
    def agent_steps(self) -> int:
        """Agent steps of the training, over all learners."""
        return self._trained.agent_steps

    @cached_property
    def spec(self) -> EnvironmentSpec:
        """Specification of the training's environment, from a short-lived probe process.

        Raises:
            UserError: the environment cannot be built here, or a module would be imported for it
                that
                only the checkpoint names: pass `env_id` to `load`.
            CheckpointError: the installed environment is not that of the training.
        """
        stored, holder = self._trained.environment.env_id, f"checkpoint {self.path}"
        check_asked(stored, self._env_id, holder, "give galamp.load the env_id")
        spec = finish_probe(start_probe(self._trained.environment))
        self._trained.check_fits(spec)
        return spec

    def seed(self, seed: int) -> None:
        """Seed the random choices of `act`."""
        self._generator = torch.Generator(self.device).manual_seed(seed)

    def reset(self) -> None:
        """Forget all episodes; for a network with a memory, which also forgets by `first`."""
        if self._memory is not None:
            self._memory.forget()

    def act(
        self, observations: Any, *, greedy: bool = False, first: Any = False
    ) -> npt.NDArray[Any] | int:
        """Return the environment's actions for unscaled observations of it.

        On a CPU, a batch of up to `SMALL_BATCH` observations is computed by one thread, whatever
        torch's number of threads; that number is restored afterwards.

        Args:
            observations: `[B, *observation_shape]`, or one of `observation_shape`; uint8 for Atari.
                Images of other environments may have their channels last, as `[B, H, W, C]` or
                `[H, W, C]`, where training accepted them so (`channels_are_last`); where both
                shapes are the same, they are first. What training has flattened or preprocessed
                is taken as it was after that: `[B, *spec.observation_shape]`.
            greedy: take the most probable action instead of drawing from the policy; an agent
                whose network gives values of actions, as `pqn` trains it, always takes the best.
            first: whether an observation is the first of its episode, `[B]` or one bool for all:
                a network with a memory then forgets the last one. The i-th of a batch is of the
                i-th environment.

        Returns:
            discrete actions, as the environment counts them: `[B]` int64 for a batch, an int for
            one observation. Others: an array of the shape of the environment's actions, or
            `[B, ...]` of these; int64, or float32 within the bounds of a Box.

        Raises:
            UserError: the observations have another shape or type, or one of them is not finite.
        """
        chosen, single = self._chosen(observations, greedy, first, None)
        actions = self.identity.actions.to_environment(chosen)
        if not single:
            return actions
        return int(actions[0]) if actions.ndim == 1 and actions.dtype == np.int64 else actions[0]

    def policy_actions(
        self,
        observations: Any,
        *,
        greedy: bool = False,
        first: Any = False,
        envs: npt.NDArray[np.int64] | None = None,
    ) -> npt.NDArray[Any]:
        """Return actions `[B, ...]` as `Environment.step` of galamp takes them; see `act`.

        `envs` [B] are the environments of the observations, by default the first B.
        """
        return self._chosen(observations, greedy, first, envs)[0]

    def _chosen(
        self, observations: Any, greedy: bool, first: Any, envs: npt.NDArray[np.int64] | None
    ) -> tuple[npt.NDArray[Any], bool]:
        """Return a policy's actions `[B, ...]`, and whether the observation was a single one."""
        given = _array(observations)
        dtype = self._dtype(given)
        batch = self._batch(given)
        with np.errstate(over="ignore"):
            # torch accepts only writable arrays.
            batch = np.require(batch, np.dtype(dtype), ["C", "W"])
        single = len(batch) == 1 and given.ndim == batch.ndim - 1
        if dtype != "uint8":
            _check_finite(batch, single)
        begins = np.broadcast_to(np.asarray(first, np.bool_), (len(batch),))
        envs = np.arange(len(batch)) if envs is None else envs
        return self._choose(batch, dtype, greedy, begins, envs), single

    def _batch(self, given: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return one observation or a batch as a batch in the network's input shape."""
        shape = self.identity.observation_shape
        batch = given[np.newaxis] if given.ndim == len(shape) else given
        if batch.shape[1:] == shape:
            return batch
        last = self._channels_last()
        if last is not None and batch.shape[1:] == last:
            return np.moveaxis(batch, -1, 1)
        more = f"; or {list(last)} with channels last" if last else ""
        raise UserError(
            f"observations of shape {list(given.shape)}: expected {list(shape)} for one, "
            f"or [B, {', '.join(map(str, shape))}] for a batch{more}"
        )

    def _channels_last(self) -> tuple[int, ...] | None:
        """Return the shape `[H, W, C]` of the images in training; None for other observations."""
        shape = self.identity.observation_shape
        if len(shape) != 3 or self.identity.env_id.startswith(ATARI) or channels_are_last(shape):
            return None
        channels, height, width = shape
        last = height, width, channels
        return last if channels_are_last(last) else None

    def _dtype(self, given: npt.NDArray[Any]) -> str:
        """Return which of the network's two input types the observations have.

        This is the rule by which the training converted them.
        """
        if given.dtype == np.uint8:
            return "uint8"
        if self.identity.env_id.startswith(ATARI) or given.dtype.kind not in "biuf":
            expected = "uint8" if self.identity.env_id.startswith(ATARI) else "numbers"
            raise UserError(f"observations of {given.dtype}: expected {expected}")
        return "float32"

    def _choose(
        self,
        batch: npt.NDArray[Any],
        dtype: str,
        greedy: bool,
        first: npt.NDArray[np.bool_],
        envs: npt.NDArray[np.int64],
    ) -> npt.NDArray[Any]:
        if not len(batch):
            return self.identity.actions.zeros(0)
        inputs, policy = self._on_device(batch), self._distribution
        if self._normalise is not None:
            inputs, dtype = self._normalise(inputs), "float32"
        model = self._model(dtype)
        with self._threads(len(batch)), torch.inference_mode():
            if self._memory is None:
                outputs, _ = model(inputs)
            else:
                assert isinstance(model, RecurrentActorCritic)
                begins, indices = self._on_device(first), self._on_device(envs)
                outputs = self._memory.outputs(model, inputs, begins, indices)
            best = greedy or self._takes_the_best
            actions = policy.mode(outputs) if best else policy.sample(outputs, self._generator)
        chosen: npt.NDArray[Any] = actions.cpu().numpy()
        return chosen

    def _on_device(self, array: npt.NDArray[Any]) -> Tensor:
        # torch accepts only writable arrays.
        return torch.from_numpy(np.require(array, requirements=["C", "W"])).to(self.device)

    def _threads(self, size: int) -> AbstractContextManager[None]:
        """Return a context manager that sets the number of threads for a batch of `size`."""
        small = self.device.type == "cpu" and size <= SMALL_BATCH
        return one_thread() if small else nullcontext()

    def _model(self, dtype: str) -> nn.Module:
        """Return the network for observations of `dtype`, with the same parameters."""
        if dtype not in self._models:
            other, known = next(iter(self._models.values())), self.identity
            outputs = self._distribution.num_inputs
            self._models[dtype] = taking(
                other,
                known.network,
                known.observation_shape,
                dtype,
                outputs,
                known.observation_scale,
            )
        return self._models[dtype]


def _array(observations: Any) -> npt.NDArray[Any]:
    """Return observations as an array.

    Raises:
        UserError: they are no array, such as lists of different lengths.
    """
    try:
        return np.asarray(observations)
    except (ValueError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"observations: expected one array of numbers ({reason})") from None


def _check_finite(batch: npt.NDArray[Any], single: bool) -> None:
    """Raise UserError for the first row of `[B, ...]` that holds NaN or infinity."""
    # One number that is not finite makes the sum so; float32 numbers cannot overflow it.
    with np.errstate(invalid="ignore"):
        if np.isfinite(batch.sum(dtype=np.float64)):
            return
    row = int(np.argmin(np.isfinite(batch).reshape(len(batch), -1).all(axis=1)))
    where = "the observation" if single else f"observations: row {row}"
    raise UserError(f"{where} holds NaN, infinity or a number beyond float32: expected finite ones")


def load(
    path: str | Path,
    *,
    learner: Learner = MEAN,
    device: str | torch.device = "cpu",
    which: str | None = None,
    seed: int = 0,
    env_id: str = "",
    network: str = "",
) -> Agent:
    """Load a trained agent.

    Args:
        path: a run folder, its `checkpoints`, one checkpoint, or the link `best` or `latest`.
        learner: a learner's rank, or `mean` for the mean of all learners' parameters.
        device: `cpu`, `cuda`, `cuda:0`, ..., or `auto`: a GPU where there is one.
        which: `best` or `latest`; by default the best if there is one, else the latest.
        seed: seed of the actions that `act` draws.
        env_id: the `module:factory` or `package:EnvId-v0` of the training, for `Agent.spec`, which
            imports that module: a checkpoint alone does not decide which code is run. Acting needs
            no environment.
        network: the `module:factory` of a network of your own, by the same rule: it is imported to
            act.

    Warns:
        UserWarning: a damaged checkpoint was skipped; one warning for each.

    Raises:
        CheckpointError: there is no such checkpoint or learner, or it is damaged.
        UserError: the device cannot be used, an argument has no meaning, or a module would be
            imported for the network that only the checkpoint names.
    """
    if which not in (None, "best", "latest"):
        raise UserError(f"which {which!r}: expected best or latest")
    found = locate(path, which)
    for line in found.skipped:
        warnings.warn(f"damaged checkpoint passed over: {line}", stacklevel=2)
    trained = read(found.path, learner)
    return Agent(trained, learner, usable_device(device), seed=seed, env_id=env_id, network=network)
