"""Who may write: locks, disks without any, other machines; and a run folder that is taken away."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from galamp.core import disk
from galamp.core.disk import remove_stale, temporary_name
from galamp.core.errors import UserError
from galamp.storage import held_folder, locks
from galamp.storage.event_log import EventLog
from galamp.storage.gossip_log import GossipLog
from galamp.storage.locks import Lock, take_lock, wait_for_lock
from galamp.storage.monitor_log import MonitorLog
from galamp.storage.mounts import local_locks
from galamp.storage.run_folder import RunFolder
from galamp.storage.run_logs import MetricsLog
from galamp.tools.chaos import command, record
from galamp.training.supervisor import Supervisor
from tests.storage.test_odd_disks import saver
from tests.storage.test_run_folder import NOON, create
from tests.support import engine
from tests.support.checkpoints import made
from tests.support.told import Told

HERE = f"process {os.getpid()} on {platform.node()} since 2026-01-02 12:00:05"
ELSEWHERE = "process 4711 on elsewhere since 2026-01-02 11:00:00"


# No locks


def lockless(number: int) -> Callable[..., None]:
    def refuse(file: int, how: int) -> None:
        raise OSError(number, os.strerror(number))

    return refuse


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK])
def test_without_locks_it_is_told_why_and_what_to_do(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    old = create(tmp_path, "old")
    old.write_config({})
    old.close()
    (old.path / "lock").unlink()
    Path("empty").mkdir()
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr(fcntl, "flock", lockless(number))
    line = rf"this file system has no locks \({os.strerror(number)}\).*use --run-dir on a local"
    for run_dir in ("new", "a/b/new", "empty", ""):
        with pytest.raises(UserError, match=line):
            RunFolder.create(None, run_dir, "E", "n", 1, NOON)
    with pytest.raises(UserError, match=f"{old.path}: {line}"):
        RunFolder.open(old.path)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("call", ["mkdir", "fsync", "pwrite"])
def test_what_the_disk_refuses_half_way_leaves_nothing(
    tmp_path: Path, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, full = getattr(os, call), OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def refuse(where: Any, *more: Any) -> Any:
        if call == "mkdir" and Path(where).name != "monitor":
            return real(where, *more)
        raise full

    (tmp_path / "empty").mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(os, call, refuse)
        for run_dir in (tmp_path / "a" / "run", tmp_path / "empty", ""):
            with pytest.raises(UserError, match="cannot make the run folder: No space left"):
                create(tmp_path / "runs", run_dir)
    assert list(tmp_path.rglob("*")) == [tmp_path / "empty"]


def test_what_is_refused_takes_back_the_folders_that_it_made(tmp_path: Path) -> None:
    create(tmp_path, tmp_path / "a" / "b" / "c").close()
    create(tmp_path / "runs").close()
    assert list(tmp_path.iterdir()) == []


# Other machines


def test_a_lock_of_another_machine_is_told_as_such(tmp_path: Path) -> None:
    run = create(tmp_path, tmp_path / "mine")
    run.write_config({})
    (run.path / "lock").write_text(f"{ELSEWHERE}\n")
    words = f"mine: in use on another machine, by {ELSEWHERE}; stop it there, or choose another"
    for start in (RunFolder.open, lambda path: create(tmp_path, path)):
        with pytest.raises(UserError, match=words):
            start(run.path)
    (run.path / "lock").write_text(f"{HERE}\n")
    with pytest.raises(UserError, match=f"mine: in use by {HERE}; stop that first"):
        RunFolder.open(run.path)
    run.close()


def test_a_lock_whose_text_cannot_be_read_is_held_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = create(tmp_path, tmp_path / "mine")
    run.write_config({})

    def refuse(*args: Any) -> bytes:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", refuse)
        with pytest.raises(UserError, match="mine: in use by another process; stop that first"):
            RunFolder.open(run.path)
        assert run.is_ours()
    run.close()


@pytest.mark.parametrize(
    ("text", "local", "refused"),
    [
        (ELSEWHERE, "nfs, nolock", True),
        (ELSEWHERE, "", False),  # the lock was free for everyone: whoever had it was killed
        (HERE, "nfs, nolock", False),
        ("", "nfs, nolock", False),
        ("process 4711 since 2026-01-02 11:00:00", "nfs, nolock", False),  # by an older galamp
        ("\x1b[2J", "nfs, nolock", False),
    ],
    ids=["elsewhere", "elsewhere, locks seen", "here", "given back", "older", "not text"],
)
def test_where_locks_are_not_seen_elsewhere_the_text_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, local: str, *, refused: bool
) -> None:
    run = create(tmp_path, tmp_path / "mine")
    run.write_config({})
    run.close()
    assert (run.path / "lock").read_text() == ""  # so that any machine may go on with it
    (run.path / "lock").write_text(text)
    monkeypatch.setattr(locks, "local_locks", lambda folder: local)
    if refused:
        with pytest.raises(UserError, match=rf"{ELSEWHERE} has not .*\({local}\).*remove .*/lock"):
            RunFolder.open(run.path)
        assert (run.path / "lock").read_text() == text
        (run.path / "lock").unlink()
    again = RunFolder.open(run.path)
    assert platform.node() in (run.path / "lock").read_text()
    again.close()


MOUNTS = r"""
1 0 8:1 / / rw,relatime - ext4 /dev/sda1 rw
2 1 0:30 / {0}/one rw,nolock shared:1 - nfs server:/one rw,vers=3,local_lock=none
3 1 0:31 / {0}/two rw - nfs server:/two rw,vers=3,local_lock=all
4 1 0:32 / {0}/three rw - nfs4 server:/three rw,local_lock=none
5 1 0:33 / {0}/four rw - lustre server:/four rw,localflock
6 1 0:34 / {0}/five rw - fuse.sshfs me@there:/five rw
7 3 0:35 / {0}/two/inner rw - tmpfs tmpfs rw
8 1 0:36 / {0}/größer\040space rw - nfs server:/s rw,nolock
9 1 0:37 / {0}/nine rw - cifs //server/nine rw,nobrl,uid=0
10 1 0:38 / {0}/ten rw - fuse.rclone remote: rw
11 1 0:39 / {0}/eleven rw - fuse.s3fs s3fs rw
12 1 0:40 / {0}/twelve rw - fuse gcsfuse rw
13 1 0:41 / {0}/thirteen rw - fuse.glusterfs server:/v rw
14 1 0:42 / {0}/fourteen rw - fuseblk /dev/sdb1 rw
broken
"""


@pytest.mark.parametrize(
    ("folder", "why"),
    [
        ("one/runs/x", "nfs, nolock"),
        ("two", "nfs, local_lock=all"),
        ("two/inner/x", ""),
        ("three/x", ""),
        ("four/x", "lustre, localflock"),
        ("five/x", "fuse.sshfs"),
        ("nine/x", "cifs, nobrl"),
        ("ten/x", "fuse.rclone"),
        ("eleven/x", "fuse.s3fs"),
        ("twelve/x", "fuse"),
        ("thirteen/x", ""),
        ("fourteen/x", ""),
        ("one-more", ""),
        ("größer space/x", "nfs, nolock"),
    ],
)
def test_mounts_whose_locks_stay_on_one_machine_are_known(
    tmp_path: Path, folder: str, why: str
) -> None:
    table = tmp_path / "mountinfo"
    table.write_text(MOUNTS.replace("{0}", str(tmp_path)))
    assert local_locks(tmp_path / folder, table) == why
    assert local_locks(tmp_path / folder, tmp_path / "none") == ""


def test_temporary_names_of_another_machine_go_by_their_age(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    monkeypatch.setattr(os, "getpid", lambda: dead.pid)
    names = []
    for host in ("here", "elsewhere", "elsewhere too"):
        with monkeypatch.context() as patch:
            patch.setattr(platform, "node", lambda host=host: host)
            with temporary_name(tmp_path) as path:
                names.append(path)
    monkeypatch.undo()
    monkeypatch.setattr(platform, "node", lambda: "here")
    for path in names:
        path.mkdir()
    now_s = os.stat(tmp_path).st_mtime
    os.utime(names[2], (now_s, now_s - disk.TEMPORARY_GRACE_S - 1))
    remove_stale(tmp_path)
    assert list(tmp_path.iterdir()) == [names[1]]


# A folder that is taken away


def removed(path: Path) -> None:
    """Remove the folder of a run that may write to it meanwhile, as often as it takes."""
    until_s = time.monotonic() + engine.DEADLINE_S
    while path.exists():
        with contextlib.suppress(OSError):
            shutil.rmtree(path)
        assert time.monotonic() < until_s


def taken(path: Path) -> None:
    removed(path)
    other = RunFolder.create(None, str(path), "E", "n", 1, datetime(2026, 1, 3))
    other.write_config({"seed": 2})
    other.close()
    (path / "lock").write_text("process 1 on other since 2026-01-03 00:00:00\n")


def emptied(path: Path) -> None:
    """As by `rm -rf` on NFS, where a folder stays for as long as a file in it is open."""
    shutil.rmtree(path / "checkpoints")
    for file in [each for each in path.rglob("*") if each.is_file()]:
        file.unlink()


def unmounted(path: Path) -> None:
    """For good; what is below it is another disk's."""
    path.rename(path.with_name("elsewhere"))
    path.mkdir()


