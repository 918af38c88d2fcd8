"""Saving where there is little room, on the disk or for a thread; all else by real runs."""

from __future__ import annotations

import errno
import os
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from galamp.core.action_spec import DiscreteActions
from galamp.core.machine.machine import plain_machine
from galamp.environments.base import EnvironmentSpec
from galamp.gossip.topologies import make_topology
from galamp.memory.learner_state import GENERATOR_BYTES_OF, STATE_COUNTERS, State
from galamp.storage import checkpoint as checkpoints
from galamp.storage.checkpoint import Checkpoint, CheckpointNotWritten
from galamp.supervision.layout import RunLayout, sketch_model
from galamp.supervision.plan import make_plan
from galamp.tools.chaos import monitor
from galamp.tools.chaos.monitor import FileChecks, InvariantMonitor
from galamp.training.checkpointing import MIN_KEPT, Saver
from galamp.training.train import identity_of
from tests.supervision.test_plan import config
from tests.support.checkpoints import made, without_waiting_for_the_disk
from tests.support.engine import wait_for

__all__ = ["without_waiting_for_the_disk"]


def whole(folder: Path) -> list[Path]:
    """The checkpoints of a folder, all of them whole."""
    found = sorted(folder.glob("ckpt-*"))
    for path in found:
        checkpoints.load(path)
    return found


