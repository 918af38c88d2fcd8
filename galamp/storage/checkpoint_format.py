"""Format of a checkpoint's files; sizes are checked before memory is allocated.

    Checkpoint --format_files, format_manifest--> name, bytes of each file
    open folder --read_manifest, read_state--> Checkpoint without learners, contents of their files
                --read_file, parse_learner---> LearnerState

    learner-<rank>.safetensors   parameters.<name> float32, optimizer.<name> float32 [P] or
                                 shorter, generator uint8, where P counts the parameters; and
                                 normaliser float64, in runs that have one
    mean.safetensors             parameters.<name> float32: of the learners of all nodes, in runs
                                 on several
    state.json                   identity, config, progress, and what each learner's file must hold
    MANIFEST.json                written last: size and SHA-256 of each file, its own digest, and
                                 the sequence: number of the save in this folder

Runs in the supervisor and in evaluation. Errors are raised as a `CheckpointError` without a path.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from io import BufferedReader
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load as parse_tensors
from safetensors.numpy import save as format_tensors

from galamp.core.decode import Positive, Range
from galamp.core.disk import open_unfollowed
from galamp.core.errors import CheckpointError
from galamp.core.sanitize import is_tensor_name
from galamp.storage.canonical_json import (
    JSON_LIMIT_BYTES,
    LARGEST_COUNT,
    encode,
    need,
    need_count,
    need_decoded,
    parse,
)
from galamp.storage.identity import Identity

MANIFEST = "MANIFEST.json"
STATE = "state.json"
MEAN_FILE = "mean.safetensors"
FORMAT = "galamp checkpoint"
VERSION = 1

# Memory is allocated only within these limits, whatever a file claims.
HEADER_LIMIT_BYTES = 1_000_000
LEARNER_LIMIT_BYTES = 2**31
GENERATOR_LIMIT_BYTES = 2**16
LEARNER_LIMIT, LEARNERS_OF_ALL_NODES_LIMIT = 1024, 2**20
SEQUENCE_LIMIT = 2**53
"""No run saves this often; a larger number in a file would leave no higher one for the next save.
"""

NORMALISER = "normaliser"
"""Name of its tensor, and of its size in a learner's entry."""
NUMBERS_PER_INPUT, NUMBERS_BESIDES = 4, 8
"""Limit of a normaliser's size, for observations of so many inputs."""

Files = dict[str, tuple[int, str]]
"""Size in bytes and SHA-256 by name."""

TensorSpecs = dict[str, tuple[str, tuple[int, ...]]]
"""Data type and shape by name."""


@dataclass(frozen=True)
class LearnerState:
    """Complete state of one learner, from which it can resume."""

    rank: int
    parameters: dict[str, npt.NDArray[np.float32]]
    """By name, in standard PyTorch layout."""
    optimizer: dict[str, npt.NDArray[np.float32]]
    """By name, each `[P]`, such as RMSprop's `square_average`, or shorter, such as a mean `[1]`."""
    counters: dict[str, int]
    generator: npt.NDArray[np.uint8]
    """`[G]`: state of the generator that samples actions."""
    normaliser: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    """What `--norm-obs` and `--norm-reward` keep, see `core.normalisation`; else empty."""


@dataclass(frozen=True)
class MeanState:
    """Mean of the learners of all nodes, as one node has them."""

    parameters: dict[str, npt.NDArray[np.float32]]
    """By name, in standard PyTorch layout."""
    learners: int
    """Number of learners that it is of."""


@dataclass(frozen=True)
class Checkpoint:
    """State of a run at one moment."""

    identity: Identity
    config: dict[str, Any]
    progress: dict[str, Any]
    """JSON values; `agent_steps` must be among them and names the folder."""
    learners: tuple[LearnerState, ...]
    mean: MeanState | None = None
    """Of runs on several nodes, where this one saves it; None as well where it was not read."""


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


