"""Sharpness: how the loss curves along what learners differ by, beside random directions.

    run folder --play by the mean of all learners--> Batch
    loss at the mean, and on both sides of it --curvature--> Sharpness

That decentralised averaging would find flat minima is a claim of theory (Zhu et al. 2023); this
looks at it where A2C trained. The loss is A2C's; its returns and advantages are those of the mean
of all learners, and stay fixed. It is computed in float64: a second difference over a step as short
as learners differ by would be rounding in float32. Runs in `bin/study`, after a run.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters
from torch.overrides import TorchFunctionMode

from galamp.algorithms.a2c_config import A2CConfig
from galamp.tools.evaluation.agent import Agent, load
from galamp.tools.evaluation.trained import MEAN, Learner
from galamp.tools.study import plan
from galamp.tools.sweep.planned import PlannedRun

RANDOM_DIRECTIONS = 16


class Batch(NamedTuple):
    """What was played: observations [T, *shape], actions, returns and advantages [T]."""

    observations: Tensor
    actions: Tensor
    returns: Tensor
    advantages: Tensor


class Sharpness(NamedTuple):
    """Second derivatives of the loss by the distance: mean over directions.

    Attributes:
        differences: along the learners' differences from their mean.
        random: along random directions as long as those.
    """

    differences: float
    random: float


def sharpness(planned: PlannedRun, folder: Path) -> Sharpness | None:
    """Return the sharpness at the end of a run; None where all learners are equal.

    Args:
        planned: what the run was given; A2C with one choice of several actions.
        folder: of the run.

    Raises:
        UserError, CheckpointError: the folder lacks something, or is damaged.
    """
    config = planned.config.algorithm
    assert isinstance(config, A2CConfig)
    agents = [_agent(planned, folder, rank) for rank in range(planned.config.resources.learners)]
    mean = _agent(planned, folder, MEAN)
    centre = _vector(mean)
    differences = [_vector(agent) - centre for agent in agents]
    differences = [each for each in differences if float(each.norm()) > 0.0]
    if not differences:
        return None
    batch = played(mean, planned.seed, plan.STEPS, config.gamma)
    generator = torch.Generator().manual_seed(planned.seed)
    length = fmean(float(each.norm()) for each in differences)
    directions = [torch.randn(centre.shape, generator=generator) for _ in range(RANDOM_DIRECTIONS)]
    random = [each * (length / each.norm()) for each in directions]
    loss = loss_around(mean.module, batch, config.vf_coef, config.ent_coef)
    found = [fmean(curvature(loss, centre, each) for each in of) for of in (differences, random)]
    return Sharpness(*found)


def loss_around(
    module: nn.Module, batch: Batch, vf_coef: float, ent_coef: float
) -> Callable[[Tensor], float]:
    """Return A2C's loss as a function of all parameters [N] float64; the module becomes float64."""
    module.double()
    whole = Batch(*(each.double() if each.is_floating_point() else each for each in batch))

    def loss(vector: Tensor) -> float:
        vector_to_parameters(vector, module.parameters())
        with torch.no_grad(), _Float64():
            return loss_of(module, whole, vf_coef, ent_coef)

    return loss


class _Float64(TorchFunctionMode):
    """Has networks compute in float64, though they turn what they see into float32."""

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        given = {name: _wide(each) for name, each in (kwargs or {}).items()}
        return function(*map(_wide, args), **given)


def _wide(value: Any) -> Any:
    return torch.float64 if value is torch.float32 else value


def curvature(loss: Callable[[Tensor], float], centre: Tensor, step: Tensor) -> float:
    """Return the second derivative of the loss along `step`, by its values on both sides."""
    around = loss(centre + step) + loss(centre - step) - 2.0 * loss(centre)
    return around / float(step.square().sum())


def loss_of(module: nn.Module, batch: Batch, vf_coef: float, ent_coef: float) -> float:
    """Return A2C's loss of a batch."""
    logits, values = module(batch.observations)
    log_probs = logits.log_softmax(-1)
    taken = log_probs.gather(1, batch.actions.unsqueeze(1)).squeeze(1)
    policy_loss = -(taken * batch.advantages).mean()
    value_loss = (batch.returns - values).square().mean()
    entropy = -(log_probs.exp() * log_probs).sum(-1).mean()
    return float(policy_loss + vf_coef * value_loss - ent_coef * entropy)


def played(agent: Agent, seed: int, steps: int, gamma: float) -> Batch:
    """Play as in training, with drawn actions; returns are discounted to the end of an episode."""
    env = agent.env(seed=seed, training=True)
    observations, actions, rewards, ends, after = [], [], [], [], []
    observation, _ = env.reset()
    try:
        for left in reversed(range(steps)):
            observations.append(np.array(observation))
            action = int(agent.act(observation))
            observation, reward, terminated, truncated, _ = env.step(action)
            cut = truncated or not left
            actions.append(action)
            rewards.append(reward)
            ends.append(terminated or cut)
            after.append(float(agent.value(observation)) if cut and not terminated else 0.0)
            if terminated or truncated:
                observation, _ = env.reset()
    finally:
        env.close()
    returns, goal = np.zeros(steps, np.float32), 0.0
    for at in reversed(range(steps)):
        goal = rewards[at] + gamma * (after[at] if ends[at] else goal)
        returns[at] = goal
    stacked, goals = torch.from_numpy(np.stack(observations)), torch.from_numpy(returns)
    with torch.no_grad():
        advantages = goals - agent.module(stacked)[1]
    return Batch(stacked, torch.tensor(actions), goals, advantages)


def _agent(planned: PlannedRun, folder: Path, learner: Learner) -> Agent:
    return load(
        folder, learner=learner, which="latest", seed=planned.seed, env_id=planned.env_id
    )  # fmt: skip


def _vector(agent: Agent) -> Tensor:
    """Return all parameters [N] as float64."""
    return parameters_to_vector(agent.module.parameters()).detach().double()
