"""Checkpoints: written completely or not at all, every byte under a digest, no executable content.

Runs in the supervisor, which saves and resumes, and in evaluation, which only loads.

    LearnerState x L --save--> temporary_name --fsync, read back, rename--> ckpt-<steps>/
    ckpt-<steps>/ --digests, identity, sizes, shapes--> load --> Checkpoint

    CHECKPOINTS/ckpt-<steps>/            one moment of the run; its files: checkpoint_format
    CHECKPOINTS/latest, CHECKPOINTS/best links to two of them, moved by `point`; see storage.links
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import math
import os
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from galamp.core.disk import remove_stale, sync_folder, temporary_name, write_new
from galamp.core.errors import CheckpointError, GalampError
from galamp.core.failpoints import hit
from galamp.core.machine.memory import available_bytes
from galamp.storage.canonical_json import need, need_count
from galamp.storage.checkpoint_format import (
    MANIFEST,
    SEQUENCE_LIMIT,
    Files,
    format_files,
    format_manifest,
    read_file,
    read_manifest,
    read_state,
    verify_file,
)
from galamp.storage.checkpoint_state import Checkpoint, LearnerState, MeanState
from galamp.storage.checkpoint_tensors import MEAN_FILE, learner_file, parse_learner, parse_mean
from galamp.storage.identity import Identity
from galamp.storage.links import BEST, LATEST, follow, replace_link

__all__ = [
    "FLOAT_BYTES",
    "MANIFEST",
    "Checkpoint",
    "CheckpointNotWritten",
    "Found",
    "Identity",
    "LearnerState",
    "MeanState",
    "find",
    "has_any",
    "linked",
    "load",
    "place_of",
    "point",
    "prunable",
    "prune",
    "read_identity",
    "save",
    "too_large",
]

FLOAT_BYTES = 4
"""Bytes of one parameter."""
TENSOR_BYTES = 400
"""Overhead of a tensor besides its content: most of a tiny one."""

_FOLDER = re.compile(r"ckpt-(\d{12,18})(?:-(\d{1,6}))?")


class CheckpointNotWritten(GalampError):
    """A checkpoint could not be saved; earlier ones are untouched, and a retry is safe."""


class Found(NamedTuple):
    """The chosen checkpoint, and one line for each damaged one that was skipped.

    `place` is the folder that was named, with links in its path resolved.
    """

    path: Path
    skipped: tuple[str, ...]
    place: Path


def save(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint into `folder`; returns its own folder once it would survive a power loss.

    A checkpoint of the same agent steps is never overwritten: if the content is the same, the
    existing one is returned, otherwise the new one gets the suffix `-1`, `-2`, ... `folder` is
    created if missing, its parent is not: a removed run folder is not restored.

    Raises:
        CheckpointNotWritten: the disk failed, or the content breaks the format.
    """
    try:
        steps = need_count(checkpoint.progress.get("agent_steps"), "progress: agent_steps")
        folder.mkdir(mode=0o700, exist_ok=True)
        remove_stale(folder)
        with temporary_name(folder) as temporary:
            files = _write(temporary, checkpoint, _next_sequence(folder))
            load(temporary, learners=())
            hit("checkpoint.verified")
            target = _settle(temporary, folder / f"ckpt-{steps:012d}", files)
        hit("checkpoint.renamed")
        sync_folder(folder)
        sync_folder(folder.parent)
        hit("checkpoint.saved")
    except (OSError, CheckpointError, ValueError, TypeError, RecursionError) as error:
        why = (isinstance(error, OSError) and error.strerror) or error
        raise CheckpointNotWritten(f"no checkpoint written in {folder}: {why}") from error
    return target


