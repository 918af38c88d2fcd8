from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from galamp.core.action_spec import DiscreteActions
from galamp.core.errors import CheckpointError
from galamp.storage import checkpoint as ck
from galamp.storage.canonical_json import encode
from galamp.storage.checkpoint import Checkpoint, CheckpointNotWritten, Identity
from tests.support.checkpoints import (
    LAYOUT,
    PONG,
    ROOT,
    learner,
    made,
    made_of_all_nodes,
    reseal,
    same,
)


def leftovers(folder: Path) -> list[str]:
    return [p.name for p in folder.iterdir() if p.name.startswith(".tmp")]


def test_round_trip(tmp_path: Path) -> None:
    path = ck.save(tmp_path / "checkpoints", made())
    assert path == tmp_path / "checkpoints" / "ckpt-000000000100"
    loaded = ck.load(path, expected=PONG)
    assert same(loaded, made())
    assert loaded.learners[0].parameters["head.bias"].flags.writeable
    assert list(loaded.learners[0].parameters) == [name for name, _ in LAYOUT]
    assert ck.read_identity(path) == PONG
    assert Identity.from_dict(PONG.to_dict()) == PONG
    assert leftovers(path.parent) == []
    assert path.stat().st_mode & 0o777 == 0o700


def with_state(sizes: dict[str, int]) -> Checkpoint:
    """A checkpoint whose optimisers have states of these sizes."""
    state = {name: np.arange(size, dtype=np.float32) for name, size in sizes.items()}
    whole = made()
    learners = [dataclasses.replace(each, optimizer=state) for each in whole.learners]
    return dataclasses.replace(whole, learners=tuple(learners))


def test_optimisers_state_may_be_shorter_than_the_parameters(tmp_path: Path) -> None:
    saved = with_state({"momentum": PONG.num_parameters, "mean": 1})
    path = ck.save(tmp_path, saved)
    assert same(ck.load(path, expected=PONG), saved)
    state = json.loads((path / "state.json").read_text())
    sizes = {"mean": 1, "momentum": PONG.num_parameters}
    assert [entry["optimizer"] for entry in state["learners"]] == [sizes, sizes]
    usual = json.loads((ck.save(tmp_path / "usual", made()) / "state.json").read_text())
    assert all(isinstance(entry["optimizer"], list) for entry in usual["learners"])


@pytest.mark.parametrize("size", [0, PONG.num_parameters + 1])
def test_optimisers_state_of_no_or_too_large_size_is_not_saved(tmp_path: Path, size: int) -> None:
    with pytest.raises(CheckpointNotWritten, match="optimizer"):
        ck.save(tmp_path, with_state({"mean": size}))


def with_normaliser(*sizes: int) -> Checkpoint:
    """A checkpoint whose learners' normalisers keep so many numbers."""
    whole = made()
    numbers = [np.sqrt(np.arange(size)) for size in sizes]
    pairs = zip(whole.learners, numbers, strict=True)
    learners = tuple(dataclasses.replace(each, normaliser=kept) for each, kept in pairs)
    return dataclasses.replace(whole, learners=learners)


def test_what_a_normaliser_keeps_is_stored_to_the_bit(tmp_path: Path) -> None:
    """Old checkpoints, and those of runs without one, name no such tensor."""
    path = ck.save(tmp_path, with_normaliser(12, 5))
    loaded = ck.load(path, expected=PONG)
    assert [each.normaliser.tolist() for each in loaded.learners] == [
        np.sqrt(np.arange(size)).tolist() for size in (12, 5)
    ]
    assert same(loaded, made()), "all else is as it was"
    usual = ck.save(tmp_path / "usual", made())
    assert "normaliser" not in (usual / "state.json").read_text()
    assert [each.normaliser.size for each in ck.load(usual).learners] == [0, 0]


def test_a_normaliser_for_other_observations_is_not_saved(tmp_path: Path) -> None:
    most = 4 * 4 * 84 * 84 + 8
    ck.save(tmp_path, with_normaliser(most, 1))
    with pytest.raises(CheckpointNotWritten, match="normaliser is larger than any"):
        ck.save(tmp_path, with_normaliser(most + 1, 1))


