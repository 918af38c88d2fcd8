"""Format of a checkpoint's files; sizes are checked before memory is allocated.

    Checkpoint --format_files, format_manifest--> name, bytes of each file
    open folder --read_manifest, read_state--> Checkpoint without learners, and an entry of each
                --read_file--> bytes of a file of tensors, for `checkpoint_tensors`

    *.safetensors                of each learner, and of the mean over all nodes
    state.json                   identity, config, progress, and what each learner's file must hold
    MANIFEST.json                written last: size and SHA-256 of each file, its own digest, and
                                 the sequence: number of the save in this folder

Runs in the supervisor and in evaluation. Errors are raised as a `CheckpointError` without a path.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from io import BufferedReader
from typing import Annotated, Any

from galamp.core.decode import Range
from galamp.core.disk import open_unfollowed
from galamp.core.errors import CheckpointError
from galamp.storage.canonical_json import (
    JSON_LIMIT_BYTES,
    encode,
    need,
    need_count,
    need_decoded,
    parse,
)
from galamp.storage.checkpoint_state import Checkpoint, MeanState
from galamp.storage.checkpoint_tensors import (
    LEARNER_LIMIT,
    MEAN_FILE,
    LearnerEntry,
    MeanEntry,
    check_learner,
    check_mean,
    entry_of,
    format_learner,
    format_mean,
    learner_file,
)
from galamp.storage.identity import Identity

MANIFEST = "MANIFEST.json"
STATE = "state.json"
FORMAT = "galamp checkpoint"
VERSION = 1

SEQUENCE_LIMIT = 2**53
"""No run saves this often; a larger number in a file would leave no higher one for the next save.
"""

Files = dict[str, tuple[int, str]]
"""Size in bytes and SHA-256 by name."""


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
        entry = entry_of(learner, checkpoint.identity)
        yield learner_file(learner.rank), format_learner(learner, checkpoint.identity, entry)
        entries.append({name: each for name, each in asdict(entry).items() if each is not None})
    state = {
        "identity": checkpoint.identity.to_dict(),
        "config": checkpoint.config,
        "progress": checkpoint.progress,
        "learners": entries,
    }
    if checkpoint.mean is not None:
        yield MEAN_FILE, format_mean(checkpoint.mean, checkpoint.identity)
        state["mean"] = asdict(MeanEntry(checkpoint.mean.learners))
    yield STATE, encode(state)


def format_manifest(sequence: int, files: Files) -> bytes:
    """Return the manifest's content."""
    body = {"format": FORMAT, "version": VERSION, "sequence": sequence, "files": files}
    digest = hashlib.sha256(encode(body)).hexdigest()
    return encode(body | {"digest": digest})


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
        file = learner_file(rank)
        check_learner(entry, file, files[file][0], identity)
    mean = None
    if state.mean is not None:
        check_mean(files[MEAN_FILE][0], identity)
        mean = MeanState({}, state.mean.learners)
    return Checkpoint(identity, state.config, state.progress, (), mean), entries


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