@pytest.mark.parametrize("room", [3, 4])
def test_a_disk_with_room_for_a_few_always_has_the_newest(
    room: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Older ones go, but for two: they are no use if the newest cannot be written any more."""
    save = checkpoints.save

    def on_a_small_disk(folder: Path, content: Checkpoint) -> Path:
        if folder.exists() and len(whole(folder)) >= room:
            full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            raise CheckpointNotWritten("no space left on device") from full
        return save(folder, content)

    monkeypatch.setattr(checkpoints, "save", on_a_small_disk)
    saver = object.__new__(Saver)
    saver._folder, saver._best_path, saver.protected = tmp_path / "checkpoints", None, None
    saver._remove_dead, saver._by_evaluation = lambda: None, False
    for steps in range(1, 9):
        path = saver._save(made(steps))
        checkpoints.point(saver._folder, "latest", path)
        assert whole(saver._folder)[-1] == path
        assert len(whole(saver._folder)) >= min(steps, MIN_KEPT)


def test_a_disk_with_no_room_at_all_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for steps in (1, 2):
        checkpoints.save(tmp_path, made(steps))

    def full(folder: Path, content: Checkpoint) -> Path:
        raise CheckpointNotWritten("no space left on device")

    monkeypatch.setattr(checkpoints, "save", full)
    saver = object.__new__(Saver)
    saver._folder, saver._best_path, saver.protected = tmp_path, None, None
    saver._remove_dead, saver._by_evaluation = lambda: None, False
    with pytest.raises(CheckpointNotWritten):
        saver._save(made(3))
    assert len(whole(tmp_path)) == 2


# No room for a thread: the limits on processes count threads, too


@pytest.fixture
def no_thread(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The kernel refuses threads until this is undone."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    return monkeypatch


def of_a_run(folder: Path, told: list[str]) -> Saver:
    """A saver whose learners, without processes, have all answered the request for version 1."""
    spec = EnvironmentSpec(
        "CartPole-v1", (4,), "float32", DiscreteActions(2), ("0", "1"), 1, False, "x"
    )
    plan = make_plan(config(2, learners=2, device="cpu"), plain_machine(range(2), 0, 4096))
    sketch = sketch_model(plan, spec)
    run_layout = RunLayout(plan, make_topology("ring", 2), spec, sketch, folder / "logs", 1)
    tensors = {name: np.ones(size, np.float32) for name, size in sketch.state_sizes.items()}
    counters = dict.fromkeys(STATE_COUNTERS, 7)
    state = State(tensors, counters, np.zeros(GENERATOR_BYTES_OF["cpu"], np.uint8))
    for rank, states in enumerate(run_layout.states):
        states.save(state, save_id=100, incarnation=0)
        run_layout.status_board.learner(rank)["agent_steps"] = 7
    return Saver(run_layout, identity_of(plan, spec, sketch), folder / "checkpoints", told.append)


def test_a_thread_that_cannot_start_costs_one_checkpoint(
    tmp_path: Path, no_thread: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    saver = of_a_run(tmp_path, told)
    saver.request()
    assert saver.busy
    saver.poll(dict)
    assert (saver.busy, saver.written) == (False, 0)
    (line,) = told
    assert line.startswith("checkpoint not written, training goes on: no room for another thread")
    no_thread.undo()
    saver.request()
    saver.poll(dict)
    wait_for(lambda: not saver.busy, "a checkpoint")
    assert (saver.written, told) == (1, [line])
    assert len(whole(tmp_path / "checkpoints")) == 1


def test_the_last_checkpoint_needs_no_thread(tmp_path: Path, no_thread: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    saver = of_a_run(tmp_path, told)
    saver.finish({}, 10.0, lambda: False)
    assert (saver.written, told, saver.busy) == (1, [], False)
    (path,) = whole(tmp_path / "checkpoints")
    assert checkpoints.load(path).progress["agent_steps"] == 2 * 7


def test_what_the_disk_does_not_take_in_time_is_gathered_all_the_same(tmp_path: Path) -> None:
    """A new number of learners continues from it; the disk has only what was there before."""
    told: list[str] = []
    saver, written = of_a_run(tmp_path, told), threading.Event()
    saver._writer = threading.Thread(target=written.wait, daemon=True)
    saver._writer.start()
    saver.finish({}, 0.1, lambda: False)
    written.set()
    saver._writer.join()
    assert saver.last is not None
    assert saver.last.progress["agent_steps"] == 2 * 7
    assert (saver.written, whole(tmp_path / "checkpoints")) == (0, []), "one at a time"
    assert told == ["no last checkpoint: the disk has not taken the one before it yet"]


def test_a_pause_of_the_run_takes_no_time_from_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by Ctrl-Z: the thread that writes is stopped, too."""
    told: list[str] = []
    saver, held, monotonic = of_a_run(tmp_path, told), threading.Event(), time.monotonic
    saver._writer = threading.Thread(target=held.wait, daemon=True)
    saver._writer.start()
    polls = iter(range(10_000))

    def go_on() -> bool:
        if next(polls):
            held.set()
        monkeypatch.setattr(time, "monotonic", lambda: monotonic() + 3600.0)
        return False

    saver.finish({}, 10.0, go_on)
    assert (saver.written, told) == (1, [])


def test_a_checkpoint_that_the_disk_takes_after_the_end_moves_no_link(tmp_path: Path) -> None:
    """The next start may have written newer ones by then."""
    saver, held = of_a_run(tmp_path, []), threading.Event()
    checkpoint = made(100)
    saver._writer = threading.Thread(
        target=lambda: (held.wait(), saver._write(checkpoint)), daemon=True
    )
    saver._writer.start()
    saver.finish({}, 0.1, lambda: False)
    newer = checkpoints.save(tmp_path / "checkpoints", made(200))
    checkpoints.point(tmp_path / "checkpoints", "latest", newer)
    held.set()
    saver._writer.join()
    assert len(whole(tmp_path / "checkpoints")) == 2
    assert checkpoints.linked(tmp_path / "checkpoints", "latest") == newer


def test_a_last_checkpoint_that_is_late_moves_no_link_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    saver, held, save = of_a_run(tmp_path, told), threading.Event(), checkpoints.save

    def late(folder: Path, content: Checkpoint) -> Path:
        held.wait()
        return save(folder, content)

    monkeypatch.setattr(checkpoints, "save", late)
    saver.finish({}, 0.1, lambda: False)
    assert told == ["the last checkpoint was not written in time; an earlier one is whole"]
    newer = save(tmp_path / "checkpoints", made(200))
    checkpoints.point(tmp_path / "checkpoints", "latest", newer)
    held.set()
    assert saver._writer is not None
    saver._writer.join()
    assert len(whole(tmp_path / "checkpoints")) == 2
    assert checkpoints.linked(tmp_path / "checkpoints", "latest") == newer
    assert saver.newest is None


def test_chaos_looks_again_where_no_thread_could_start(
    no_thread: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[Any] = []
    checks = FileChecks(1, (), set())
    no_thread.setattr(monitor, "inspect_files", lambda *_: checks)
    observer = object.__new__(InvariantMonitor)
    observer._file_checks, observer._checkpoints, observer._thread = (
        None,
        tmp_path,
        ThreadPoolExecutor(1),
    )
    observer._slow = cast(Any, SimpleNamespace(due=lambda now_s: True))
    observer._children = cast(Any, SimpleNamespace(all=[]))
    observer._link = None
    observer.saved = cast(Any, SimpleNamespace(observe=lambda *found: seen.append(found)))
    observer.flat = cast(Any, SimpleNamespace(observe_names=seen.append))
    observer._check_files(1.0)
    assert observer._file_checks is None
    start = threading.Thread.start
    no_thread.undo()
    assert threading.Thread.start is not start
    no_thread.setattr(monitor, "inspect_files", lambda *_: checks)
    observer._check_files(2.0)
    wait_for(
        lambda: observer._file_checks is not None and observer._file_checks.done(), "the check"
    )
    observer._check_files(3.0)
    observer.close()
    assert len(seen) == 2


@pytest.mark.parametrize("by_evaluation", [False, True])
def test_best_is_chosen_by_evaluations_where_there_are_any(
    by_evaluation: bool, tmp_path: Path
) -> None:
    saver = of_a_run(tmp_path, [])
    saver._by_evaluation, saver._keep = by_evaluation, 2
    score = {"last_returns": [1.0] * 100, "mean_return_100": 5.0}

    def write(steps: int) -> Path:
        saver._write(replace(made(steps), progress={"agent_steps": steps} | score))
        assert saver.newest is not None
        assert saver.newest.agent_steps == steps
        return saver.newest.path

    first = write(1)
    assert (checkpoints.linked(saver._folder, "best") == first) != by_evaluation
    saver.protected = second = write(2)
    for steps in (3, 4, 5):
        write(steps)
    assert second.is_dir(), "it is being evaluated"
    saver.point_best(second)
    saver.protected = None
    write(6)
    assert checkpoints.linked(saver._folder, "best") == second
    assert not first.is_dir()


@pytest.mark.parametrize("moved", [False, True])
def test_a_full_disk_takes_no_checkpoint_that_is_evaluated(
    moved: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does it after the run folder was moved, whose old path `protected` has."""
    save = checkpoints.save

    def on_a_small_disk(folder: Path, content: Checkpoint) -> Path:
        if len(whole(folder)) >= 4:
            full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            raise CheckpointNotWritten("no space left on device") from full
        return save(folder, content)

    run = tmp_path / "run"
    run.mkdir()
    saver = of_a_run(run, [])
    saver._by_evaluation, saver._keep = True, 9
    saver.protected = checkpoints.save(run / "checkpoints", made(1))
    if moved:
        run = run.rename(tmp_path / "moved")
        saver._where = lambda path: run / "checkpoints"
    monkeypatch.setattr(checkpoints, "save", on_a_small_disk)
    for steps in range(2, 7):
        saver._write(replace(made(steps), progress={"agent_steps": steps}))
    assert saver.written == 5
    saver.point_best(saver.protected)
    found = checkpoints.linked(run / "checkpoints", "best")
    assert found is not None
    assert found.name == saver.protected.name


def test_best_is_never_a_checkpoint_that_is_gone(tmp_path: Path) -> None:
    told: list[str] = []
    saver = of_a_run(tmp_path, told)
    folder = tmp_path / "checkpoints"
    first, second = (checkpoints.save(folder, made(steps)) for steps in (1, 2))
    saver.point_best(first)
    shutil.rmtree(second)
    saver.point_best(second)
    assert checkpoints.linked(folder, "best") == first
    assert saver._best_path == first
    assert told == [f"{folder / 'best'} not moved: {second.name} is gone"]
