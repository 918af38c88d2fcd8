"""Trained agent: observations in, actions out, both numpy.

    galamp.load(path) --> Agent.act(observations [B, ...]) --> actions [B]

Runs in users' programs and in evaluation, in one process; starts no process and writes no file.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from galamp.algorithms.networks import check_network_asked
from galamp.core.config import EnvironmentConfig
from galamp.core.errors import UserError
from galamp.core.machine.torch_device import usable_device
from galamp.core.user_code import check_all_asked
from galamp.environments import EnvironmentSpec, finish_probe, start_probe
from galamp.environments.names import check_asked
from galamp.storage import checkpoint as checkpoints
from galamp.storage.checkpoint import Identity
from galamp.storage.links import BEST
from galamp.tools.evaluation.inputs import Batch, InputForm
from galamp.tools.evaluation.policy import SMALL_BATCH, Computed, Policy, State
from galamp.tools.evaluation.policy_module import PolicyModule
from galamp.tools.evaluation.trained import MEAN, Learner, Trained, locate, read
from galamp.tools.evaluation.trained_env import TrainedEnv
from galamp.tools.evaluation.trained_network import normalised, trained_network
from galamp.tools.evaluation.whole_games import whole_games, with_step_limit

__all__ = ["SMALL_BATCH", "Agent", "load"]


class Agent:
    """One policy of a training: that of a learner, or of the mean of all learners.

    Attributes:
        learner: the learner's rank, or `mean`.
        path: the checkpoint's folder.
        device: device of the network.
        policy: what computes actions: the network, the distribution, what is remembered.
    """

    def __init__(
        self,
        trained: Trained,
        learner: Learner,
        device: torch.device,
        *,
        seed: int = 0,
        env_id: str = "",
        wrapper: Sequence[str] = (),
        network: str = "",
    ) -> None:
        """Build the network and fill it; `env_id`, `wrapper` and `network` are as for `load`.

        Raises:
            CheckpointError: the parameters make no network for these observations.
            UserError: a module would be imported for it that only the checkpoint names.
        """
        holder = f"checkpoint {trained.path}"
        stored = trained.checkpoint.identity.network
        check_network_asked(stored, network, holder, "give galamp.load the network")
        self.learner, self.path, self.device = learner, trained.path, device
        self._env_id, self._wrappers = env_id, tuple(wrapper)
        self.mean_of = trained.mean_of if learner == MEAN else None
        self._of_all_nodes = trained.checkpoint.mean is not None
        # The learners' arrays are copied into the network, and not kept.
        self._trained = trained.without_learners()
        self._form = InputForm(self.identity)
        dtype = self._form.usual_dtype
        model = trained_network(trained, learner, dtype, device)
        scales = normalised(trained, learner, model)
        self.policy = Policy(self.identity, model, dtype, scales, device)
        self.seed(seed)

    @property
    def identity(self) -> Identity:
        """Environment, protocol, shapes and network of the training."""
        return self._trained.checkpoint.identity

    @property
    def agent_steps(self) -> int:
        """Agent steps of the training, over all learners."""
        return self._trained.agent_steps

    @property
    def environment(self) -> EnvironmentConfig:
        """Settings of the training's environment."""
        return self._trained.environment

    @cached_property
    def spec(self) -> EnvironmentSpec:
        """Specification of the training's environment, from a short-lived probe process.

        Raises:
            UserError: the environment cannot be built here, or a module would be imported for it
                that only the checkpoint names: pass `env_id`, or `wrapper`, to `load`.
            CheckpointError: the installed environment is not that of the training.
        """
        stored, holder = self._trained.environment.env_id, f"checkpoint {self.path}"
        check_asked(stored, self._env_id, holder, "give galamp.load the env_id")
        wrappers, how = self._trained.environment.wrapper, "give galamp.load the wrapper:"
        check_all_asked("--wrapper", wrappers, self._wrappers, holder, how)
        spec = finish_probe(start_probe(self._trained.environment))
        self._trained.check_fits(spec)
        return spec

    @property
    def score(self) -> float | None:
        """Mean score of the last 100 training episodes at the checkpoint; None before the first."""
        score = self._trained.checkpoint.progress.get("mean_return_100")
        return float(score) if isinstance(score, int | float) else None

    def seed(self, seed: int) -> None:
        """Seed the random choices of `act` and `predict`."""
        self.policy.seed(seed)

    def reset(self) -> None:
        """Forget all episodes; for a recurrent network, which also forgets by `first`."""
        self.policy.forget()

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
                a recurrent network then forgets the last one. The i-th of a batch is of the
                i-th environment.

        Returns:
            discrete actions, as the environment counts them: `[B]` int64 for a batch, an int for
            one observation. Others: an array of the shape of the environment's actions, or
            `[B, ...]` of these; int64, or float32 within the bounds of a Box.

        Raises:
            UserError: the observations have another shape or type, or one of them is not finite.

        Example:
            >>> agent = galamp.load("runs/cartpole")
            >>> agent.act([0.0, 0.1, 0.0, -0.1], greedy=True) in (0, 1)
            True
        """
        batch = self._form.batch(observations)
        chosen = self.policy.remembering(batch, greedy, first, None)
        actions = self.identity.actions.to_environment(chosen)
        if not batch.single:
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
        return self.policy.remembering(self._form.batch(observations), greedy, first, envs)

    def predict(
        self,
        observation: Any,
        state: State | None = None,
        episode_start: Any = None,
        deterministic: bool = False,
    ) -> tuple[npt.NDArray[Any], State | None]:
        """Return actions and the next state, with the signature of Stable-Baselines3's `predict`.

        Nothing is remembered between calls: what a recurrent network knows is in `state`.

        Args:
            observation: one, or a batch of B, as for `act`.
            state: what the last call returned; None at the start.
            episode_start: `[B]` bool, or one for all: whose episode begins, so that its state
                counts as none.
            deterministic: as `greedy` of `act`.

        Returns:
            the environment's actions, `[B, ...]`, or an array of one action for one observation;
            and the state for the next call: of a recurrent network one array `[B, S]` in a
            tuple, else None.

        Raises:
            UserError: as for `act`; or the state is of another batch.

        Example:
            >>> agent = galamp.load("runs/cartpole")
            >>> env = agent.env()
            >>> observation, _ = env.reset(seed=1)
            >>> action, state = agent.predict(observation, deterministic=True)
            >>> observation, reward, terminated, truncated, _ = env.step(action)
        """
        batch = self._form.batch(observation)
        before = self.policy.state_of(state, episode_start, len(batch.array))
        outputs, _, after = self.policy.computed(batch, before)
        chosen = self.policy.drawn(outputs, deterministic)
        actions = self.identity.actions.to_environment(chosen)
        following = None if after is None else (after.cpu().numpy(),)
        return (actions[0, ...] if batch.single else actions), following

    def logits(self, observations: Any, state: State | None = None) -> npt.NDArray[np.float32]:
        """Return the policy's outputs: of discrete actions their logits, or of `pqn` their values.

        Args:
            observations: one, or a batch of B, as for `act`.
            state: as `predict` has returned it, for a recurrent network; None: the
                observations are the first of their episodes.

        Returns:
            `[B, A]` float32, or `[A]` for one observation. A is the sum of all choices for
            `MultiDiscrete`, and for a `Box` of k numbers 2 k: means, then logarithms of standard
            deviations.

        Raises:
            UserError: as for `predict`.

        Example:
            >>> galamp.load("runs/cartpole").logits([[0.0, 0.1, 0.0, -0.1]]).shape
            (1, 2)
        """
        batch = self._form.batch(observations)
        return _result(self._evaluated(batch, state).outputs, batch.single)

    def value(self, observations: Any, state: State | None = None) -> npt.NDArray[np.float32]:
        """Return the network's estimates of the discounted return that is still to come.

        It is of the rewards of the training: clipped ones, where the training clipped them. Of
        `pqn` it is the value of the best action.

        Args:
            observations: one, or a batch of B, as for `act`.
            state: as for `logits`.

        Returns:
            `[B]` float32, or `[]` for one observation.

        Raises:
            UserError: as for `predict`.

        Example:
            >>> galamp.load("runs/cartpole").value([[0.0, 0.1, 0.0, -0.1]]).shape
            (1,)
        """
        batch = self._form.batch(observations)
        found = self._evaluated(batch, state)
        best = found.outputs.amax(-1) if self.policy.takes_the_best else found.values
        return _result(best, batch.single)

    @property
    def module(self) -> PolicyModule:
        """The policy as an `nn.Module`: unscaled observations in, outputs and values out.

        It takes uint8 for images and float32 for vectors, as most environments give them. It shares
        the agent's parameters.

        Example:
            >>> import torch
            >>> module = galamp.load("runs/cartpole").module
            >>> logits, values = module(torch.zeros(3, 4))
            >>> tuple(logits.shape), tuple(values.shape)
            ((3, 2), (3,))
        """
        return self.module_of(self._form.usual_dtype)

    def module_of(self, dtype: str) -> PolicyModule:
        """Return the module for observations of `uint8` or `float32`; see `module`."""
        return self.policy.module(dtype)

    def env(self, *, seed: int = 0, training: bool = False) -> TrainedEnv:
        """Return a Gymnasium environment with the preprocessing and protocol of the training.

        Games are whole and rewards true, as in `galamp eval`; with `training`, they are as the
        agent was trained on them: a lost life may end an episode, and rewards may be clipped.

        Args:
            seed: of the first episode; `reset(seed=...)` gives another.
            training: the training's own protocol.

        Returns:
            an environment of observations `[*observation_shape]` as `act` takes them, and actions
            as `act` returns them.

        Raises:
            UserError, CheckpointError: as for `spec`.

        Example:
            >>> env = galamp.load("runs/cartpole").env()
            >>> observation, info = env.reset(seed=1)
            >>> observation.shape, env.action_space
            ((4,), Discrete(2))
        """
        spec, environment = self.spec, self._trained.environment
        if not training:
            environment = with_step_limit(whole_games(environment), spec)
        return TrainedEnv(environment, seed)

    def __repr__(self) -> str:
        known, score = self.identity, self.score
        whose = f"{self.mean_of} learners of all machines" if self._of_all_nodes else "all learners"
        who = f"mean of {whose}" if self.learner == MEAN else f"learner {self.learner}"
        told = "no score yet" if score is None else f"score {score:.4g} in training"
        best = checkpoints.linked(self.path.parent, BEST)
        which = self.path.name + (" (best)" if best and best.name == self.path.name else "")
        return (
            f"Agent({known.env_id}, {known.algorithm}, {known.network}, {who}, "
            f"{self.agent_steps:,} agent steps, {told}, {which})"
        )

    def _evaluated(self, batch: Batch, state: State | None) -> Computed:
        """Return what the network gives; `state` None: for first observations of episodes."""
        return self.policy.computed(batch, self.policy.state_of(state, None, len(batch.array)))


def _result(outputs: Tensor, single: bool) -> npt.NDArray[np.float32]:
    """Return `[B, ...]` as an array, or its only row."""
    values: npt.NDArray[np.float32] = outputs.cpu().numpy()
    return values[0, ...] if single else values


def load(
    path: str | Path,
    *,
    learner: Learner = MEAN,
    device: str | torch.device = "cpu",
    which: str | None = None,
    seed: int = 0,
    env_id: str = "",
    wrapper: str | Sequence[str] = (),
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
        wrapper: the `module:Class` of the training's wrapper, or of all in their order, likewise.
        network: the `module:factory` of a network of your own, by the same rule: it is imported to
            act.

    Warns:
        UserWarning: a damaged checkpoint was skipped; one warning for each.

    Raises:
        CheckpointError: there is no such checkpoint or learner, or it is damaged.
        UserError: the device cannot be used, an argument has no meaning, or a module would be
            imported for the network that only the checkpoint names.

    Example:
        >>> agent = galamp.load("runs/cartpole", learner=1, which="latest")
        >>> agent.identity.env_id, agent.learner
        ('CartPole-v1', 1)
    """
    if which not in (None, "best", "latest"):
        raise UserError(f"which {which!r}: expected best or latest")
    found = locate(path, which, flag="which")
    for line in found.skipped:
        warnings.warn(f"damaged checkpoint passed over: {line}", stacklevel=2)
    trained = read(found.path, learner)
    return Agent(
        trained,
        learner,
        usable_device(device),
        seed=seed,
        env_id=env_id,
        wrapper=(wrapper,) if isinstance(wrapper, str) else wrapper,
        network=network,
    )