@pytest.mark.parametrize("size", [0, -1, 2**60, "5", None, True])
def test_a_size_of_a_normaliser_that_cannot_be_is_refused(tmp_path: Path, size: object) -> None:
    path = ck.save(tmp_path, with_normaliser(5, 5))
    state = json.loads((path / "state.json").read_text())
    state["learners"][0]["normaliser"] = size
    (path / "state.json").write_bytes(encode(state))
    reseal(path)
    with pytest.raises(CheckpointError, match="normaliser"):
        ck.load(path)


def test_the_mean_of_all_nodes_is_read_with_all_learners(tmp_path: Path) -> None:
    """Where a checkpoint has one; others, as all old ones, do not name it."""
    path = ck.save(tmp_path, made_of_all_nodes())
    assert same(ck.load(path, expected=PONG, mean=True), made_of_all_nodes())
    loaded = ck.load(path, mean=True).mean
    assert loaded is not None
    assert list(loaded.parameters) == [name for name, _ in LAYOUT]
    assert ck.load(path).mean is None, "a resume has no use for it"
    usual = ck.save(tmp_path / "usual", made())
    assert "mean" not in json.loads((usual / "state.json").read_text())
    damage = path / "mean.safetensors"
    damage.write_bytes(damage.read_bytes()[:-1] + b"?")
    for wanted in (None, [0], []):
        with pytest.raises(CheckpointError, match=r"mean\.safetensors is damaged"):
            ck.load(path, learners=wanted)


@pytest.mark.parametrize("count", [0, -1, 2**60, "5", None, True, [4]])
def test_a_mean_of_a_number_of_learners_that_cannot_be_is_refused(
    tmp_path: Path, count: object
) -> None:
    path = ck.save(tmp_path, made_of_all_nodes())
    state = json.loads((path / "state.json").read_text())
    state["mean"] = {"learners": count}
    (path / "state.json").write_bytes(encode(state))
    reseal(path)
    with pytest.raises(CheckpointError, match="mean"):
        ck.load(path)


def test_a_mean_that_is_not_of_this_network_is_refused(tmp_path: Path) -> None:
    mean = made_of_all_nodes().mean
    assert mean is not None
    fewer = {name: mean.parameters[name] for name in list(mean.parameters)[1:]}
    other = dict(mean.parameters) | {LAYOUT[0][0]: np.zeros((2, 3), np.float32)}
    for parameters in (fewer, other, {}):
        wrong = dataclasses.replace(made(), mean=ck.MeanState(parameters, 4))
        with pytest.raises(CheckpointNotWritten, match=r"mean\.safetensors"):
            ck.save(tmp_path, wrong)
    path = ck.save(tmp_path, made_of_all_nodes())
    small = safetensors.numpy.save({f"parameters.{name}": v for name, v in fewer.items()})
    (path / "mean.safetensors").write_bytes(small)
    reseal(path)
    with pytest.raises(CheckpointError, match=r"mean\.safetensors"):
        ck.load(path, mean=True)


@pytest.mark.parametrize("state", [True, False])
def test_a_mean_that_one_file_names_and_the_other_does_not_is_refused(
    tmp_path: Path, state: bool
) -> None:
    path = ck.save(tmp_path, made_of_all_nodes())
    if state:
        told = json.loads((path / "state.json").read_text())
        del told["mean"]
        (path / "state.json").write_bytes(encode(told))
    else:
        manifest = json.loads((path / "MANIFEST.json").read_text())
        del manifest["files"]["mean.safetensors"]
        (path / "MANIFEST.json").write_bytes(encode(manifest))
    reseal(path)
    with pytest.raises(CheckpointError, match="name different files"):
        ck.load(path)


def test_only_the_wanted_learners_are_read(tmp_path: Path) -> None:
    path = ck.save(tmp_path, made())
    assert [s.rank for s in ck.load(path, learners=[1]).learners] == [1]
    with pytest.raises(CheckpointError, match="no learner"):
        ck.load(path, learners=[2])
    damage = path / "learner-0.safetensors"
    damage.write_bytes(damage.read_bytes()[:-1] + b"?")
    with pytest.raises(CheckpointError, match=r"learner-0\.safetensors is damaged"):
        ck.load(path, learners=[1])