def locked_again(path: Path) -> None:
    (path / "lock").unlink()
    take_lock(path, datetime(2026, 1, 3)).close()


def a_link(path: Path) -> None:
    (path / "lock").unlink()
    (path / "lock").symlink_to("config.json")


WAYS = [removed, taken, emptied, unmounted, locked_again, a_link]


def content(path: Path) -> dict[str, bytes]:
    files = [each for each in path.rglob("*") if each.is_file()] if path.exists() else []
    return {str(each.relative_to(path)): each.read_bytes() for each in files}


@pytest.mark.parametrize("way", WAYS)
def test_a_folder_that_is_taken_away_is_written_to_no_more(
    tmp_path: Path, way: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held_folder, "LOST_TIMEOUT_S", 0.0)
    if way is unmounted:
        monkeypatch.setattr(Lock, "place", lambda lock: None)
    told: list[str] = []
    run = create(tmp_path, tmp_path / "run")
    metrics = MetricsLog(run.metrics, 1, 0, told.append, run.where)
    events = EventLog(run.events, 1, told.append, run.where)
    monitors = [MonitorLog(run.monitor_path(i), "E", 0.0, told.append, run.where) for i in (0, 1)]
    gossip = GossipLog(run.path / "gossip.jsonl", told.append, run.where)
    writer = saver(run.checkpoints, told)
    writer._where = run.settled_where
    run.write_config({"seed": 1})
    monitors[0].flush()
    writer._write(made(1))
    assert not run.lost
    way(run.path)
    before = content(run.path)
    metrics.append({"global_step": 1})
    events.append(0.0, 0.0, "x")
    for monitor in monitors:
        monitor.flush()
    assert not gossip.append([{"kind": "lost"}])
    writer._write(made(2))
    run.write_summary({})
    with pytest.raises(UserError, match="run: removed, or taken by another start"):
        run.write_config({})
    run.close()
    assert (run.lost, told, writer.written) == (True, [], 1)
    assert content(run.path) == before
    assert run.path.exists() == (way is not removed)


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EACCES, errno.EMFILE])
def test_a_disk_that_does_not_answer_takes_nothing_away(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = create(tmp_path, tmp_path / "run")

    def refuse(*args: Any, **more: Any) -> int:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        assert run.is_ours()
        patch.undo()
        patch.setattr(os, "pread", refuse)
        assert run.is_ours()
    run.close()


def test_one_that_never_began_leaves_what_another_start_has_made(tmp_path: Path) -> None:
    run = create(tmp_path, tmp_path / "run")
    shutil.rmtree(run.path)
    other = RunFolder.create(None, str(run.path), "E", "n", 1, datetime(2026, 1, 3))
    run.close()
    assert other.is_ours()
    assert other.logs.is_dir()
    other.close()


def test_a_checkpoint_does_not_bring_its_run_back(tmp_path: Path) -> None:
    told: list[str] = []
    writer = saver(tmp_path / "run" / "checkpoints", told)
    writer._write(made(1))
    assert list(tmp_path.iterdir()) == []
    assert "checkpoint not written, training goes on" in told[0]


@pytest.mark.parametrize("stopped_by", [None, 2])
def test_a_run_without_a_folder_ends_and_says_so_once(stopped_by: int | None) -> None:
    told = Told()
    control = SimpleNamespace(quit=False, stop_turn=None)
    supervisor = object.__new__(Supervisor)
    supervisor.__dict__ |= {
        "recorder": SimpleNamespace(
            folder=SimpleNamespace(lost=False, doubtful=False, news=[], path="runs/x"),
            log_event=told.log_event, status="running",
        ),
        "run_layout": SimpleNamespace(control=control),
        "children": SimpleNamespace(cancel_all=lambda: None),
        "_failure": None, "_stopping": None, "_in_lock_step": False,
        "_stopped_by": stopped_by,
    }  # fmt: skip
    supervisor._check_folder()
    assert not told
    cast(Any, supervisor.recorder.folder).lost = True
    for _ in range(3):
        supervisor._check_folder()
    assert told == [str(supervisor._failure)]
    assert "run folder runs/x was removed, or taken by another start" in told[0]
    assert control.quit


def test_chaos_shows_what_it_cannot_keep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(record, "record", lambda *arguments: {"held": True})
    ended = SimpleNamespace(exit_code=70)
    outcome = SimpleNamespace(folder=tmp_path / "gone", result=ended, summary={})
    assert command._conclude(cast(Any, None), cast(Any, outcome), None) == {"held": True}
    assert "gone/chaos.json not written: No such file" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


RUN = ("--env-id", "CartPole-v1", "--num-envs", 2, "--learners", 1, "--quiet")
OFTEN = ("--log-every-s", 0.5, "--checkpoint-every-s", 0.5, "--total-steps", 10**9)


@pytest.mark.parametrize("way", [removed, engine.also(taken)])
def test_a_living_run_ends_when_its_folder_is_taken_away(
    tmp_path: Path, way: Callable[[Path], None]
) -> None:
    folder = tmp_path / "run"
    with engine.started(*RUN, *OFTEN, "--run-dir", folder) as process:
        engine.wait_for(lambda: engine.training(folder), "training")
        way(folder)
        before = content(folder)
        _, err = process.communicate(timeout=engine.DEADLINE_S)
    assert process.returncode == 70, err
    assert err.count("\n") == 1
    assert f"the run folder {folder} was removed, or taken" in err
    assert folder.exists() == (way is taken)
    if way is taken:
        assert content(folder) == before


# One at a time


def test_who_waits_for_a_lock_says_so_once_and_not_for_ever(tmp_path: Path) -> None:
    path, told = tmp_path / "x.lock", list[int]()
    with wait_for_lock(path, 0.0) as first, wait_for_lock(path, 0.3, lambda: told.append(1)) as got:
        assert (first, got, told) == (True, False, [1])
    with wait_for_lock(path, 0.0, lambda: told.append(2)) as got:
        assert (got, told) == (True, [1])


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EIO])
def test_without_locks_nobody_waits(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with wait_for_lock(tmp_path / "no folder" / "x.lock", 60.0) as got:
        assert not got
    monkeypatch.setattr(fcntl, "flock", lockless(number))
    with wait_for_lock(tmp_path / "x.lock", 60.0) as got:
        assert not got


def test_a_lock_given_back_leaves_a_text_that_is_not_its_own(tmp_path: Path) -> None:
    lock: Lock = take_lock(tmp_path, NOON)
    lock.path.write_text(ELSEWHERE)
    lock.close()
    assert lock.path.read_text() == ELSEWHERE
