"""Checkpoints: whole or absent, every byte under a digest, and nothing in them that can run.

Runs in the supervisor, which saves and resumes, and in evaluation, which only loads.

    LearnerState x L --save--> .tmp-<pid>-<random>/ --fsync, read back, rename--> ckpt-<steps>/
    ckpt-<steps>/ --digests, identity, sizes, shapes--> load --> Checkpoint

    learner-<rank>.safetensors   parameters.<name> float32, optimizer.<name> float32 [P],
                                 generator uint8, where P counts the parameters
    state.json                   identity, config, progress, and what each learner's file must hold
    MANIFEST.json                written last: size and SHA-256 of each file, its own digest, and
                                 the sequence: which save of the folder this is
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import json
import math
import os
import re
import shutil
import stat
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load as parse_tensors
from safetensors.numpy import save as format_tensors

from galamp.errors import CheckpointError, GalampError

MANIFEST = "MANIFEST.json"
STATE = "state.json"
FORMAT = "galamp checkpoint"
VERSION = 1

# Memory is taken only within these, whatever a file claims.
JSON_LIMIT_BYTES = HEADER_LIMIT_BYTES = 1_000_000
LEARNER_LIMIT_BYTES = 2**31
GENERATOR_LIMIT_BYTES = 2**16
LEARNER_LIMIT = 1024
COUNT_LIMIT = 2**63

_FOLDER = re.compile(r"ckpt-(\d{12,18})(?:-(\d{1,6}))?")
_TEMPORARY = re.compile(r"\.tmp-(\d{1,9})-[0-9a-f]{8}")
_TENSOR = re.compile(r"[A-Za-z0-9._-]{1,200}")
_ours: set[str] = set()
"""Temporary names that this process uses now; others under its number are a dead namesake's."""


class CheckpointNotWritten(GalampError):
    """A checkpoint that could not be saved; earlier ones are untouched, and a retry is safe."""


@dataclass(frozen=True)
class Identity:
    """What a checkpoint belongs to; compared before any tensor is read."""

    env_id: str
    protocol: str
    observation_shape: tuple[int, ...]
    num_actions: int
    algorithm: str
    network: str
    layout: tuple[tuple[str, tuple[int, ...]], ...]
    """Names and shapes of the parameters, in standard PyTorch layout and order."""

    @property
    def num_parameters(self) -> int:
        """P, the length of the flat parameter vector."""
        return sum(math.prod(shape) for _, shape in self.layout)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: object) -> Identity:
        """Build an identity from its JSON form.

        Raises:
            CheckpointError: a field is missing, unknown, of the wrong type, or beyond its limit.
        """
        names = [leaf.name for leaf in dataclasses.fields(cls)]
        found = _mapping(values, "identity", names)
        for name in ("env_id", "protocol", "algorithm", "network"):
            text = found[name]
            # What is shown to users must not be able to steer their terminal.
            good = isinstance(text, str) and text.isprintable() and len(text) <= 200
            _need(good, f"identity: {name} is not a short line of text")
        found["observation_shape"] = _shape(found["observation_shape"], "observation_shape")
        _count(found["num_actions"], "num_actions")
        found["layout"] = _layout(found["layout"])
        identity = cls(**found)
        fits = 4 * identity.num_parameters <= LEARNER_LIMIT_BYTES
        _need(fits, f"identity: more than {LEARNER_LIMIT_BYTES} bytes of parameters")
        return identity

    def difference(self, other: Identity) -> str | None:
        """Say in one line how this checkpoint's identity differs from a run's, or return None."""
        sentences = {
            "env_id": "is of game {}, this run plays {}",
            "protocol": "is of protocol {}, this run uses {}",
            "observation_shape": "sees observations of shape {}, this run's have {}",
            "num_actions": "chooses among {} actions, this run among {}",
            "algorithm": "is of algorithm {}, this run uses {}",
            "network": "is of network {}, this run uses {}",
        }
        for name, sentence in sentences.items():
            mine, others = getattr(self, name), getattr(other, name)
            if mine != others:
                return sentence.format(mine, others)
        for mine, others in itertools.zip_longest(self.layout, other.layout):
            if mine != others:
                has, wants = (f"{p[0]} {list(p[1])}" if p else "none" for p in (mine, others))
                return f"has the parameter {has} where this run has {wants}"
        return None


