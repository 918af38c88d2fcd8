"""The states of some learners, for more or fewer of them.

    states of n learners --resized--> states of m: the first stay, the others are added up or made

Runs in the supervisor before any learner starts. Nothing learned is lost to the run's counts: its
agent steps are the same before and after.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from galamp.memory.learner_state import STATE_COUNTERS, State

WHERE = ("turns", "rounds")
"""Counters that say where in the gossip a learner is, not what it has done."""


def resized(states: Sequence[State], seeds: Sequence[int]) -> list[State]:
    """Return a state for each of `seeds`, the first ones as they are.

    The agent steps of those that leave go to those that stay, rank by rank. Those that come begin
    with the mean of all tensors, at the place in the gossip where the first of the others is, and
    draw their actions from a new generator of their seed.
    """
    count = len(seeds)
    stay = [state._replace(counters=dict(state.counters)) for state in states[:count]]
    for rank, leaver in enumerate(states[count:], count):
        stay[rank % count].counters["agent_steps"] += leaver.counters["agent_steps"]
    come = [_newcomer(states, seed) for seed in seeds[len(states) :]]
    return stay + come


def _newcomer(states: Sequence[State], seed: int) -> State:
    tensors = {name: _mean([state.tensors[name] for state in states]) for name in states[0].tensors}
    counters = dict.fromkeys(STATE_COUNTERS, 0)
    counters |= {name: max(state.counters[name] for state in states) for name in WHERE}
    return State(tensors, counters, _generator(seed, like=states[0].generator))


def _mean(tensors: Sequence[npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
    """Return the mean; of equal numbers it is that number, to the last bit."""
    total = np.zeros(tensors[0].shape)
    for tensor in tensors:
        total += tensor
    return (total / len(tensors)).astype(np.float32)


def _generator(seed: int, like: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return the state of a new generator, of the kind that `like` is of."""
    state: npt.NDArray[np.uint8] = torch.Generator().manual_seed(seed).get_state().numpy()
    if state.size == like.size:
        return state
    # A GPU's: seed and offset. Making one would make a CUDA context here.
    return np.array([seed, 0], np.int64).view(np.uint8)