def test_the_same_steps_are_never_overwritten(tmp_path: Path) -> None:
    first = ck.save(tmp_path, made())
    assert ck.save(tmp_path, made()) == first
    second = ck.save(tmp_path, made(seed=2))
    assert second.name == "ckpt-000000000100-1"
    (second / "state.json").write_bytes(b"")
    third = ck.save(tmp_path, made(seed=2))
    assert third.name == "ckpt-000000000100-2"
    assert same(ck.load(first), made())
    assert same(ck.load(third), made(seed=2))
    assert leftovers(tmp_path) == []


DIFFERENCES = {
    "env_id": ("ALE/Breakout-v5", "is of game ALE/Pong-v5, this run plays ALE/Breakout-v5"),
    "protocol": ("machado", "is of protocol classic, this run uses machado"),
    "observation_shape": ((4,), "sees observations of shape (4, 84, 84), this run's have (4,)"),
    "actions": (DiscreteActions(18), "takes 6 actions, this run 18 actions"),
    "algorithm": ("other", "is of algorithm a2c, this run uses other"),
    "network": ("nature", "is of network gala, this run uses nature"),
    "observation_scale": (
        0.5,
        "multiplies observations by what goes with their type, this run by 0.5",
    ),
    "layout": (LAYOUT[:2], "has the parameter head.bias [1] where this run has none"),
}


@pytest.mark.parametrize("field", DIFFERENCES)
def test_another_identity_is_refused_before_tensors(tmp_path: Path, field: str) -> None:
    names = {f.name for f in dataclasses.fields(Identity)}
    assert set(DIFFERENCES) == names - {"outputs_are_values"}, "which the algorithm decides"
    value, sentence = DIFFERENCES[field]
    path = ck.save(tmp_path, made())
    (path / "learner-0.safetensors").unlink()
    changed: dict[str, Any] = {field: value}
    with pytest.raises(CheckpointError) as refused:
        ck.load(path, expected=dataclasses.replace(PONG, **changed))
    assert str(refused.value) == f"checkpoint {path}: it {sentence}"


def test_paths_that_are_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(pickle.dumps({"a": 1}))
    (tmp_path / "empty").mkdir()
    for name, words in [
        ("nowhere", "no such path"),
        ("model.pt", "a file; expected a run folder"),
        ("empty", "holds no checkpoint"),
    ]:
        with pytest.raises(CheckpointError, match=words):
            ck.find(tmp_path / name)
        with pytest.raises(CheckpointError, match=name):
            ck.load(tmp_path / name)


