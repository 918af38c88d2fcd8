"""State conversion: a learner's state as it runs, and as checkpoints have it.

    State, its parameters flat [P] <--saved_state, learner_state--> LearnerState, by name

Checkpoints have parameters by name, in PyTorch's layout; the flat vector has convolutions in the
order in which they are computed, OHWI instead of OIHW. Pure.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from galamp.algorithms.flat_parameters import Span
from galamp.memory.learner_state import State
from galamp.storage.checkpoint import LearnerState


def learner_state(rank: int, state: State, layout: tuple[Span, ...]) -> LearnerState:
    """Convert a saved state: parameters by name in PyTorch's layout, the rest unchanged."""
    tensors = dict(state.tensors)
    parameters = parameters_of(tensors.pop("parameters"), layout)
    return LearnerState(
        rank, parameters, tensors, state.counters, state.generator, state.normaliser
    )


def parameters_of(
    flat: npt.NDArray[np.float32], layout: tuple[Span, ...]
) -> dict[str, npt.NDArray[np.float32]]:
    """Return the parameters of a flat vector by name, in PyTorch's layout."""
    return {span.name: _standard(flat, span) for span in layout}


def saved_state(learner: LearnerState, layout: tuple[Span, ...]) -> State:
    """Convert a checkpoint's state back: the inverse of `learner_state`."""
    flat = np.concatenate([_stored(learner.parameters[span.name]) for span in layout])
    tensors = {"parameters": flat, **learner.optimizer}
    # In older checkpoints every turn was a round, and only rounds were counted.
    counters = {"turns": learner.counters.get("rounds", 0)} | dict(learner.counters)
    return State(tensors, counters, learner.generator, learner.normaliser)


def _standard(flat: npt.NDArray[np.float32], span: Span) -> npt.NDArray[np.float32]:
    """Return one parameter of the flat vector; convolutions are stored OHWI, returned OIHW."""
    part = flat[span.offset : span.offset + int(np.prod(span.shape))]
    if len(span.shape) != 4:
        return part.reshape(span.shape)
    outputs, inputs, height, width = span.shape
    stored = part.reshape(outputs, height, width, inputs)
    return np.ascontiguousarray(stored.transpose(0, 3, 1, 2))


def _stored(parameter: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return one parameter as the flat vector stores it."""
    if parameter.ndim == 4:
        parameter = parameter.transpose(0, 2, 3, 1)
    return np.ascontiguousarray(parameter).reshape(-1)