@dataclass(frozen=True)
class LearnerState:
    """All that one learner needs to go on."""

    rank: int
    parameters: dict[str, npt.NDArray[np.float32]]
    """By name, in standard PyTorch layout."""
    optimizer: dict[str, npt.NDArray[np.float32]]
    """By name, each `[P]`, such as RMSprop's `square_average`."""
    counters: dict[str, int]
    generator: npt.NDArray[np.uint8]
    """`[G]`: state of the generator that samples actions."""


@dataclass(frozen=True)
class Checkpoint:
    """One moment of a run."""

    identity: Identity
    config: dict[str, Any]
    progress: dict[str, Any]
    """JSON values; `agent_steps` must be among them and names the folder."""
    learners: tuple[LearnerState, ...]


class Found(NamedTuple):
    """The checkpoint that `find` chose, and one line for each damaged one that it passed over."""

    path: Path
    skipped: tuple[str, ...]


def save(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint into `folder` and return its own folder once it would survive power loss.

    A checkpoint of the same agent steps is never overwritten: the same content is returned as it
    stands, another gets the suffix `-1`, `-2`, ...

    Raises:
        CheckpointNotWritten: the disk failed, or the content breaks the format.
    """
    try:
        steps = _count(checkpoint.progress.get("agent_steps"), "progress: agent_steps")
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _remove_stale(folder)
        with _temporary(folder) as temporary:
            files = _write(temporary, checkpoint, 1 + _last_sequence(folder))
            load(temporary, learners=())
            target = _settle(temporary, folder / f"ckpt-{steps:012d}", files)
        sync_folder(folder)
        sync_folder(folder.parent)
    except (OSError, CheckpointError, ValueError, TypeError, RecursionError) as error:
        why = (isinstance(error, OSError) and error.strerror) or error
        raise CheckpointNotWritten(f"no checkpoint written in {folder}: {why}") from error
    return target


def load(
    path: Path, *, expected: Identity | None = None, learners: Sequence[int] | None = None
) -> Checkpoint:
    """Read one checkpoint's folder, every byte of it verified.

    Args:
        path: the checkpoint's folder, or a link to it.
        expected: what the checkpoint must belong to; compared before any tensor is read.
        learners: ranks whose tensors are wanted (default: all); the others are only verified.

    Raises:
        CheckpointError: one line naming the file and what is wrong with it.
    """
    with _opened(path) as folder:
        _, files = _read_manifest(folder)
        checkpoint, entries = _read_state(folder, files)
        other = checkpoint.identity.difference(expected) if expected else None
        _need(other is None, f"it {other}")
        missing = sorted(set(learners or ()) - set(entries))
        _need(not missing, f"it has no learner {missing[:3]}, but 0 to {len(entries) - 1}")
        wanted = entries if learners is None else learners
        states = []
        for rank, entry in entries.items():
            file = _learner_file(rank)
            content = _read_file(folder, file, *files[file])
            if rank in wanted:
                states.append(_parse_learner(content, file, checkpoint.identity, entry))
    return dataclasses.replace(checkpoint, learners=tuple(states))


def read_identity(path: Path) -> Identity:
    """Return what a checkpoint belongs to, without reading its tensors.

    Raises:
        CheckpointError: the manifest or the state is damaged.
    """
    with _opened(path) as folder:
        return _read_state(folder, _read_manifest(folder)[1])[0].identity


def find(path: Path) -> Found:
    """Return the newest whole checkpoint of a run folder or its `checkpoints`, or the one named.

    Newest is the one saved last, which after a resume from an older one is not that of most steps.

    Raises:
        CheckpointError: no such path, nothing there is a checkpoint, or none is whole.
    """
    place = Path(os.path.realpath(path))
    wanted = "expected a run folder or a checkpoint"
    if not place.is_dir():
        what = "a file" if place.exists() else "no such path"
        raise CheckpointError(f"{path}: {what}; {wanted}")
    if _FOLDER.fullmatch(place.name) or os.path.lexists(place / MANIFEST):
        load(place, learners=())
        return Found(place, ())
    inner = place / "checkpoints"
    skipped = []
    try:
        candidates = _listed(inner if inner.is_dir() else place)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be listed: {error.strerror}") from None
    for _, candidate in reversed(candidates):
        try:
            load(candidate, learners=())
        except CheckpointError as error:
            skipped.append(str(error))
        else:
            return Found(candidate, tuple(skipped))
    if skipped:
        raise CheckpointError(f"{path}: {len(skipped)} checkpoints, none whole; {skipped[0]}")
    raise CheckpointError(f"{path}: holds no checkpoint; {wanted}")


def prune(folder: Path, keep: int, protect: Collection[Path] = ()) -> None:
    """Remove all but the `keep` checkpoints saved last, `protect`, and what the links point to.

    Those with an unreadable manifest are left for a person to judge. What the disk refuses to
    remove is tried again the next time.
    """
    spared = {os.path.realpath(p) for p in (*protect, folder / "latest", folder / "best")}
    with contextlib.suppress(OSError):
        known = [path for sequence, path in _listed(folder) if sequence is not None]
        for path in known[: -max(1, keep)]:
            if os.path.realpath(path) not in spared:
                # A folder half removed when the power fails must not look like a checkpoint.
                with _temporary(folder) as grave:
                    path.rename(grave)


def point(folder: Path, name: Literal["latest", "best"], target: Path) -> None:
    """Let the link `folder/name` point to a checkpoint of the folder, at no instant to nothing.

    Raises:
        CheckpointNotWritten: the disk failed; the link is as before.
    """
    try:
        replace_link(folder / name, target.name)
    except OSError as error:
        raise CheckpointNotWritten(f"{folder / name} not moved: {error.strerror}") from error


def replace_link(link: Path, target: str) -> None:
    """Make `link` a symbolic link to `target` in one atomic step."""
    with _temporary(link.parent) as temporary:
        temporary.symlink_to(target)
        temporary.replace(link)
    sync_folder(link.parent)


def write_new(path: Path, content: bytes) -> None:
    """Create a file that must not exist, and wait until the disk has it."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        left = memoryview(content)
        while left:
            left = left[os.write(file, left) :]
        os.fsync(file)
    finally:
        os.close(file)


def sync_folder(folder: Path) -> None:
    """Wait until the disk has the folder's entries."""
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


# --- writing ---


def _write(temporary: Path, checkpoint: Checkpoint, sequence: int) -> dict[str, tuple[int, str]]:
    """Write all files, the manifest last; returns the size and digest of each but that."""
    temporary.mkdir(mode=0o700)
    files: dict[str, tuple[int, str]] = {}

    def add(name: str, content: bytes) -> None:
        write_new(temporary / name, content)
        files[name] = (len(content), hashlib.sha256(content).hexdigest())

    entries = []
    for learner in checkpoint.learners:
        entry = {
            "rank": learner.rank,
            "counters": learner.counters,
            "optimizer": sorted(learner.optimizer),
            "generator_bytes": learner.generator.size,
        }
        add(_learner_file(learner.rank), _format_learner(learner, checkpoint.identity, entry))
        entries.append(entry)
    state = {
        "identity": checkpoint.identity.to_dict(),
        "config": checkpoint.config,
        "progress": checkpoint.progress,
        "learners": entries,
    }
    add(STATE, _encode(state))
    body = {"format": FORMAT, "version": VERSION, "sequence": sequence, "files": files}
    digest = hashlib.sha256(_encode(body)).hexdigest()
    write_new(temporary / MANIFEST, _encode(body | {"digest": digest}))
    sync_folder(temporary)
    return files


def _format_learner(learner: LearnerState, identity: Identity, entry: dict[str, Any]) -> bytes:
    tensors: dict[str, npt.NDArray[Any]] = {"generator": learner.generator}
    tensors |= {f"parameters.{name}": value for name, value in learner.parameters.items()}
    tensors |= {f"optimizer.{name}": value for name, value in learner.optimizer.items()}
    _check_tensors(tensors, f"learner {learner.rank}", _tensor_specs(identity, entry))
    return format_tensors({name: np.ascontiguousarray(value) for name, value in tensors.items()})


def _settle(temporary: Path, target: Path, files: dict[str, tuple[int, str]]) -> Path:
    """Give a finished checkpoint its first free name, unless it already stands there."""
    for suffix in itertools.count():
        named = target.with_name(f"{target.name}-{suffix}") if suffix else target
        if not os.path.lexists(named):
            temporary.rename(named)
            return named
        with contextlib.suppress(CheckpointError):
            load(named, learners=())
            with _opened(named) as folder:
                if _read_manifest(folder)[1] == files:
                    return named
    raise AssertionError("unreachable")


@contextlib.contextmanager
def _temporary(folder: Path) -> Iterator[Path]:
    """Yield a name in `folder` that no reader looks at; whatever is there at the end is removed."""
    path = folder / f".tmp-{os.getpid()}-{os.urandom(4).hex()}"
    _ours.add(path.name)
    try:
        yield path
    finally:
        _remove(path)
        _ours.discard(path.name)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def _remove_stale(folder: Path) -> None:
    """Remove the temporaries of processes that are no more."""
    for name in os.listdir(folder):
        match = _TEMPORARY.fullmatch(name)
        if match and name not in _ours and not _lives_elsewhere(int(match[1])):
            _remove(folder / name)


def _lives_elsewhere(pid: int) -> bool:
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


# --- reading ---


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    """Open a checkpoint's folder; whatever is found wrong in the block gets the path before it."""
    try:
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise CheckpointError(f"checkpoint {path}: {error.strerror}") from None
    try:
        yield folder
    except CheckpointError as error:
        raise CheckpointError(f"checkpoint {path}: {error}") from None
    except OSError as error:
        raise CheckpointError(f"checkpoint {path}: cannot be read: {error.strerror}") from None
    finally:
        os.close(folder)


@contextlib.contextmanager
def _file(folder: int, name: str) -> Iterator[tuple[BinaryIO, int]]:
    """Open a plain file of a folder, links not followed; yields it and its size in bytes."""
    try:
        # Without O_NONBLOCK a named pipe in a file's place would hold the reader for ever.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        opened = os.open(name, flags, dir_fd=folder)
    except FileNotFoundError:
        raise CheckpointError(f"{name} is missing") from None
    except OSError as error:
        raise CheckpointError(f"{name} cannot be opened: {error.strerror}") from None
    with open(opened, "rb") as file:
        status = os.fstat(opened)
        _need(stat.S_ISREG(status.st_mode), f"{name} is not a plain file")
        yield file, status.st_size


def _read_file(folder: int, name: str, size: int, digest: str) -> bytes:
    with _file(folder, name) as (file, found):
        _need(found == size, f"{name} has {found} bytes, expected {size}")
        content = file.read(size)
    _need(hashlib.sha256(content).hexdigest() == digest, f"{name} is damaged: its digest differs")
    return content


def _read_manifest(folder: int) -> tuple[int, dict[str, tuple[int, str]]]:
    """Return the sequence, and the size and SHA-256 of each file."""
    with _file(folder, MANIFEST) as (file, size):
        _need(size <= JSON_LIMIT_BYTES, f"{MANIFEST} is larger than {JSON_LIMIT_BYTES} bytes")
        document = _decode(MANIFEST, file.read(size))
    digest = document.pop("digest", None)
    good = digest == hashlib.sha256(_encode(document)).hexdigest()
    _need(good, f"{MANIFEST} is damaged: its digest differs")
    _need(document.get("format") == FORMAT, f"{MANIFEST} is not of a galamp checkpoint")
    _need(document.get("version") == VERSION, f"only format version {VERSION} can be read")
    _mapping(document, MANIFEST, ("format", "version", "sequence", "files"))
    files = {}
    for name, entry in _mapping(document["files"], f"{MANIFEST}: files").items():
        good = re.fullmatch(r"[a-z0-9._-]{1,100}", name) is not None
        good = good and isinstance(entry, list) and len(entry) == 2 and isinstance(entry[1], str)
        _need(good, f"{MANIFEST}: unexpected entry of a file")
        files[name] = (_count(entry[0], f"{MANIFEST}: size of {name}"), entry[1])
    return _count(document["sequence"], f"{MANIFEST}: sequence"), files


def _read_state(
    folder: int, files: dict[str, tuple[int, str]]
) -> tuple[Checkpoint, dict[int, dict[str, Any]]]:
    """Return the checkpoint without its learners, and what each learner's file must hold."""
    size, digest = files.get(STATE, (0, ""))
    _need(size <= JSON_LIMIT_BYTES, f"{STATE} is larger than {JSON_LIMIT_BYTES} bytes")
    state = _decode(STATE, _read_file(folder, STATE, size, digest))
    _mapping(state, STATE, ("identity", "config", "progress", "learners"))
    identity = Identity.from_dict(state["identity"])
    config = _mapping(state["config"], "config")
    progress = _mapping(state["progress"], "progress")
    _count(progress.get("agent_steps"), "progress: agent_steps")
    listed = state["learners"]
    good = isinstance(listed, list) and 1 <= len(listed) <= LEARNER_LIMIT
    _need(good, f"{STATE}: expected 1 to {LEARNER_LIMIT} learners")
    entries = {entry["rank"]: entry for entry in map(_entry, listed)}
    expected = {STATE, *map(_learner_file, entries)}
    good = len(entries) == len(listed) and set(files) == expected
    _need(good, f"{MANIFEST} and {STATE} name different files")
    for rank, entry in entries.items():
        _check_size(files[_learner_file(rank)][0], rank, _tensor_specs(identity, entry))
    return Checkpoint(identity, config, progress, ()), entries


def _entry(value: object) -> dict[str, Any]:
    """Check what the state says of one learner."""
    entry = _mapping(value, "learner", ("rank", "counters", "optimizer", "generator_bytes"))
    _need(_count(entry["rank"], "rank") < LEARNER_LIMIT, "rank is too large")
    for count in _mapping(entry["counters"], "counters").values():
        _need(type(count) is int and abs(count) < COUNT_LIMIT, "a counter is no whole number")
    names = entry["optimizer"]
    good = isinstance(names, list) and all(map(_is_tensor_name, names))
    _need(good and len(set(names)) == len(names) <= 8, "unexpected optimizer state")
    size = _count(entry["generator_bytes"], "generator_bytes")
    _need(1 <= size <= GENERATOR_LIMIT_BYTES, "generator_bytes is out of range")
    return entry


TensorSpecs = dict[str, tuple[str, tuple[int, ...]]]
"""Data type and shape by name."""


def _tensor_specs(identity: Identity, entry: dict[str, Any]) -> TensorSpecs:
    flat = (identity.num_parameters,)
    specs: TensorSpecs = {"generator": ("uint8", (entry["generator_bytes"],))}
    specs |= {f"parameters.{name}": ("float32", shape) for name, shape in identity.layout}
    specs |= {f"optimizer.{name}": ("float32", flat) for name in entry["optimizer"]}
    return specs


def _check_size(size: int, rank: int, specs: TensorSpecs) -> None:
    """Compare a file's size with its tensors, before memory is taken for it."""
    least = 8 + sum(np.dtype(kind).itemsize * math.prod(shape) for kind, shape in specs.values())
    good = least < size <= min(least + HEADER_LIMIT_BYTES, LEARNER_LIMIT_BYTES)
    _need(good, f"{_learner_file(rank)} has {size} bytes, its tensors need {least}")


def _parse_learner(
    content: bytes, file: str, identity: Identity, entry: dict[str, Any]
) -> LearnerState:
    header_bytes = int.from_bytes(content[:8], "little")
    _need(header_bytes <= HEADER_LIMIT_BYTES, f"{file}: its header is too large")
    try:
        tensors = parse_tensors(content)
    except (SafetensorError, ValueError, KeyError) as error:
        raise CheckpointError(f"{file}: {str(error)[:200]!r}") from None
    specs = _tensor_specs(identity, entry)
    _check_tensors(tensors, file, specs)
    # Copied, since the parser's arrays are read-only.
    parameters = {name: tensors[f"parameters.{name}"].copy() for name, _ in identity.layout}
    optimizer = {name: tensors[f"optimizer.{name}"].copy() for name in entry["optimizer"]}
    generator = tensors["generator"].copy()
    return LearnerState(entry["rank"], parameters, optimizer, entry["counters"], generator)


def _check_tensors(tensors: dict[str, npt.NDArray[Any]], file: str, specs: TensorSpecs) -> None:
    for name in sorted({*specs, *tensors}):
        found = (tensors[name].dtype.name, tensors[name].shape) if name in tensors else "nothing"
        expected = specs.get(name, "nothing")
        _need(found == expected, f"{file}: {name[:200]!r} is {found}, expected {expected}")


def _listed(folder: Path) -> list[tuple[int | None, Path]]:
    """Return (sequence, path) of all in the folder, oldest first, unreadable ones at the end."""
    found: list[tuple[int | None, Path]] = []
    for path in sorted(p for p in folder.iterdir() if _FOLDER.fullmatch(p.name)):
        try:
            with _opened(path) as opened:
                found.append((_read_manifest(opened)[0], path))
        except CheckpointError:
            found.append((None, path))
    return sorted(found, key=lambda item: math.inf if item[0] is None else item[0])


def _last_sequence(folder: Path) -> int:
    return max((sequence for sequence, _ in _listed(folder) if sequence is not None), default=0)


def _learner_file(rank: int) -> str:
    return f"learner-{rank}.safetensors"


# --- the strict form of JSON ---


def _encode(document: object) -> bytes:
    text = json.dumps(document, allow_nan=False, sort_keys=True, indent=1)
    content = text.encode() + b"\n"
    _need(len(content) <= JSON_LIMIT_BYTES, f"more than {JSON_LIMIT_BYTES} bytes of JSON")
    return content


def _decode(name: str, content: bytes) -> dict[str, Any]:
    """Parse what `_encode` wrote; one changed byte, blanks included, is noticed."""
    try:
        document = json.loads(content)
        good = isinstance(document, dict) and _encode(document) == content
    except (ValueError, RecursionError):
        good = False
    _need(good, f"{name} is damaged, or was not written by galamp")
    found: dict[str, Any] = document
    return found


def _need(condition: bool, wrong: str) -> None:
    if not condition:
        raise CheckpointError(wrong)


def _mapping(value: object, what: str, keys: Collection[str] | None = None) -> dict[str, Any]:
    good = isinstance(value, dict) and (keys is None or set(value) == set(keys))
    _need(good, f"{what}: expected an object" + (f" of {', '.join(keys)}" if keys else ""))
    assert isinstance(value, dict)
    return dict(value)


def _count(value: object, what: str) -> int:
    _need(type(value) is int and 0 <= value < COUNT_LIMIT, f"{what} is not a count")
    assert isinstance(value, int)
    return value


def _shape(value: object, what: str) -> tuple[int, ...]:
    good = isinstance(value, list | tuple) and len(value) <= 8
    _need(good, f"{what} is not a shape")
    assert isinstance(value, list | tuple)
    _need(all(_count(size, what) > 0 for size in value), f"{what} is not a shape")
    return tuple(value)


def _is_tensor_name(value: object) -> bool:
    return isinstance(value, str) and _TENSOR.fullmatch(value) is not None


def _layout(value: object) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Check the names and shapes of all parameters."""
    _need(isinstance(value, list | tuple), "layout: expected a list")
    assert isinstance(value, list | tuple)
    good = all(isinstance(item, list | tuple) and len(item) == 2 for item in value)
    _need(good and 1 <= len(value) <= 10_000, "layout: expected names and shapes")
    _need(all(_is_tensor_name(name) for name, _ in value), "layout: unexpected name")
    names = [name for name, _ in value]
    _need(len(set(names)) == len(names), "layout: a name stands twice")
    return tuple((name, _shape(shape, f"layout: {name}")) for name, shape in value)