@dataclass(frozen=True)
class _State:
    """state.json."""

    identity: Any
    config: dict[str, Any]
    progress: dict[str, Any]
    learners: tuple[LearnerEntry, ...]
    mean: MeanEntry | None = None


@dataclass(frozen=True)
class _Manifest:
    """MANIFEST.json, without its digest."""

    format: str
    version: int
    sequence: Annotated[int, Range(0, SEQUENCE_LIMIT - 1)]
    files: Files


# --- writing ---


def format_files(checkpoint: Checkpoint) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of each file except the manifest.

    Raises:
        CheckpointError: the content breaks the format.
    """
    entries = []
    for learner in checkpoint.learners:
        entry = LearnerEntry(
            learner.rank,
            learner.counters,
            _optimizer_entry(learner, checkpoint.identity),
            learner.generator.size,
            learner.normaliser.size or None,
        )
        yield learner_file(learner.rank), _format_learner(learner, checkpoint.identity, entry)
        entries.append({name: each for name, each in asdict(entry).items() if each is not None})
    state = {
        "identity": checkpoint.identity.to_dict(),
        "config": checkpoint.config,
        "progress": checkpoint.progress,
        "learners": entries,
    }
    if checkpoint.mean is not None:
        yield MEAN_FILE, _format_mean(checkpoint.mean, checkpoint.identity)
        state["mean"] = asdict(MeanEntry(checkpoint.mean.learners))
    yield STATE, encode(state)


def _optimizer_entry(learner: LearnerState, identity: Identity) -> tuple[str, ...] | dict[str, int]:
    """Return the names of the optimiser's state; where any is not `[P]`, with their sizes."""
    sizes = {name: learner.optimizer[name].size for name in sorted(learner.optimizer)}
    return tuple(sizes) if {*sizes.values()} <= {identity.num_parameters} else sizes


def format_manifest(sequence: int, files: Files) -> bytes:
    """Return the manifest's content."""
    body = {"format": FORMAT, "version": VERSION, "sequence": sequence, "files": files}
    digest = hashlib.sha256(encode(body)).hexdigest()
    return encode(body | {"digest": digest})


def _format_learner(learner: LearnerState, identity: Identity, entry: LearnerEntry) -> bytes:
    tensors: dict[str, npt.NDArray[Any]] = {"generator": learner.generator}
    tensors |= {f"parameters.{name}": value for name, value in learner.parameters.items()}
    tensors |= {f"optimizer.{name}": value for name, value in learner.optimizer.items()}
    tensors |= {NORMALISER: learner.normaliser} if learner.normaliser.size else {}
    _check_tensors(tensors, f"learner {learner.rank}", _tensor_specs(identity, entry))
    return format_tensors({name: np.ascontiguousarray(value) for name, value in tensors.items()})


def _format_mean(mean: MeanState, identity: Identity) -> bytes:
    tensors: dict[str, npt.NDArray[Any]] = {
        f"parameters.{name}": value for name, value in mean.parameters.items()
    }
    _check_tensors(tensors, MEAN_FILE, _parameter_specs(identity))
    return format_tensors({name: np.ascontiguousarray(value) for name, value in tensors.items()})


# --- reading ---


def read_manifest(folder: int) -> tuple[int, Files]:
    """Return the sequence, and size and SHA-256 of each other file."""
    with _file(folder, MANIFEST) as (file, size):
        need(size <= JSON_LIMIT_BYTES, f"{MANIFEST} is larger than {JSON_LIMIT_BYTES} bytes")
        document = parse(MANIFEST, file.read(size))
    digest = document.pop("digest", None)
    good = digest == hashlib.sha256(encode(document)).hexdigest()
    need(good, f"{MANIFEST} is damaged: its digest differs")
    need(document.get("format") == FORMAT, f"{MANIFEST} is not of a galamp checkpoint")
    need(document.get("version") == VERSION, f"only format version {VERSION} can be read")
    manifest = need_decoded(_Manifest, document, MANIFEST)
    for name in manifest.files:
        good = re.fullmatch(r"[a-z0-9._-]{1,100}", name) is not None
        need(good, f"{MANIFEST}: unexpected name of a file")
    return manifest.sequence, manifest.files


