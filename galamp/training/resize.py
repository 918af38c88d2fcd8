"""States of n learners, converted for m learners.

    states of n learners --resized--> states of m: the first stay; others are merged or created

Runs in the supervisor before any learner starts. The run's total of agent steps stays the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch

from galamp.core.normalisation import NormaliserSpec, Own, Saved
from galamp.memory.learner_state import STATE_COUNTERS, State

POSITION_COUNTERS = ("turns", "rounds")
"""Counters that give a learner's position in the gossip, not its work."""


def resized(
    states: Sequence[State], seeds: Sequence[int], normaliser: NormaliserSpec | None = None
) -> list[State]:
    """Return a state for each of `seeds`; the first ones are unchanged.

    The agent steps of removed learners are added to the remaining ones, rank by rank. New learners
    start with the mean of all tensors and the largest position counters, and draw actions from a
    new generator with their seed. Statistics of normalisers stay those of all data, each counted
    once: removed learners' are merged into the remaining ones', new learners have counted nothing.
    These have the scales of the first learner that has some, until there are scales of their data.
    """
    count = len(seeds)
    kept = [state._replace(counters=dict(state.counters)) for state in states[:count]]
    for rank, removed in enumerate(states[count:], count):
        kept[rank % count].counters["agent_steps"] += removed.counters["agent_steps"]
        if normaliser is not None:
            kept[rank % count] = _with_data_of(kept[rank % count], removed, normaliser)
    added = [_newcomer(states, seed, normaliser) for seed in seeds[len(states) :]]
    return kept + added


def _with_data_of(state: State, removed: State, spec: NormaliserSpec) -> State:
    mine, other = (Saved.unpacked(each.normaliser, spec) for each in (state, removed))
    merged = replace(mine, own=mine.own.merged(other.own))
    return state._replace(normaliser=merged.packed())


def _newcomer(states: Sequence[State], seed: int, spec: NormaliserSpec | None) -> State:
    tensors = {name: _mean([state.tensors[name] for state in states]) for name in states[0].tensors}
    counters = dict.fromkeys(STATE_COUNTERS, 0)
    counters |= {name: max(state.counters[name] for state in states) for name in POSITION_COUNTERS}
    newcomer = State(tensors, counters, _generator(seed, like=states[0].generator))
    if spec is None:
        return newcomer
    # Raw, if one network is trained: initial weights, which are for the first scales, are not.
    saved = [Saved.unpacked(state.normaliser, spec) for state in states]
    most = max(saved, key=lambda each: (each.scales.chosen, each.adopted))
    return newcomer._replace(normaliser=replace(most, own=Own.none(spec)).packed())


def _mean(tensors: Sequence[npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
    """Return the mean; the mean of equal numbers is exactly that number."""
    total = np.zeros(tensors[0].shape)
    for tensor in tensors:
        total += tensor
    return (total / len(tensors)).astype(np.float32)


def _generator(seed: int, like: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return the state of a new generator, of the same kind as `like`."""
    state: npt.NDArray[np.uint8] = torch.Generator().manual_seed(seed).get_state().numpy()
    if state.size == like.size:
        return state
    # A CUDA generator's state: seed and offset. Creating one here would create a CUDA context.
    return np.array([seed, 0], np.int64).view(np.uint8)
