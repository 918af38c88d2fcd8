"""Verification of an export: the same outputs and actions on observations of real games.

    Agent, TrainedEnv --record--> Recording --verify--> Verification, or a GalampError

Runs in `galamp export`, before a file is written.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from galamp.algorithms.distributions import Distribution
from galamp.core.errors import GalampError
from galamp.tools.evaluation.agent import Agent
from galamp.tools.evaluation.policy import State
from galamp.tools.evaluation.trained_env import TrainedEnv
from galamp.tools.export.formats import Function
from galamp.tools.export.torch_formats import function_of

OBSERVATIONS = 1000
TOLERANCE = 1e-5
"""Greatest difference of two outputs, as a part of the greatest output where that is above 1."""
AT_ONCE = 128
"""Batch size; the last batch is smaller, so that no size can have been fixed."""


class Recording(NamedTuple):
    """Observations of whole games, in the order in which they were seen."""

    observations: NDArray[Any]
    """[N, *observation_shape]."""
    states: NDArray[np.float32] | None
    """[N, S] before them, of a recurrent network."""


class Verification(NamedTuple):
    """How far an export was from the original.

    Attributes:
        observations: number of observations.
        same_actions: of so many the most probable action is the same.
        near_ties: where it is another one, which the original finds as good within the tolerance.
        logits_difference: the greatest one.
        values_difference: the greatest one.
    """

    observations: int
    same_actions: int
    near_ties: int
    logits_difference: float
    values_difference: float


def record(agent: Agent, env: TrainedEnv, count: int = OBSERVATIONS) -> Recording:
    """Play until so many observations were seen; actions are drawn from the policy."""
    seen, states = [], []
    observation, _ = env.reset()
    state: State | None = None
    begins = True
    for _ in range(count):
        seen.append(observation)
        before = None if begins else state
        action, state = agent.predict(observation, before)
        if state is not None:
            states.append(np.zeros_like(state[0][0]) if before is None else before[0][0])
        observation, _, terminated, truncated, _ = env.step(action)
        begins = terminated or truncated
        if begins:
            observation, _ = env.reset()
    return Recording(np.stack(seen), np.stack(states) if states else None)


def verify(agent: Agent, exported: Function, recording: Recording) -> Verification:
    """Compare what an export computes with the agent itself.

    Raises:
        GalampError: they differ.
    """
    observations, states = recording
    original = function_of(agent.module_of(observations.dtype.name))
    wanted = original(observations, states)
    wanted[0] = agent.logits(observations, None if states is None else (states,))
    found = _in_batches(exported, recording)
    differences = [_difference(*pair) for pair in zip(wanted, found, strict=True)]
    same, ties = _actions(agent.policy.distribution, wanted[0], found[0])
    if max(differences) > TOLERANCE or same + ties < len(observations):
        raise GalampError(
            f"nothing written: the export differs from the agent by {max(differences):.2g} in its "
            f"outputs (at most {TOLERANCE:g} are allowed), and takes the same action for {same:,} "
            f"of {len(observations):,} observations; choose another --format"
        )
    return Verification(len(observations), same, ties, differences[0], differences[1])


def _in_batches(exported: Function, recording: Recording) -> list[NDArray[Any]]:
    """Return all that an export gives, computed a batch at a time."""
    observations, states = recording
    found = []
    for start in range(0, len(observations), AT_ONCE):
        rows = slice(start, start + AT_ONCE)
        found.append(exported(observations[rows], None if states is None else states[rows]))
    return [np.concatenate(parts) for parts in zip(*found, strict=True)]


def _difference(wanted: NDArray[Any], found: NDArray[Any]) -> float:
    """Return the greatest difference; infinity for other shapes, or where there is NaN."""
    if wanted.shape != found.shape:
        return np.inf
    greatest = np.abs(wanted - found).max(initial=0.0) / np.abs(wanted).max(initial=1.0)
    return float(np.nan_to_num(greatest, nan=np.inf))


def _actions(policy: Distribution, wanted: NDArray[Any], found: NDArray[Any]) -> tuple[int, int]:
    """Return in how many rows the most probable action is the same, and how many are near ties.

    Two actions of almost one probability can change places by the rounding of the last digit.
    """
    outputs, others = torch.from_numpy(wanted), torch.from_numpy(found)
    own, taken = policy.mode(outputs), policy.mode(others)
    same = torch.isclose(own.double(), taken.double(), rtol=TOLERANCE, atol=TOLERANCE)
    equal = same.flatten(1).all(1) if same.ndim > 1 else same
    lost = policy.log_prob(outputs, own) - policy.log_prob(outputs, taken)
    ties = ~equal & (lost.abs() <= TOLERANCE * max(1, policy.num_inputs))
    return int(equal.sum()), int(ties.sum())
