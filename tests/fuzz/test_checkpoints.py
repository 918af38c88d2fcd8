"""Bent checkpoints: the same content or one line, whoever wrote the digests."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from galamp.core.errors import CheckpointError
from galamp.storage import checkpoint as ck
from galamp.storage.canonical_json import encode
from galamp.storage.checkpoint import MeanState
from galamp.storage.identity import Identity
from galamp.tools.evaluation.trained import read
from tests.fuzz.bending import EDITS, bent_json, edited, examples, told_in_one_line
from tests.support.checkpoints import learner as learner_state
from tests.support.checkpoints import made, reseal, same

CONFIG = {"seed": 1, "environment": {"env_id": "ALE/Pong-v5"}}
LEARNERS = ("learner-0.safetensors", "learner-1.safetensors")
FILES = (*LEARNERS, "mean.safetensors", "state.json", "MANIFEST.json")
OLDER, NEWER = (
    dataclasses.replace(
        made(steps, seed=seed),
        config=CONFIG,
        mean=MeanState(learner_state(7, seed).parameters, 4),
    )
    for steps, seed in ((100, 1), (200, 2))
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two checkpoints, of which tests bend the newer one."""
    folder = tmp_path_factory.mktemp("fuzz") / "checkpoints"
    ck.save(folder, OLDER)
    ck.save(folder, NEWER)
    return folder


def restored(folder: Path) -> Path:
    """Put the newer checkpoint back and return it."""
    older, newer = (folder / f"ckpt-{steps:012d}" for steps in (100, 200))
    keep = folder.parent / "keep"
    if not keep.exists():
        shutil.copytree(newer, keep)
    for entry in folder.iterdir():
        if entry != older:
            shutil.rmtree(entry)
    shutil.copytree(keep, newer)
    return newer


def same_or_told(path: Path) -> None:
    try:
        loaded = ck.load(path, mean=True)
    except CheckpointError as error:
        told_in_one_line(error)
    else:
        assert same(loaded, NEWER)


FILE = st.sampled_from(FILES)


@pytest.mark.real
@examples(60, 2500)
def test_bytes(thorough: Any, folder: Path) -> None:
    @thorough
    @given(FILE, EDITS)
    def bent(name: str, edits: list[tuple[str, float, int, bytes]]) -> None:
        file = restored(folder) / name
        file.write_bytes(edited(file.read_bytes(), edits))
        same_or_told(file.parent)

    bent()


@examples(40, 128)  # all there are
def test_files(thorough: Any, folder: Path) -> None:
    """Files swapped, taken from another checkpoint, removed, or other than files."""
    kinds = st.sampled_from(["swap", "other", "remove", "link", "pipe", "folder", "more", "twin"])

    @thorough
    @given(kinds, FILE, FILE)
    def bent(kind: str, name: str, second: str) -> None:
        path = restored(folder)
        change(path, kind, name, second)
        same_or_told(path)
        found = ck.find(folder)
        assert same(ck.load(found.path, mean=True), NEWER) or found.path.name.endswith("100")

    bent()


def change(path: Path, kind: str, name: str, second: str) -> None:
    file = path / name
    match kind:
        case "swap":
            content = file.read_bytes()
            file.write_bytes((path / second).read_bytes())
            (path / second).write_bytes(content)
        case "other":
            shutil.copy(path.with_name("ckpt-000000000100") / name, file)
        case "remove":
            file.unlink()
        case "link":
            shutil.move(file, path.parent.parent / "aside")
            file.symlink_to(path.parent.parent / "aside")
        case "pipe":
            file.unlink()
            os.mkfifo(file)
        case "folder":
            file.unlink()
            file.mkdir()
        case "more":
            (path / "learner-2.safetensors").write_bytes(b"x")
        case "twin":
            shutil.copytree(path, path.with_name("ckpt-000000000201"))


STATE = json.loads(
    json.dumps(
        {
            "identity": NEWER.identity.to_dict(),
            "config": NEWER.config,
            "progress": NEWER.progress,
            "learners": [
                {
                    "rank": learner.rank,
                    "counters": learner.counters,
                    "optimizer": sorted(learner.optimizer),
                    "generator_bytes": learner.generator.size,
                }
                for learner in NEWER.learners
            ],
            "mean": {"learners": 4},
        }
    )
)


@pytest.mark.real
@examples(50, 2500)
def test_states_with_right_digests(thorough: Any, folder: Path) -> None:
    @thorough
    @given(bent_json(STATE))
    @example(STATE | {"config": {"environment": {"env_id": "\x1b[2J"}}})
    @example(STATE | {"config": {"environment": {"env_id": "9" * 5000}}})
    def bent(state: Any) -> None:
        path = restored(folder)
        try:
            content = encode(state)
        except (ValueError, CheckpointError):
            content = json.dumps(state).encode()
        (path / "state.json").write_bytes(content)
        reseal(path)
        try:
            trained = read(path)
        except CheckpointError as error:
            told_in_one_line(error)
        else:
            checkpoint = trained.checkpoint
            assert Identity.from_dict(checkpoint.identity.to_dict()) == checkpoint.identity
            assert trained.environment.env_id == checkpoint.identity.env_id
            assert len(trained.parameters("mean")) == len(checkpoint.identity.layout)

    bent()


def header_of(content: bytes) -> tuple[dict[str, Any], bytes]:
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


DTYPES = ["F32", "F16", "BF16", "F64", "I8", "U8", "BOOL", "F8_E4M3", "F4", "C64", "X", ""]
SIZES = st.integers(-1, 20) | st.sampled_from([2**31, 2**62, 2**63 - 1, 2**63, 2**64 - 1, 2**64])
ENTRY = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(DTYPES),
        "shape": st.lists(SIZES, max_size=4) | st.just([1] * 100),
        "data_offsets": st.lists(SIZES, min_size=2, max_size=2),
    }
)


@pytest.mark.real
@examples(100, 2500)
def test_headers_with_right_digests(thorough: Any, folder: Path) -> None:
    """Types, shapes and offsets as no writer would make them, in a file of the right size."""
    file = restored(folder) / LEARNERS[0]
    header, data = header_of(file.read_bytes())
    entries = st.dictionaries(st.sampled_from(sorted(header)), ENTRY, min_size=1, max_size=3)
    headers = bent_json(header) | entries.map(lambda changed: header | changed)
    lengths = st.none() | st.sampled_from([0, 1, 2**20, 2**32, 2**63, 2**64 - 1])

    @thorough
    @given(headers, lengths)
    def bent(changed: Any, claimed: int | None) -> None:
        file = restored(folder) / LEARNERS[0]
        text = json.dumps(changed).encode()
        length = len(text) if claimed is None else claimed
        file.write_bytes(length.to_bytes(8, "little") + text + data)
        reseal(file.parent)
        try:
            loaded = ck.load(file.parent)
        except CheckpointError as error:
            told_in_one_line(error)
        else:
            for name, shape in loaded.identity.layout:
                value = loaded.learners[0].parameters[name]
                assert (value.dtype, value.shape) == (np.float32, shape)

    bent()
