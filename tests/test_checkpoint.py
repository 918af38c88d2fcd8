from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from galamp import checkpoint as ck
from galamp.checkpoint import Checkpoint, CheckpointNotWritten, Identity, LearnerState
from galamp.errors import CheckpointError

ROOT = Path(__file__).resolve().parents[1]
LAYOUT = (("body.0.weight", (3, 2)), ("body.0.bias", (3,)), ("head.bias", (1,)))
PONG = Identity("ALE/Pong-v5", "classic", (4, 84, 84), 6, "a2c", "gala", LAYOUT)


@pytest.fixture(autouse=True)
def without_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test here cuts the power; that fsync is called, and when, is tested by its own."""
    monkeypatch.setattr(os, "fsync", lambda file: None)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint for tests that put back what they change."""
    return ck.save(tmp_path_factory.mktemp("shared"), made())


def learner(rank: int, seed: int) -> LearnerState:
    draw = np.random.default_rng([rank, seed])
    parameters = {n: draw.standard_normal(s).astype(np.float32) for n, s in LAYOUT}
    optimizer = {"square_average": draw.random(10).astype(np.float32)}
    generator = draw.integers(0, 256, 16).astype(np.uint8)
    return LearnerState(rank, parameters, optimizer, {"updates": seed, "rounds": 2}, generator)


def made(steps: int = 100, seed: int = 1) -> Checkpoint:
    progress = {"agent_steps": steps, "best_mean_return": -20.5, "returns": [1.0, 2.0]}
    return Checkpoint(PONG, {"seed": 1}, progress, (learner(0, seed), learner(1, seed)))


def same(a: Checkpoint, b: Checkpoint) -> bool:
    def plain(c: Checkpoint) -> Any:
        states = []
        for state in c.learners:
            arrays: dict[str, Any] = {f"p.{n}": v for n, v in state.parameters.items()}
            arrays |= {f"o.{n}": v for n, v in state.optimizer.items()} | {"g": state.generator}
            values = {n: (v.dtype.name, v.tolist()) for n, v in arrays.items()}
            states.append([state.rank, state.counters, values])
        return json.dumps([c.identity.to_dict(), c.config, c.progress, states], sort_keys=True)

    return bool(plain(a) == plain(b))


def leftovers(folder: Path) -> list[str]:
    return [p.name for p in folder.iterdir() if p.name.startswith(".tmp")]


def reseal(path: Path) -> None:
    """Make sizes and digests right again after a change, as an attacker would."""
    manifest = json.loads((path / "MANIFEST.json").read_bytes())
    del manifest["digest"]
    for name in manifest["files"]:
        data = (path / name).read_bytes()
        manifest["files"][name] = [len(data), hashlib.sha256(data).hexdigest()]
    manifest["digest"] = hashlib.sha256(ck._encode(manifest)).hexdigest()
    (path / "MANIFEST.json").write_bytes(ck._encode(manifest))


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
    "num_actions": (18, "chooses among 6 actions, this run among 18"),
    "algorithm": ("other", "is of algorithm a2c, this run uses other"),
    "network": ("nature", "is of network gala, this run uses nature"),
    "layout": (LAYOUT[:2], "has the parameter head.bias [1] where this run has none"),
}


@pytest.mark.parametrize("field", DIFFERENCES)
def test_another_identity_is_refused_before_tensors(tmp_path: Path, field: str) -> None:
    assert set(DIFFERENCES) == {f.name for f in dataclasses.fields(Identity)}
    value, sentence = DIFFERENCES[field]
    path = ck.save(tmp_path, made())
    (path / "learner-0.safetensors").unlink()
    changed: dict[str, Any] = {field: value}
    with pytest.raises(CheckpointError) as refused:
        ck.load(path, expected=dataclasses.replace(PONG, **changed))
    assert str(refused.value) == f"checkpoint {path}: it {sentence}"


def test_every_flipped_bit_is_noticed(tmp_path: Path) -> None:
    path = ck.save(tmp_path, made())
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
    assert same(ck.load(path), made())


def test_every_truncation_is_noticed(tmp_path: Path) -> None:
    path = ck.save(tmp_path, made())
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


@pytest.mark.parametrize("target", ["learner-0.safetensors", "state.json", "MANIFEST.json"])
def test_links_and_pipes_are_not_followed(tmp_path: Path, target: str) -> None:
    path = ck.save(tmp_path / "c", made())
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
    (path / "state.json").write_bytes(ck._encode(state))
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
        digest = hashlib.sha256(ck._encode(bad)).hexdigest()
        (path / "MANIFEST.json").write_bytes(ck._encode(bad | {"digest": digest}))
        with pytest.raises(CheckpointError, match=r"unexpected entry|different files"):
            ck.load(path)


def test_a_sparse_giant_is_refused_by_its_size(tmp_path: Path) -> None:
    path = ck.save(tmp_path, made())
    manifest = json.loads((path / "MANIFEST.json").read_bytes())
    del manifest["digest"]
    os.truncate(path / "learner-0.safetensors", 2**40)
    manifest["files"]["learner-0.safetensors"][0] = 2**40
    digest = hashlib.sha256(ck._encode(manifest)).hexdigest()
    (path / "MANIFEST.json").write_bytes(ck._encode(manifest | {"digest": digest}))
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
PLACES = [("identity",), ("learners",), ("identity", "layout"), ("learners", 0), ("progress",)]


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(JSON, st.sampled_from(PLACES))
def test_well_formed_junk_is_refused(
    shared: Path, junk: object, keys: tuple[str | int, ...]
) -> None:
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
    paths = [ck.save(folder, made(steps)) for steps in (100, 200, 300)]
    ck.point(folder, "latest", paths[2])
    for path in (folder.parent, folder, paths[2], folder / "latest"):
        assert ck.find(path) == (paths[2], ())
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


def count_calls(monkeypatch: pytest.MonkeyPatch, fail_at: int) -> list[str]:
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

    for name in CALLS:
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
from galamp import checkpoint as ck
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


HARMLESS = """
import sys
from pathlib import Path
from galamp import checkpoint, errors, runfolder
assert "torch" not in sys.modules
seen = []
sys.addaudithook(lambda event, args: seen.append(event))
for path in map(Path, sys.argv[1:]):
    try:
        checkpoint.load(path)
    except errors.CheckpointError as error:
        print(error)
assert "open" in seen
bad = {"pickle.find_class", "os.system", "subprocess.Popen", "exec", "compile", "socket.connect"}
assert not bad & set(seen), bad & set(seen)
"""


class Evil:
    def __reduce__(self) -> Any:
        return os.system, ("touch evil",)


def test_nothing_in_a_checkpoint_runs(tmp_path: Path) -> None:
    contents = [pickle.dumps(Evil()) + bytes(400), b"\xff" * 8 + bytes(600), bytes(900)]
    header = b'{"a":{"dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,600]}}'
    contents += [len(header).to_bytes(8, "little") + header + bytes(600)]
    paths = []
    for number, content in enumerate(contents):
        paths.append(ck.save(tmp_path, made(number)))
        (paths[-1] / "learner-0.safetensors").write_bytes(content)
        reseal(paths[-1])
    command = [sys.executable, "-c", HARMLESS, *map(str, paths)]
    done = subprocess.run(command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)},
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [line.count("learner-0.safetensors: ") for line in done.stdout.splitlines()] == [1] * 4
    assert not (tmp_path / "evil").exists()