def read_state(folder: int, files: Files) -> tuple[Checkpoint, dict[int, LearnerEntry]]:
    """Return the checkpoint without its learners, and what each learner's file must hold.

    Its mean, if it has one, is without parameters.
    """
    size, digest = files.get(STATE, (0, ""))
    need(size <= JSON_LIMIT_BYTES, f"{STATE} is larger than {JSON_LIMIT_BYTES} bytes")
    document = parse(STATE, read_file(folder, STATE, size, digest))
    state = need_decoded(_State, document, STATE)
    identity = Identity.from_dict(state.identity)
    need_count(state.progress.get("agent_steps"), "progress: agent_steps")
    good = 1 <= len(state.learners) <= LEARNER_LIMIT
    need(good, f"{STATE}: expected 1 to {LEARNER_LIMIT} learners")
    entries = {entry.rank: entry for entry in state.learners}
    expected = {STATE, *map(learner_file, entries), *([MEAN_FILE] if state.mean else [])}
    good = len(entries) == len(state.learners) and set(files) == expected
    need(good, f"{MANIFEST} and {STATE} name different files")
    for rank, entry in entries.items():
        names = entry.optimizer
        good = len(set(names)) == len(names) <= 8 and all(map(is_tensor_name, names))
        need(good, "unexpected optimizer state")
        file = learner_file(rank)
        _check_size(files[file][0], file, _tensor_specs(identity, entry))
    mean = None
    if state.mean is not None:
        _check_size(files[MEAN_FILE][0], MEAN_FILE, _parameter_specs(identity))
        mean = MeanState({}, state.mean.learners)
    return Checkpoint(identity, state.config, state.progress, (), mean), entries


def _check_size(size: int, file: str, specs: TensorSpecs) -> None:
    """Compare a file's size with its tensors, before memory is allocated for it."""
    least = 8 + sum(np.dtype(kind).itemsize * math.prod(shape) for kind, shape in specs.values())
    good = least < size <= min(least + HEADER_LIMIT_BYTES, LEARNER_LIMIT_BYTES)
    need(good, f"{file} has {size} bytes, its tensors need {least}")


def read_file(folder: int, name: str, size: int, digest: str) -> bytes:
    """Return the content of a file; its size and SHA-256 must be those of the manifest."""
    with _file(folder, name) as (file, found):
        need(found == size, f"{name} has {found} bytes, expected {size}")
        content = file.read(size)
    _need_digest(name, hashlib.sha256(content).hexdigest(), digest)
    return content


def verify_file(folder: int, name: str, size: int, digest: str) -> None:
    """Check a file like `read_file`, without keeping its content."""
    with _file(folder, name) as (file, found):
        need(found == size, f"{name} has {found} bytes, expected {size}")
        of_file = hashlib.file_digest(file, "sha256").hexdigest()
    _need_digest(name, of_file, digest)


def _need_digest(name: str, found: str, digest: str) -> None:
    need(found == digest, f"{name} is damaged: its digest differs")


@contextlib.contextmanager
def _file(folder: int, name: str) -> Iterator[tuple[BufferedReader, int]]:
    """Open a regular file of a folder, following no links; yields it and its size in bytes."""
    try:
        opened = open_unfollowed(folder, name)
    except FileNotFoundError:
        raise CheckpointError(f"{name} is missing") from None
    except OSError as error:
        raise CheckpointError(f"{name} cannot be opened: {error.strerror}") from None
    with open(opened, "rb") as file:
        status = os.fstat(opened)
        need(stat.S_ISREG(status.st_mode), f"{name} is not a plain file")
        yield file, status.st_size


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