def load(
    path: Path,
    *,
    expected: Identity | None = None,
    learners: Sequence[int] | None = None,
    mean: bool = False,
) -> Checkpoint:
    """Read one checkpoint's folder, every byte of it verified.

    Args:
        path: the checkpoint's folder, or a link to it, which on some disks is a file.
        expected: the identity that it must have; compared before any tensor is read.
        learners: ranks whose tensors are returned (default: all); the others are only verified.
        mean: whether the mean over all nodes is returned, if there is one; else only verified.

    Raises:
        CheckpointError: one line naming the file and its error.
    """
    with _opened(follow(path)) as folder:
        _, files = read_manifest(folder)
        checkpoint, entries = read_state(folder, files)
        other = checkpoint.identity.difference(expected) if expected else None
        need(other is None, f"it {other}")
        missing = sorted(set(learners or ()) - set(entries))
        need(not missing, f"it has no learner {missing[:3]}, but 0 to {len(entries) - 1}")
        wanted = entries if learners is None else learners
        tensors = len(checkpoint.identity.layout)
        takes_mean = mean and checkpoint.mean is not None
        read = [learner_file(rank) for rank in entries if rank in wanted] + [MEAN_FILE] * takes_mean
        what = f"{len(read) - takes_mean} learners{' and the mean of all machines' * takes_mean}"
        _need_memory([files[file][0] for file in read], tensors, what)
        states = []
        for rank, entry in entries.items():
            file = learner_file(rank)
            if rank in wanted:
                content = read_file(folder, file, *files[file])
                states.append(parse_learner(content, file, checkpoint.identity, entry))
            else:
                verify_file(folder, file, *files[file])
        whole = None
        if checkpoint.mean is not None and takes_mean:
            content = read_file(folder, MEAN_FILE, *files[MEAN_FILE])
            whole = parse_mean(content, checkpoint.identity, checkpoint.mean)
        elif checkpoint.mean is not None:
            verify_file(folder, MEAN_FILE, *files[MEAN_FILE])
    return dataclasses.replace(checkpoint, learners=tuple(states), mean=whole)


def read_identity(path: Path) -> Identity:
    """Return a checkpoint's identity, without reading its tensors.

    Raises:
        CheckpointError: the manifest or the state is damaged.
    """
    with _opened(follow(path)) as folder:
        return read_state(folder, read_manifest(folder)[1])[0].identity


def find(path: Path) -> Found:
    """Return the newest whole checkpoint of a run folder or its `checkpoints`, or the one named.

    Newest is the one saved last; after a resume from an older one, that is not the one of most
    steps.

    Raises:
        CheckpointError: no such path, no checkpoint there, or none is whole.
    """
    place = place_of(path)
    wanted = "expected a run folder or a checkpoint"
    if not os.path.isdir(place):
        what = "a file" if os.path.exists(place) else "no such path"
        raise CheckpointError(f"{path}: {what}; {wanted}")
    if _FOLDER.fullmatch(place.name) or os.path.lexists(place / MANIFEST):
        load(place, learners=())
        return Found(place, (), place)
    inner = place / "checkpoints"
    skipped = []
    try:
        candidates = _listed(inner if os.path.isdir(inner) else place)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be listed: {error.strerror}") from None
    for _, candidate in reversed(candidates):
        try:
            load(candidate, learners=())
        except CheckpointError as error:
            skipped.append(str(error))
        else:
            return Found(candidate, tuple(skipped), place)
    if skipped:
        raise CheckpointError(f"{path}: {len(skipped)} checkpoints, none whole; {skipped[0]}")
    raise CheckpointError(f"{path}: holds no checkpoint; {wanted}")


