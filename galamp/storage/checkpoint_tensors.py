"""Tensors of a checkpoint: the file of each learner, and that of the mean over all nodes.

    LearnerState, LearnerEntry --format_learner--> bytes --parse_learner--> LearnerState
    MeanState                  --format_mean-----> bytes --parse_mean-----> MeanState

    learner-<rank>.safetensors   parameters.<name> float32, optimizer.<name> float32 [P] or
                                 shorter, generator uint8, where P counts the parameters; and
                                 normaliser float64, in runs that have one
    mean.safetensors             parameters.<name> float32: of the learners of all nodes, in runs
                                 on several

What a file must hold follows from the identity and its entry in `state.json`; that is compared
with the file's size before memory is allocated. Pure.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load as parse_tensors
from safetensors.numpy import save as format_tensors

from galamp.core.decode import Positive, Range
from galamp.core.errors import CheckpointError
from galamp.core.sanitize import is_tensor_name
from galamp.storage.canonical_json import LARGEST_COUNT, need
from galamp.storage.checkpoint_state import LearnerState, MeanState
from galamp.storage.identity import Identity

MEAN_FILE = "mean.safetensors"

# Memory is allocated only within these limits, whatever a file claims.
HEADER_LIMIT_BYTES = 1_000_000
LEARNER_LIMIT_BYTES = 2**31
GENERATOR_LIMIT_BYTES = 2**16
LEARNER_LIMIT, LEARNERS_OF_ALL_NODES_LIMIT = 1024, 2**20
MAX_OPTIMIZER = 8
"""Most vectors of an optimiser's state."""

NORMALISER = "normaliser"
"""Name of its tensor, and of its size in a learner's entry."""
NUMBERS_PER_INPUT, NUMBERS_BESIDES = 4, 8
"""Limit of a normaliser's size, for observations of so many inputs."""

TensorSpecs = dict[str, tuple[str, tuple[int, ...]]]
"""Data type and shape by name."""


@dataclass(frozen=True)
class LearnerEntry:
    """What the state says of one learner, and so what its file must hold."""

    rank: Annotated[int, Range(0, LEARNER_LIMIT - 1)]
    counters: dict[str, Annotated[int, Range(-LARGEST_COUNT, LARGEST_COUNT)]]
    optimizer: tuple[str, ...] | dict[str, Positive]
    """Names of the optimiser's state; with sizes, where any is not `[P]`."""
    generator_bytes: Annotated[int, Range(1, GENERATOR_LIMIT_BYTES)]
    normaliser: Positive | None = None
    """Size of the statistics of its normaliser, if it has one."""


@dataclass(frozen=True)
class MeanEntry:
    """What the state says of the mean over all nodes."""

    learners: Annotated[int, Range(1, LEARNERS_OF_ALL_NODES_LIMIT)]


# --- writing ---


def entry_of(learner: LearnerState, identity: Identity) -> LearnerEntry:
    """Return what the state is to say of a learner."""
    return LearnerEntry(
        learner.rank,
        learner.counters,
        _optimizer_entry(learner, identity),
        learner.generator.size,
        learner.normaliser.size or None,
    )


def _optimizer_entry(learner: LearnerState, identity: Identity) -> tuple[str, ...] | dict[str, int]:
    """Return the names of the optimiser's state; where any is not `[P]`, with their sizes."""
    sizes = {name: learner.optimizer[name].size for name in sorted(learner.optimizer)}
    return tuple(sizes) if {*sizes.values()} <= {identity.num_parameters} else sizes


def format_learner(learner: LearnerState, identity: Identity, entry: LearnerEntry) -> bytes:
    """Return the content of a learner's file.

    Raises:
        CheckpointError: its tensors are not those of the entry.
    """
    tensors: dict[str, npt.NDArray[Any]] = {"generator": learner.generator}
    tensors |= {f"parameters.{name}": value for name, value in learner.parameters.items()}
    tensors |= {f"optimizer.{name}": value for name, value in learner.optimizer.items()}
    tensors |= {NORMALISER: learner.normaliser} if learner.normaliser.size else {}
    _check_tensors(tensors, f"learner {learner.rank}", _tensor_specs(identity, entry))
    return format_tensors({name: np.ascontiguousarray(value) for name, value in tensors.items()})


def format_mean(mean: MeanState, identity: Identity) -> bytes:
    """Return the content of the file of the mean.

    Raises:
        CheckpointError: its parameters are not those of the identity.
    """
    tensors: dict[str, npt.NDArray[Any]] = {
        f"parameters.{name}": value for name, value in mean.parameters.items()
    }
    _check_tensors(tensors, MEAN_FILE, _parameter_specs(identity))
    return format_tensors({name: np.ascontiguousarray(value) for name, value in tensors.items()})


