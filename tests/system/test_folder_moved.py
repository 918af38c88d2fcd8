"""A run goes on in a folder that is renamed, or whose lock somebody removes; nothing is lost."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import signal
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest

from galamp.core.errors import UserError
from galamp.storage import held_folder
from galamp.storage.event_log import EventLog
from galamp.storage.locks import Lock, take_lock
from galamp.storage.monitor_log import MonitorLog
from galamp.storage.run_folder import RunFolder
from galamp.storage.run_logs import MetricsLog, last_start_in, read_metrics
from galamp.training.control.framing import CONTROL
from galamp.training.control.server import ControlServer
from tests.storage.test_locks import OFTEN, RUN, content
from tests.storage.test_odd_disks import refusing, saver
from tests.storage.test_run_folder import create
from tests.support import engine
from tests.support.checkpoints import made, without_waiting_for_the_disk

__all__ = ["without_waiting_for_the_disk"]


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run that has begun."""
    (tmp_path / "runs").mkdir()
    folder = create(tmp_path / "runs", tmp_path / "runs" / "run")
    folder.write_config({"seed": 1})
    return folder


def patient(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Turn the clock that doubt is measured by."""
    now_s = [100.0]
    monkeypatch.setattr(held_folder.time, "monotonic", lambda: now_s[0])
    return now_s


def renamed(path: Path) -> Path:
    return path.rename(path.with_name("renamed"))


def moved_above(path: Path) -> Path:
    return path.parent.rename(path.parent.with_name("archive")) / path.name


def replaced(path: Path) -> Path:
    """Another run begins under the old name."""
    new = renamed(path)
    other = RunFolder.create(None, str(path), "E", "n", 1, datetime(2026, 1, 3))
    other.write_config({"seed": 2})
    other.close()
    return new


@pytest.mark.parametrize("way", [renamed, moved_above, replaced])
def test_what_is_written_follows_a_folder_that_is_renamed(
    run: RunFolder, way: Callable[[Path], Path]
) -> None:
    told: list[str] = []
    resume_point = run.path
    metrics = MetricsLog(run.metrics, 1, 0, told.append, run.where)
    events = EventLog(run.events, 1, told.append, run.where)
    monitor = MonitorLog(run.monitor_path(0), "E", 0.0, told.append, run.where)
    writer = saver(run.checkpoints, told)
    writer._where = run.settled_where
    writer._write(made(1))
    place = way(resume_point)
    left = content(resume_point)
    metrics.append({"global_step": 1})
    events.append(0.0, 0.0, "x")
    monitor.append(1.0, 2, 3.0)
    monitor.flush()
    writer._write(made(2))
    run.write_summary({"agent_steps": 2})
    run.write_config({"seed": 3})
    assert (run.path, run.lost, told, writer.written) == (place, False, [], 2)
    assert run.news == [f"the run folder was moved: it is {place} now"]
    assert [row["global_step"] for row in read_metrics(run.metrics)] == [0, 1]
    assert len(list(run.checkpoints.glob("ckpt-*"))) == 2
    assert (place / "summary.json").exists()
    assert run.events.read_text()
    assert content(resume_point) == left
    MetricsLog(run.metrics, 2, 1, told.append, run.where)  # of another start
    assert last_start_in(place / "metrics.jsonl") == 2
    assert run.where(resume_point / "logs") == run.logs == place / "logs"
    run.close()
    RunFolder.open(place).close()


def test_a_run_that_never_began_takes_itself_back_from_where_it_is_now(tmp_path: Path) -> None:
    folder = create(tmp_path, tmp_path / "run")
    renamed(folder.path)
    folder.close()
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_somebody_removed_is_made_again(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    now_s = patient(monkeypatch)
    metrics = MetricsLog(run.metrics, 1, 0, told.append, run.where)
    text = (run.path / "lock").read_text()
    for _ in range(2):
        (run.path / "lock").unlink()
        metrics.append({"global_step": 1})  # it might be `rm -rf`, half way
        assert run.doubtful
        assert not run.lost
        assert not (run.path / "lock").exists()
        now_s[0] += held_folder.LOST_TIMEOUT_S
        metrics.append({"global_step": 2})
        assert (run.doubtful, run.lost) == (False, False)
        assert (run.path / "lock").read_text() == text
        with pytest.raises(UserError, match="in use by process"):
            RunFolder.open(run.path)
    assert [row["global_step"] for row in read_metrics(run.metrics)] == [0, 2, 2]
    assert run.news == [f"{run.path / 'lock'} was removed: created again"] * 2
    run.close()
    RunFolder.open(run.path).close()


def test_of_a_removed_lock_another_start_may_be_the_first_owner(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = patient(monkeypatch)
    (run.path / "lock").unlink()
    assert not run.is_ours()
    now_s[0] += held_folder.LOST_TIMEOUT_S
    real, others = fcntl.flock, list[Lock]()

    def late(file: int, how: int) -> None:
        if not others:
            others.append(Lock(Path(), -1, "", -1))
            others[:] = [take_lock(run.path, datetime(2026, 1, 3))]
        real(file, how)

    monkeypatch.setattr(fcntl, "flock", late)
    assert not run.is_ours()
    assert not run.is_ours()
    assert run.lost
    before = (run.path / "lock").read_text()
    run.close()
    assert (run.path / "lock").read_text() == before
    others[0].close()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.ENOLCK])
def test_a_lock_that_cannot_be_made_again_now_is_made_later(
    run: RunFolder, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = patient(monkeypatch)
    (run.path / "lock").unlink()
    assert not run.is_ours()
    now_s[0] += held_folder.LOST_TIMEOUT_S

    module, name = (fcntl, "flock") if number == errno.ENOLCK else (os, "pwrite")
    with monkeypatch.context() as patch:
        patch.setattr(module, name, refusing(number))
        assert not run.is_ours()
        assert not run.lost
    assert run.is_ours()
    run.close()


def test_a_run_ends_though_its_lock_cannot_be_made_again(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held_folder, "LOST_TIMEOUT_S", 0.0)
    (run.path / "lock").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", refusing(errno.ENOSPC))
        run.write_summary({})
        with pytest.raises(UserError, match="removed, or taken"):
            run.write_config({})
        assert run.settled_where(run.logs) is None
    assert not run.lost
    assert not (run.path / "summary.json").exists()
    run.write_summary({})
    assert (run.path / "summary.json").exists()
    run.close()


def test_a_disk_that_is_away_for_a_moment_comes_back(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = patient(monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(Lock, "place", lambda lock: None)
        away = run.path.rename(run.path.with_name("away"))
        assert not run.is_ours()
        now_s[0] += held_folder.LOST_TIMEOUT_S / 2
        assert not run.is_ours()
        away.rename(run.path)
        assert run.is_ours()
        now_s[0] += 2 * held_folder.LOST_TIMEOUT_S
        run.path.rename(away)
        assert not run.is_ours()
        assert not run.lost  # it is missed anew
        now_s[0] += held_folder.LOST_TIMEOUT_S
        assert not run.is_ours()
        assert run.lost
    run.close()


def test_two_starts_of_one_second_are_two(tmp_path: Path) -> None:
    """In one process, as in containers where each is process 1."""
    noon = datetime(2026, 1, 2, 12)
    first = take_lock(tmp_path, noon)
    (tmp_path / "lock").unlink()
    second = take_lock(tmp_path, noon)
    assert first.standing_in(tmp_path) is not second.standing_in(tmp_path)
    first.close()
    assert (tmp_path / "lock").read_text()
    second.close()


@pytest.mark.parametrize("removed", [True, False])
def test_a_run_that_lost_its_folder_leaves_the_socket_of_the_next_one(
    tmp_path: Path, *, removed: bool
) -> None:
    told: list[str] = []
    with ControlServer(tmp_path, told.append):
        if removed:
            (tmp_path / CONTROL).unlink()
        second = ControlServer(tmp_path, told.append)
    assert (tmp_path / CONTROL).is_socket()
    with second:
        pass
    assert not (tmp_path / CONTROL).exists()
    assert not told


def test_why_a_child_failed_is_told_in_a_renamed_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, moved, fail = tmp_path / "run", tmp_path / "moved", tmp_path / "fail"
    monkeypatch.setenv("TEST_FAIL_NOW", str(fail))
    flags = ["--env-id", "tests.support.crashing:asked", *RUN[2:], *OFTEN, "--run-dir", folder]
    with engine.started(*flags) as process:
        engine.wait_for(lambda: engine.training(folder), "training")
        folder.rename(moved)
        fail.touch()
        events = moved / "events.jsonl"
        engine.wait_for(lambda: "started anew" in events.read_text(), "a restart")
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=engine.DEADLINE_S)
    assert process.returncode == 130, err
    assert "raised ZeroDivisionError: the game divided by zero: started anew" in events.read_text()
    assert not folder.exists()


@pytest.mark.slow
def test_a_living_run_goes_on_in_a_renamed_folder(tmp_path: Path) -> None:
    folder, moved = tmp_path / "run", tmp_path / "moved"
    with engine.started(*RUN, *OFTEN, "--run-dir", folder) as process:
        engine.wait_for(lambda: engine.training(folder), "training")
        folder.rename(moved)
        (moved / "lock").unlink()
        shutil.rmtree(moved / "checkpoints", ignore_errors=True)
        engine.wait_for(lambda: list(moved.glob("checkpoints/ckpt-*")), "a checkpoint")
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=engine.DEADLINE_S)
    assert process.returncode == 130, err
    assert "the run folder was moved" in (moved / "events.jsonl").read_text()
    assert (moved / "summary.json").exists()
    assert not folder.exists()