def has_any(folder: Path) -> bool:
    """Return whether a folder, which may be missing, has a checkpoint, by its name alone.

    Raises:
        OSError: the folder cannot be listed.
    """
    try:
        return any(_FOLDER.fullmatch(name) for name in os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return False


def place_of(path: Path) -> Path:
    """Return the folder that a path means, with links in it resolved.

    Raises:
        CheckpointError: it is `best` or `latest` of a run, and leads to another run's checkpoint.
    """
    place = Path(os.path.realpath(follow(path)))
    if path.name in (BEST, LATEST) and os.path.lexists(place / MANIFEST):
        beside = linked(path.parent, path.name)
        if beside is None and os.path.islink(path):
            raise CheckpointError(
                f"{path}: leads to {place}, expected a checkpoint beside it; name that one itself"
            )
    return place


def linked(folder: Path, name: str) -> Path | None:
    """Return the checkpoint in `folder` that its link `name` leads to; None if it leads elsewhere.

    Run folders, with their links, may come from an untrusted source.
    """
    found = Path(os.path.realpath(follow(folder / name)))
    inside = found.parent == Path(os.path.realpath(folder))
    return found if inside and _FOLDER.fullmatch(found.name) and found.is_dir() else None


def prunable(folder: Path, keep: int, protect: Collection[Path] = ()) -> list[Path]:
    """Return all but the `keep` newest checkpoints, `protect`, and the targets of the links.

    Checkpoints with an unreadable manifest are not among them: they are for the user to check.

    Raises:
        OSError: the folder cannot be listed.
    """
    links = (linked(folder, LATEST), linked(folder, BEST))
    spared = {os.path.realpath(p) for p in (*protect, *links) if p is not None}
    known = [path for sequence, path in _listed(folder) if sequence is not None]
    return [path for path in known[: -max(1, keep)] if os.path.realpath(path) not in spared]


def prune(folder: Path, keep: int, protect: Collection[Path] = ()) -> None:
    """Remove the `prunable` checkpoints.

    If the disk refuses to remove one, the next call tries again.
    """
    with contextlib.suppress(OSError):
        for path in prunable(folder, keep, protect):
            # A folder half removed at a power failure must not look like a checkpoint.
            with temporary_name(folder) as grave:
                path.rename(grave)
                sync_folder(folder)


def point(folder: Path, name: Literal["latest", "best"], target: Path) -> None:
    """Point the link `folder/name` to a checkpoint of the folder, atomically.

    On a disk without links it is a file with the checkpoint's name.

    Raises:
        CheckpointNotWritten: the disk failed; the link is unchanged.
    """
    try:
        replace_link(folder / name, target.name)
        hit("checkpoint.pointed")
    except OSError as error:
        raise CheckpointNotWritten(f"{folder / name} not moved: {error.strerror}") from error


def _write(folder: Path, checkpoint: Checkpoint, sequence: int) -> Files:
    """Write all files, the manifest last; returns size and digest of each other file."""
    folder.mkdir(mode=0o700)
    files: Files = {}
    for name, content in format_files(checkpoint):
        write_new(folder / name, content)
        files[name] = (len(content), hashlib.sha256(content).hexdigest())
        hit("checkpoint.file")
    hit("checkpoint.files")
    write_new(folder / MANIFEST, format_manifest(sequence, files))
    hit("checkpoint.manifest")
    sync_folder(folder)
    return files


def _settle(temporary: Path, target: Path, files: Files) -> Path:
    """Rename a finished checkpoint to its first free name, unless it exists already."""
    for suffix in itertools.count():
        named = target.with_name(f"{target.name}-{suffix}") if suffix else target
        if not os.path.lexists(named):
            temporary.rename(named)
            return named
        with contextlib.suppress(CheckpointError):
            load(named, learners=())
            with _opened(named) as folder:
                if read_manifest(folder)[1] == files:
                    return named
    raise AssertionError("unreachable")


def too_large(needed: int) -> str | None:
    """Return why `needed` bytes exceed the free memory; None if they fit."""
    free = available_bytes()
    if needed <= free:
        return None
    return f"{needed / 2**20:,.0f} MiB of memory, {free / 2**20:,.0f} MiB are free"


def _need_memory(sizes: Sequence[int], tensors: int, what: str) -> None:
    """Refuse files, of these sizes in bytes, that do not all fit into memory.

    `what` names their content.

    Parsing a file takes twice its size more, and each of its `tensors` some bytes. Nothing is read
    before: a sparse file takes no disk space from its sender.
    """
    if not sizes:
        return
    taken = [size + TENSOR_BYTES * tensors for size in sizes]
    large = too_large(sum(taken) + 2 * max(taken))
    need(large is None, f"its {what} take {large}")


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    """Open a checkpoint's folder; errors in the block get the path as a prefix."""
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


def _listed(folder: Path) -> list[tuple[int | None, Path]]:
    """Return (sequence, path) of all checkpoints in the folder, oldest first, unreadable last."""
    found: list[tuple[int | None, Path]] = []
    for path in sorted(p for p in folder.iterdir() if _FOLDER.fullmatch(p.name)):
        try:
            with _opened(path) as opened:
                found.append((read_manifest(opened)[0], path))
        except CheckpointError:
            found.append((None, path))
    return sorted(found, key=lambda item: math.inf if item[0] is None else item[0])


def _next_sequence(folder: Path) -> int:
    """Return a number above all others; at the limit, which no run reaches, the limit again."""
    known = (sequence for sequence, _ in _listed(folder) if sequence is not None)
    return min(1 + max(known, default=0), SEQUENCE_LIMIT - 1)