# --- reading ---


def check_learner(entry: LearnerEntry, file: str, size: int, identity: Identity) -> None:
    """Check an entry, and the size of its file, before memory is allocated for it.

    Raises:
        CheckpointError: no learner has such a state, or its file would be of another size.
    """
    names = entry.optimizer
    good = len(set(names)) == len(names) <= MAX_OPTIMIZER and all(map(is_tensor_name, names))
    need(good, "unexpected optimizer state")
    _check_size(size, file, _tensor_specs(identity, entry))


def check_mean(size: int, identity: Identity) -> None:
    """Check the size of the file of the mean, before memory is allocated for it.

    Raises:
        CheckpointError: it would be of another size.
    """
    _check_size(size, MEAN_FILE, _parameter_specs(identity))


def _check_size(size: int, file: str, specs: TensorSpecs) -> None:
    least = 8 + sum(np.dtype(kind).itemsize * math.prod(shape) for kind, shape in specs.values())
    good = least < size <= min(least + HEADER_LIMIT_BYTES, LEARNER_LIMIT_BYTES)
    need(good, f"{file} has {size} bytes, its tensors need {least}")


def parse_learner(
    content: bytes, file: str, identity: Identity, entry: LearnerEntry
) -> LearnerState:
    """Return the state of the learner that `entry` describes."""
    tensors = _parse(content, file, _tensor_specs(identity, entry))
    parameters = _parameters(tensors, identity)
    optimizer = {name: tensors[f"optimizer.{name}"].copy() for name in entry.optimizer}
    generator = tensors["generator"].copy()
    normaliser = tensors[NORMALISER].copy() if entry.normaliser else np.zeros(0)
    return LearnerState(entry.rank, parameters, optimizer, entry.counters, generator, normaliser)


def parse_mean(content: bytes, identity: Identity, mean: MeanState) -> MeanState:
    """Return the mean, with its parameters."""
    tensors = _parse(content, MEAN_FILE, _parameter_specs(identity))
    return MeanState(_parameters(tensors, identity), mean.learners)


def _parse(content: bytes, file: str, specs: TensorSpecs) -> dict[str, npt.NDArray[Any]]:
    """Return the tensors of a file, which must be those of `specs`."""
    header_bytes = int.from_bytes(content[:8], "little")
    need(header_bytes <= HEADER_LIMIT_BYTES, f"{file}: its header is too large")
    try:
        tensors = parse_tensors(content)
    except (SafetensorError, ValueError, KeyError) as error:
        raise CheckpointError(f"{file}: {str(error)[:200]!r}") from None
    _check_tensors(tensors, file, specs)
    return tensors


def _parameters(
    tensors: dict[str, npt.NDArray[Any]], identity: Identity
) -> dict[str, npt.NDArray[np.float32]]:
    # Copied, since the parser's arrays are read-only.
    return {name: tensors[f"parameters.{name}"].copy() for name, _ in identity.layout}


# --- both ---


def _parameter_specs(identity: Identity) -> TensorSpecs:
    return {f"parameters.{name}": ("float32", shape) for name, shape in identity.layout}


def _tensor_specs(identity: Identity, entry: LearnerEntry) -> TensorSpecs:
    specs: TensorSpecs = {"generator": ("uint8", (entry.generator_bytes,))}
    specs |= _parameter_specs(identity)
    state = entry.optimizer
    sizes = state if isinstance(state, dict) else dict.fromkeys(state, identity.num_parameters)
    # No more than a list of as many could ask for: memory for all is taken by the parameters.
    longer = [name for name, size in sizes.items() if size > identity.num_parameters]
    need(not longer, f"optimizer state {longer[:1]} is longer than the parameters")
    specs |= {f"optimizer.{name}": ("float32", (size,)) for name, size in sizes.items()}
    if entry.normaliser:
        most = NUMBERS_PER_INPUT * math.prod(identity.observation_shape) + NUMBERS_BESIDES
        need(entry.normaliser <= most, "normaliser is larger than any of these observations")
        specs[NORMALISER] = ("float64", (entry.normaliser,))
    return specs


def _check_tensors(tensors: dict[str, npt.NDArray[Any]], file: str, specs: TensorSpecs) -> None:
    for name in sorted({*specs, *tensors}):
        found = (tensors[name].dtype.name, tensors[name].shape) if name in tensors else "nothing"
        expected = specs.get(name, "nothing")
        need(found == expected, f"{file}: {name[:200]!r} is {found}, expected {expected}")


def learner_file(rank: int) -> str:
    """Return the name of a learner's file."""
    return f"learner-{rank}.safetensors"
