from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from galamp.core.errors import CheckpointError
from galamp.storage import checkpoint as ck
from galamp.storage.canonical_json import encode
from galamp.storage.checkpoint import Checkpoint, LearnerState
from galamp.storage.checkpoint_tensors import LEARNERS_OF_ALL_NODES_LIMIT
from tests.support.checkpoints import PONG, made, made_of_all_nodes, reseal, same
from tests.support.engine import also


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint for tests that put back what they change."""
    return ck.save(tmp_path_factory.mktemp("shared"), made_of_all_nodes())


@pytest.mark.parametrize("content", [made, also(made_of_all_nodes)])
def test_every_flipped_bit_is_noticed(content: Callable[[], Checkpoint], tmp_path: Path) -> None:
    path = ck.save(tmp_path, content())
    for file in sorted(path.iterdir()):
        whole = file.read_bytes()
        for at in range(0, len(whole), max(1, len(whole) // 60)):
            for bit in (0, 5):
                damaged = bytearray(whole)
                damaged[at] ^= 1 << bit
                file.write_bytes(damaged)
                with pytest.raises(CheckpointError, match=r"damaged|expected"):
                    ck.load(path)
        file.write_bytes(whole)
    assert same(ck.load(path, mean=True), content())


@pytest.mark.parametrize("content", [made, also(made_of_all_nodes)])
def test_every_truncation_is_noticed(content: Callable[[], Checkpoint], tmp_path: Path) -> None:
    path = ck.save(tmp_path, content())
    for file in sorted(path.iterdir()):
        whole = file.read_bytes()
        for length in {*range(0, len(whole), max(1, len(whole) // 25)), len(whole) - 1}:
            file.write_bytes(whole[:length])
            with pytest.raises(CheckpointError, match=file.name):
                ck.load(path)
        file.write_bytes(whole + b"\n")
        with pytest.raises(CheckpointError, match=file.name):
            ck.load(path)
        file.unlink()
        with pytest.raises(CheckpointError, match=f"{file.name} is missing"):
            ck.load(path)
        file.write_bytes(whole)


def test_swapped_files_are_noticed(tmp_path: Path) -> None:
    path = ck.save(tmp_path, made())
    zero, one = path / "learner-0.safetensors", path / "learner-1.safetensors"
    zero.rename(path / "aside")
    one.rename(zero)
    (path / "aside").rename(one)
    with pytest.raises(CheckpointError, match=r"learner-0\.safetensors"):
        ck.load(path)


@pytest.mark.parametrize(
    "target", ["learner-0.safetensors", "mean.safetensors", "state.json", "MANIFEST.json"]
)
def test_links_and_pipes_are_not_followed(tmp_path: Path, target: str) -> None:
    path = ck.save(tmp_path / "c", made_of_all_nodes())
    (path / target).rename(tmp_path / "outside")
    (path / target).symlink_to(tmp_path / "outside")
    with pytest.raises(CheckpointError, match=f"{target} cannot be opened"):
        ck.load(path)
    (path / target).unlink()
    os.mkfifo(path / target)
    with pytest.raises(CheckpointError, match=f"{target} is not a plain file"):
        ck.load(path)


def change_state(path: Path, *keys: str | int, value: object) -> None:
    state = json.loads((path / "state.json").read_bytes())
    place = state
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    (path / "state.json").write_bytes(encode(state))
    reseal(path)


HOSTILE: list[tuple[tuple[str | int, ...], object]] = [
    (("identity", "env_id"), "Pong\x1b[2J"),
    (("identity", "layout"), [["w", [2**62, 2**62]]]),
    (("identity", "layout"), [["w", [2**20]]]),
    (("identity", "layout"), [["../w", [10]]]),
    (("identity", "layout"), [["w", [5]], ["w", [5]]]),
    (("identity", "layout", 0, 1), [2, 3]),
    (("identity", "num_actions"), True),
    (("identity", "more"), 1),
    (("learners", 0, "rank"), "../../x"),
    (("learners", 0, "rank"), 1),
    (("learners", 0, "generator_bytes"), 2**40),
    (("learners", 0, "generator_bytes"), 15),
    (("learners", 0, "counters"), {"updates": 1.5}),
    (("learners", 0, "optimizer"), []),
    (("learners",), []),
    (("progress",), {}),
    (("config",), []),
]


@pytest.mark.parametrize(("keys", "value"), HOSTILE)
def test_a_hostile_state_is_refused(
    tmp_path: Path, keys: tuple[str | int, ...], value: object
) -> None:
    path = ck.save(tmp_path, made())
    change_state(path, "config", "more", value=1)
    ck.load(path)
    change_state(path, *keys, value=value)
    with pytest.raises(CheckpointError) as refused:
        ck.load(path)
    assert str(refused.value).isprintable()


def test_a_hostile_manifest_cannot_name_other_files(tmp_path: Path) -> None:
    path = ck.save(tmp_path / "c", made())
    shutil.copy(path / "state.json", tmp_path / "outside")
    manifest = json.loads((path / "MANIFEST.json").read_bytes())
    del manifest["digest"]
    for name in ("../../outside", "learner-9.safetensors", "/etc/passwd", "\x1b"):
        bad = manifest | {"files": manifest["files"] | {name: manifest["files"]["state.json"]}}
        digest = hashlib.sha256(encode(bad)).hexdigest()
        (path / "MANIFEST.json").write_bytes(encode(bad | {"digest": digest}))
        with pytest.raises(CheckpointError, match=r"unexpected name|different files"):
            ck.load(path)


def test_a_sparse_giant_is_refused_by_its_size(tmp_path: Path) -> None:
    path = ck.save(tmp_path, made())
    manifest = json.loads((path / "MANIFEST.json").read_bytes())
    del manifest["digest"]
    os.truncate(path / "learner-0.safetensors", 2**40)
    manifest["files"]["learner-0.safetensors"][0] = 2**40
    digest = hashlib.sha256(encode(manifest)).hexdigest()
    (path / "MANIFEST.json").write_bytes(encode(manifest | {"digest": digest}))
    with pytest.raises(CheckpointError, match="its tensors need"):
        ck.load(path)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.binary(max_size=400), st.sampled_from(["state.json", "MANIFEST.json"]), st.booleans())
def test_junk_is_refused(shared: Path, junk: bytes, name: str, sealed: bool) -> None:
    path = shared
    whole = {path / n: (path / n).read_bytes() for n in ("state.json", "MANIFEST.json")}
    (path / name).write_bytes(junk)
    if sealed and name == "state.json":
        reseal(path)
    try:
        with pytest.raises(CheckpointError) as refused:
            ck.load(path)
        assert "\n" not in str(refused.value)
    finally:
        for file, content in whole.items():
            file.write_bytes(content)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)  # fmt: skip
PLACES = [
    ("identity",), ("learners",), ("identity", "layout"), ("learners", 0), ("progress",),
    ("mean",), ("mean", "learners"),
]  # fmt: skip


@pytest.mark.real
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(JSON, st.sampled_from(PLACES))
def test_well_formed_junk_is_refused(
    shared: Path, junk: object, keys: tuple[str | int, ...]
) -> None:
    of_some = type(junk) is int and 1 <= junk <= LEARNERS_OF_ALL_NODES_LIMIT
    assume(not (keys == ("mean", "learners") and of_some))  # which no reader can know better
    path = shared
    whole = {path / n: (path / n).read_bytes() for n in ("state.json", "MANIFEST.json")}
    change_state(path, *keys, value=junk)
    try:
        with pytest.raises(CheckpointError):
            ck.load(path)
    finally:
        for file, content in whole.items():
            file.write_bytes(content)


@pytest.mark.parametrize("bomb", [b"[" * 900_000, b"9" * 900_000, b'{"a":1e999}', b"NaN"])
def test_json_bombs_are_refused(tmp_path: Path, bomb: bytes) -> None:
    path = ck.save(tmp_path, made())
    (path / "state.json").write_bytes(bomb)
    reseal(path)
    with pytest.raises(CheckpointError, match=r"state\.json is damaged"):
        ck.load(path)


LARGE = 200_000


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a checkpoint of some hundred pages."""
    layout = (("w", (LARGE,)),)
    draw = np.random.default_rng(1)
    learners = tuple(
        LearnerState(rank, {"w": draw.random(LARGE, np.float32)}, {}, {}, np.zeros(16, np.uint8))
        for rank in range(2)
    )
    identity = dataclasses.replace(PONG, layout=layout)
    content = dataclasses.replace(made(), identity=identity, learners=learners)
    path = ck.save(tmp_path_factory.mktemp("large"), content)
    return {str(file): file.read_bytes() for file in path.iterdir()}


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(["flip", "cut", "zero page", "lost tail"]), st.data())
def test_any_one_damage_is_noticed(large: dict[str, bytes], kind: str, data: st.DataObject) -> None:
    """A bit anywhere, an end anywhere, a page that reads as zeros, a tail never written."""
    name = data.draw(st.sampled_from(sorted(large)))
    whole = large[name]
    at = data.draw(st.integers(0, len(whole) - 1))
    page = at - at % 4096
    damaged = {
        "flip": lambda: whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :],
        "cut": lambda: whole[:at],
        "zero page": lambda: (whole[:page] + bytes(4096) + whole[page + 4096 :])[: len(whole)],
        "lost tail": lambda: whole[:at].ljust(len(whole), b"\0"),
    }[kind]()
    if damaged == whole:
        return
    Path(name).write_bytes(damaged)
    try:
        with pytest.raises(CheckpointError) as refused:
            ck.load(Path(name).parent)
        assert Path(name).name in str(refused.value)
    finally:
        Path(name).write_bytes(whole)


def test_a_folder_that_was_copied_counts_once(tmp_path: Path) -> None:
    """Two of one sequence, as after `cp -r`: either is whole, both are the same, none is lost."""
    older, newer = ck.save(tmp_path, made(100)), ck.save(tmp_path, made(200))
    shutil.copytree(newer, tmp_path / "ckpt-000000000300")
    assert same(ck.load(ck.find(tmp_path).path), made(200))
    last = ck.save(tmp_path, made(400))
    assert ck.find(tmp_path).path == last
    ck.prune(tmp_path, 1, [older])
    assert same(ck.load(older), made(100))
    assert sorted(os.listdir(tmp_path)) == [older.name, last.name]