def test_find_takes_the_newest_whole_one(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "checkpoints"
    folder.parent.mkdir()
    paths = [ck.save(folder, made(steps)) for steps in (100, 200, 300)]
    ck.point(folder, "latest", paths[2])
    for path in (folder.parent, folder, paths[2], folder / "latest"):
        assert ck.find(path)[:2] == (paths[2], ())
    for at, name in ((2, "learner-1.safetensors"), (1, "MANIFEST.json")):
        damaged = paths[at] / name
        damaged.write_bytes(damaged.read_bytes()[:-2])
    found = ck.find(folder.parent)
    assert found.path == paths[0]
    assert len(found.skipped) == 2
    assert "300: learner-1.safetensors" in "".join(found.skipped)
    assert "200: MANIFEST.json" in "".join(found.skipped)
    with pytest.raises(CheckpointError, match="learner-1"):
        ck.find(paths[2])
    (paths[0] / "state.json").unlink()
    with pytest.raises(CheckpointError, match="3 checkpoints, none whole"):
        ck.find(folder)


def test_newest_is_the_one_saved_last(tmp_path: Path) -> None:
    for steps in (100, 200, 300):
        ck.save(tmp_path, made(steps))
    resumed = ck.save(tmp_path, made(150))
    assert ck.find(tmp_path).path == resumed
    ck.prune(tmp_path, 2)
    assert sorted(os.listdir(tmp_path)) == ["ckpt-000000000150", "ckpt-000000000300"]


def test_prune_spares_what_is_protected(tmp_path: Path) -> None:
    paths = [ck.save(tmp_path, made(steps)) for steps in range(1, 8)]
    ck.point(tmp_path, "best", paths[0])
    (paths[2] / "MANIFEST.json").write_bytes(b"?")
    ck.prune(tmp_path, 2, [paths[1]])
    left = {p for p in tmp_path.iterdir() if not p.is_symlink()}
    assert left == {paths[0], paths[1], paths[2], paths[5], paths[6]}
    ck.prune(tmp_path, 0)
    assert paths[6].exists()
    ck.prune(tmp_path / "nowhere", 2)


def test_links_are_relative_and_swapped(tmp_path: Path) -> None:
    paths = [ck.save(tmp_path / "a", made(steps)) for steps in (1, 2)]
    for path in paths:
        ck.point(tmp_path / "a", "latest", path)
        assert os.readlink(tmp_path / "a" / "latest") == path.name
    (tmp_path / "a").rename(tmp_path / "b")
    assert same(ck.load(tmp_path / "b" / "latest"), made(2))
    (tmp_path / "b" / "best").mkdir()
    with pytest.raises(CheckpointNotWritten):
        ck.point(tmp_path / "b", "best", paths[0])
    assert leftovers(tmp_path / "b") == []


def test_stale_temporaries_of_the_dead_only_are_removed(tmp_path: Path) -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    names = {f".tmp-{dead.pid}-0123abcd", f".tmp-{os.getpid()}-0123abcd"}
    kept = {f".tmp-{os.getppid()}-0123abcd", ".tmp-mine", "notes"}
    for name in names | kept:
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_bytes(b"x")
    path = ck.save(tmp_path, made())
    assert set(os.listdir(tmp_path)) == kept | {path.name}


WRONG: Any = {"square_average": np.zeros(10, np.float64)}
DOUBLE = dataclasses.replace(learner(0, 1), optimizer=WRONG)
BAD: dict[str, Checkpoint] = {
    "nan": dataclasses.replace(made(), progress={"agent_steps": 1, "x": float("nan")}),
    "object": dataclasses.replace(made(), config={"x": object()}),
    "steps": dataclasses.replace(made(), progress={}),
    "empty": dataclasses.replace(made(), learners=()),
    "twice": dataclasses.replace(made(), learners=(learner(0, 1), learner(0, 1))),
    "float64": dataclasses.replace(made(), learners=(DOUBLE,)),
    "large": dataclasses.replace(made(), config={"x": "y" * 1_000_000}),
}


@pytest.mark.parametrize("name", BAD)
def test_content_that_breaks_the_format_is_not_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(CheckpointNotWritten):
        ck.save(tmp_path, BAD[name])
    assert list(tmp_path.iterdir()) == []


CALLS = ("open", "write", "fsync", "rename")
MORE_CALLS = (*CALLS, "mkdir", "symlink", "replace", "unlink", "rmdir")


def count_calls(
    monkeypatch: pytest.MonkeyPatch, fail_at: int, calls: tuple[str, ...] = CALLS
) -> list[str]:
    """Let the `fail_at`-th writing call fail as on a full disk; returns the calls seen."""
    seen: list[str] = []

    def watched(name: str, real: Any) -> Any:
        def call(*args: Any, **more: Any) -> Any:
            if name == "open" and not args[1] & os.O_CREAT:
                return real(*args, **more)
            seen.append(name)
            if len(seen) == fail_at:
                if name == "write":
                    real(args[0], bytes(args[1])[: len(args[1]) // 2])
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(*args, **more)

        return call

    for name in calls:
        monkeypatch.setattr(os, name, watched(name, getattr(os, name)))
    return seen


def test_a_full_disk_at_every_call(tmp_path: Path) -> None:
    before = ck.save(tmp_path, made(100))
    fail_at = 0
    while True:
        fail_at += 1
        with pytest.MonkeyPatch.context() as patch:
            seen = count_calls(patch, fail_at)
            try:
                last = ck.save(tmp_path, made(100 + fail_at))
            except CheckpointNotWritten as error:
                told = str(error)
            else:
                break
        assert told == f"no checkpoint written in {tmp_path}: No space left on device"
        assert leftovers(tmp_path) == []
        assert same(ck.load(before), made(100))
    assert {name: seen.count(name) for name in CALLS} == {
        "open": 4, "write": 4, "fsync": 7, "rename": 1
    }  # fmt: skip
    assert fail_at == len(seen) + 1
    assert ck.find(tmp_path).path == last


def test_a_full_disk_at_every_call_of_a_whole_round(tmp_path: Path) -> None:
    """Save, point, prune, as a run does: two whole ones stay, and both links lead to whole ones."""
    folder = tmp_path / "checkpoints"
    for steps in (1, 2):
        ck.point(folder, "latest", ck.save(folder, made(steps)))
    steps, fail_at, seen = 2, 0, ["some"]
    while fail_at <= len(seen):
        fail_at += 1
        steps += 1
        with pytest.MonkeyPatch.context() as patch, contextlib.suppress(CheckpointNotWritten):
            seen = count_calls(patch, fail_at, MORE_CALLS)
            ck.point(folder, "latest", ck.save(folder, made(steps)))
            ck.prune(folder, 2)
        whole = [path for path in folder.iterdir() if path.name.startswith("ckpt-")]
        assert len(whole) >= 2
        for path in (*whole, folder / "latest"):
            loaded = ck.load(path)
            assert same(loaded, made(loaded.progress["agent_steps"]))
    assert {"mkdir", "symlink", "replace", "unlink", "rmdir"} <= set(seen)
    ck.save(folder, made(10**6))
    assert leftovers(folder) == []


def test_files_are_on_the_disk_before_they_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = count_calls(monkeypatch, 0)
    ck.save(tmp_path, made())
    assert seen == ["open", "write", "fsync"] * 4 + ["fsync", "rename", "fsync", "fsync"]


def test_short_writes_are_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, data: write(file, bytes(data)[:100]))
    assert same(ck.load(ck.save(tmp_path, made())), made())


def test_what_the_disk_garbles_is_not_announced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, data: write(file, bytes(len(data))))
    with pytest.raises(CheckpointNotWritten, match="damaged"):
        ck.save(tmp_path, made())
    assert list(tmp_path.iterdir()) == []


SAVER = """
import dataclasses, os, signal, sys
from pathlib import Path
from galamp.storage import checkpoint as ck
template = ck.load(Path(sys.argv[1]))
folder, announced = Path(sys.argv[2]), Path(sys.argv[3])

def watch(name, kill_at, calls=[]):
    real = getattr(os, name)
    def call(*args, **more):
        calls.append(name)
        if len(calls) == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **more)
    setattr(os, name, call)

def save_on(kill_at):
    os.fsync = lambda file: None
    for name in ("open", "write", "fsync", "rename") if kill_at else ():
        watch(name, kill_at)
    while True:
        steps = int(announced.read_text()) + 1
        progress = template.progress | {"agent_steps": steps}
        ck.save(folder, dataclasses.replace(template, progress=progress))
        announced.write_text(str(steps))
        print(steps, flush=True)

for kill_at in map(int, sys.argv[4:]):
    child = os.fork()
    if child == 0:
        save_on(kill_at)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    newest = ck.find(folder)
    steps = ck.load(newest.path).progress["agent_steps"]
    assert steps - int(announced.read_text()) in (0, 1) and not newest.skipped, (kill_at, newest)
    announced.write_text(str(steps))
    ck.prune(folder, 2)
    print("killed at", kill_at, flush=True)
if not sys.argv[4:]:
    save_on(0)
"""


def start_saver(tmp_path: Path, *kill_at: int) -> subprocess.Popen[str]:
    """Save in another process for ever, or in children of it that are killed at a call each."""
    folder, announced = tmp_path / "c", tmp_path / "announced"
    template = ck.save(folder, made(1))
    announced.write_text("1")
    # One thread, so that the process may fork.
    env = os.environ | {"PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SAVER, *map(str, (template, folder, announced, *kill_at))]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env)


def test_killed_at_any_call_the_last_one_is_whole(tmp_path: Path) -> None:
    points = range(1, 61)
    with start_saver(tmp_path, *points) as saver:
        lines = saver.communicate()[0].splitlines()
    assert saver.returncode == 0
    assert [line for line in lines if "at" in line] == [f"killed at {n}" for n in points]
    assert any(line.isdigit() for line in lines)
    ck.save(tmp_path / "c", made(10**6))
    assert leftovers(tmp_path / "c") == []


def test_killed_at_any_time_the_last_one_is_whole(tmp_path: Path) -> None:
    for saves in (1, 3, 4, 9):
        place = tmp_path / str(saves)
        place.mkdir()
        with start_saver(place) as saver:
            assert saver.stdout is not None
            lines = [saver.stdout.readline() for _ in range(saves)]
            saver.kill()
            lines += saver.stdout.readlines()
        found = ck.find(place / "c")
        steps = ck.load(found.path).progress["agent_steps"]
        assert same(ck.load(found.path), made(steps))
        assert found.skipped == ()
        assert steps - int(lines[-1]) in (0, 1)
