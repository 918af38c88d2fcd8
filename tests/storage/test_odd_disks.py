"""Disks that cannot do everything: no links, no sync of folders; no locks: test_locks.py."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from galamp.core.disk import as_named, replace_file, replace_json, sync_folder, write_new
from galamp.core.errors import UserError
from galamp.storage import checkpoint as ck
from galamp.storage.checkpoint import Checkpoint
from galamp.storage.links import followed
from galamp.storage.run_folder import RunFolder
from galamp.telemetry.snapshot import EPISODES_IN_MEAN
from galamp.tools.evaluation.trained import locate
from galamp.training.checkpointing import Saver
from tests.storage.test_run_folder import NOON, create
from tests.support.checkpoints import made

NO_LINKS = [
    errno.EPERM, errno.EOPNOTSUPP, errno.EROFS, errno.EPROTO, errno.ENOSYS, errno.EINVAL,
]  # fmt: skip


def refusing(number: int) -> Any:
    def refuse(*args: Any, **more: Any) -> Any:
        raise OSError(number, os.strerror(number))

    return refuse


def scored(steps: int, score: float) -> Checkpoint:
    progress = {
        "agent_steps": steps,
        "mean_return_100": score,
        "last_returns": [score] * EPISODES_IN_MEAN,
    }
    return Checkpoint(made().identity, {}, progress, made().learners)


def saver(folder: Path, told: list[str]) -> Saver:
    """A saver of a run without processes."""
    made_so = object.__new__(Saver)
    made_so._folder, made_so._log_event, made_so._keep = folder, told.append, 2
    made_so._where, made_so._remove_dead = as_named, lambda: None
    made_so._best_path, made_so._best_return, made_so.protected = None, float("-inf"), None
    made_so._reported_links, made_so.written = set(), 0
    made_so._by_evaluation = made_so._is_over = False
    return made_so


# No room


@pytest.mark.parametrize("refused", ["write", "fsync"])
@pytest.mark.parametrize("write", [write_new, replace_file])
def test_a_disk_that_refuses_has_no_part_of_a_file(
    tmp_path: Path, write: Any, refused: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces = iter([os.write])  # the first is written

    def some(file: int, content: memoryview) -> int:
        for piece in pieces:
            return piece(file, content[:3])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, refused, some if refused == "write" else refusing(errno.ENOSPC))
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path / "report.html", b"a whole page")
    assert os.listdir(tmp_path) == []


# No links


@pytest.mark.parametrize("number", NO_LINKS)
def test_without_links_latest_and_best_lead_to_the_same(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    folder = tmp_path / "checkpoints"
    with monkeypatch.context() as patch:
        patch.setattr(os, "symlink", refusing(number))
        writer = saver(folder, told)
        for steps, score in ((1, 5.0), (2, 9.0), (3, 1.0), (4, 2.0), (5, 3.0)):
            writer._write(scored(steps, score))
    best, newest = folder / "ckpt-000000000002", folder / "ckpt-000000000005"
    assert (writer.written, told) == (5, [])
    assert {path.name for path in folder.glob("ckpt-*")} == {
        f"ckpt-{steps:012d}" for steps in (2, 4, 5)
    }
    assert not (folder / "latest").is_symlink()
    for path in (tmp_path, folder, folder / "latest", followed(str(folder / "latest"))):
        assert ck.find(path).path == newest
    assert ck.load(folder / "latest").progress["agent_steps"] == 5
    assert locate(tmp_path).path == locate(folder / "best").path == best
    assert locate(tmp_path, "latest").path == locate(folder / "latest").path == newest
    again = saver(folder, told)
    again.resume_best()
    assert (again._best_return, again._best_path) == (9.0, best)
    # Copied to a disk that has links, it becomes one.
    again._write(scored(6, 4.0))
    assert os.readlink(folder / "latest") == "ckpt-000000000006"
    assert locate(tmp_path).path == best


@pytest.mark.parametrize("number", NO_LINKS[:3])
def test_without_links_the_run_that_began_last_is_found(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "symlink", refusing(number))
    for _ in range(2):
        run = create(tmp_path / "runs")
        run.write_config({})
        run.close()
    assert followed(str(tmp_path / "runs" / "latest")) == run.path
    assert followed(str(tmp_path / "runs" / "latest" / "metrics.jsonl")) == run.metrics
    assert not [name for name in os.listdir(tmp_path / "runs") if ".tmp" in name]


@pytest.mark.parametrize(
    "content",
    [b"", b"..", b".", b"../other", b"/etc", b"a\0b", b"a\nb", b"\xff", b"x" * 300, b"latest"],
)
def test_a_file_that_names_nothing_beside_it_is_only_a_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "latest").write_bytes(content)
    assert followed(str(tmp_path / "latest")) == tmp_path / "latest"


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_only_a_file_stands_for_a_link(tmp_path: Path, make: Any) -> None:
    make(tmp_path / "latest")
    for path in (tmp_path / "latest", "/", ".", "a/../b", "a/" * 3000 + "best", "a\0/best", ""):
        assert followed(str(path)) == Path(path)


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
def test_what_is_written_counts_whatever_becomes_of_the_links(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(os, "symlink", refusing(number))
    writer = saver(tmp_path, told)
    for steps in range(1, 7):
        writer._write(scored(steps, float(steps == 2)))
    assert writer.written == 6
    assert {path.name for path in tmp_path.iterdir()} == {
        f"ckpt-{steps:012d}" for steps in (2, 5, 6)
    }
    assert told == [
        f"{tmp_path / name} not moved: {os.strerror(number)}; "
        "the checkpoint ckpt-000000000001 is written"
        for name in ("latest", "best")
    ]


# No sync of folders


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS])
def test_a_disk_that_cannot_sync_is_used_all_the_same(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", refusing(number))
    run = create(tmp_path)
    run.write_config({"seed": 1})
    assert run.read_config() == {"seed": 1}
    ck.point(run.checkpoints, "latest", ck.save(run.checkpoints, made()))
    replace_json(tmp_path / "x.json", {})
    run.close()


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
def test_a_sync_that_fails_is_a_failure(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", refusing(number))
    with pytest.raises(UserError, match=os.strerror(number)):
        create(tmp_path)
    with pytest.raises(ck.CheckpointNotWritten, match=os.strerror(number)):
        ck.save(tmp_path / "checkpoints", made())
    with pytest.raises(OSError, match=os.strerror(number)):
        replace_json(tmp_path / "x.json", {})


def test_a_folder_that_may_not_be_listed_is_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one above a run may be another's, who only lets others make folders in it."""
    real = os.open

    def unlistable(path: Any, flags: int, *args: Any, **more: Any) -> int:
        if flags & os.O_DIRECTORY and Path(path) == tmp_path:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return real(path, flags, *args, **more)

    monkeypatch.setattr(os, "open", unlistable)
    sync_folder(tmp_path)
    run = RunFolder.create(None, str(tmp_path / "run"), "E", "n", 1, NOON)
    run.write_config({})
    run.close()
