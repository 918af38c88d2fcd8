"""Loss of power at any call: what was announced is whole, and nothing half is taken for whole."""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from galamp.core.errors import CheckpointError
from galamp.storage import checkpoint as ck
from tests.support.checkpoints import ROOT, made, same
from tests.support.disk_model import Disk, recorded
from tests.support.engine import also

KEEP = 2
SAVES = 3


class Announced:
    """What has been promised so far, and how it may look after the power is back."""

    def __init__(self, disk: Disk, place: Path, selections: int) -> None:
        self._disk, self._place, self._selections = disk, place, selections
        self._draw = random.Random(1)
        self.steps: list[int] = []
        self.latest = 0
        self.cuts = 0

    def cut(self) -> None:
        """Cut the power here: nothing kept beyond what must be, all, and some selections."""
        none, every = (lambda of: 0), (lambda of: of - 1)
        for choose in [none, every, *[self._draw.randrange] * self._selections]:
            self._check(choose)

    def _check(self, choose: Callable[[int], int]) -> None:
        shutil.rmtree(self._place, ignore_errors=True)
        self._place.mkdir()
        self._disk.lost(self._place, choose)
        self.cuts += 1
        folder = self._place / "run" / "checkpoints"
        spared = self.steps[-KEEP:]
        for steps in spared:
            assert same(ck.load(folder / f"ckpt-{steps:012d}"), made(steps)), steps
        for path in folder.glob("ckpt-*"):
            assert same(ck.load(path), made(int(path.name[5:]))), path
        if spared:
            found = ck.find(self._place / "run")
            assert found.skipped == ()
            assert int(found.path.name[5:]) >= spared[-1]
        if self.latest:
            assert ck.load(folder / "latest").progress["agent_steps"] >= self.latest


@pytest.mark.real
@pytest.mark.parametrize("selections", [1, also(8)])
def test_the_power_may_fail_at_any_call(tmp_path: Path, selections: int) -> None:
    root, place = tmp_path / "disk", tmp_path / "after"
    root.mkdir()
    disk = Disk(root)
    announced = Announced(disk, place, selections)
    folder = root / "run" / "checkpoints"
    with recorded(disk, announced.cut):
        (root / "run").mkdir()
        for at in (root, root / "run"):
            _sync(at)
        for steps in range(1, SAVES + 1):
            path = ck.save(folder, made(steps))
            announced.steps.append(steps)
            ck.point(folder, "latest", path)
            announced.latest = steps
            ck.prune(folder, KEEP, {path})
    assert sorted(os.listdir(folder)) == ["ckpt-000000000002", "ckpt-000000000003", "latest"]
    assert announced.cuts > 60 * (2 + selections)


def _sync(folder: Path) -> None:
    opened = os.open(folder, os.O_RDONLY)
    os.fsync(opened)
    os.close(opened)


def test_everything_is_synced_before_it_is_named_and_announced(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    with recorded(disk):
        ck.save(tmp_path / "checkpoints", made())
    in_order(disk.calls)


def in_order(calls: list[tuple[str, str]]) -> None:
    """Hold the rule by which a save survives: see `galamp.storage.checkpoint.save`."""
    kinds = [call for call, _ in calls]
    named = kinds.index("rename")
    temporary = calls[named][1]
    files = [path for call, path in calls if call == "open" and path.startswith(temporary)]
    assert [Path(path).name for path in files][-1] == "MANIFEST.json"
    assert len(files) == 4
    synced = [_last(calls, "fsync", path) for path in files]
    assert all(_last(calls, "write", path) < at for path, at in zip(files, synced, strict=True))
    folder = calls.index(("fsync", temporary))
    parent = calls.index(("fsync", os.path.dirname(temporary)))
    assert max(synced) < folder < named < parent
    assert not [call for call in calls[folder:] if call[0] in ("open", "write")]


def _last(calls: list[tuple[str, str]], call: str, path: str) -> int:
    return max(at for at, each in enumerate(calls) if each == (call, path))


@pytest.mark.parametrize("without", ["file", "temporary folder", "parent"])
def test_a_sync_that_is_missing_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without: str
) -> None:
    root = tmp_path / "disk"
    root.mkdir()
    disk = Disk(root)
    announced = Announced(disk, tmp_path / "after", selections=1)
    with recorded(disk):
        (root / "run").mkdir()
        _sync(root)
        monkeypatch.setattr(os, "fsync", forgetting(without, os.fsync))
        ck.save(root / "run" / "checkpoints", made(1))
        monkeypatch.undo()
    announced.steps.append(1)
    with pytest.raises((AssertionError, CheckpointError)):
        announced.cut()


def forgetting(what: str, fsync: Callable[[int], None]) -> Callable[[int], None]:
    """Return an fsync that does nothing for files of one kind."""

    def call(file: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{file}"))
        kind = "temporary folder" if path.name.startswith(".tmp-") else "parent"
        if what != ("file" if path.is_file() else kind):
            fsync(file)

    return call


TRACED = """
import sys
from pathlib import Path
from galamp.storage import checkpoint as ck
from tests.support.checkpoints import made
ck.save(Path(sys.argv[1]), made())
"""
CALL = re.compile(r"\d+ +(\w+)\((.*)\) += (\d+)(?:<(.*)>)?")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("strace") is None, reason="there is no strace here")
def test_the_kernel_sees_the_same_order(tmp_path: Path) -> None:
    """Nothing is written past what the tests above can see, such as from within a library."""
    watched = "openat,write,pwrite64,writev,fsync,fdatasync,rename,mkdir,mmap"
    subprocess.run(
        ["strace", "-f", "-y", "-s", "0", "-e", f"trace={watched}", "-o", str(tmp_path / "trace"),
         sys.executable, "-c", TRACED, str(tmp_path / "checkpoints")],
        env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True,
    )  # fmt: skip
    calls = list(kernel_calls((tmp_path / "trace").read_text(), tmp_path))
    in_order(calls)
    assert {call for call, _ in calls} == {"open", "write", "fsync", "rename", "mkdir"}
    disk = Disk(tmp_path / "again")
    (tmp_path / "again").mkdir()
    with recorded(disk):
        ck.save(tmp_path / "again" / "checkpoints", made())
    assert [call for call, _ in calls] == [call for call, _ in disk.calls]


def kernel_calls(trace: str, root: Path) -> Iterator[tuple[str, str]]:
    """Yield what `Disk.calls` has, from what strace wrote."""
    for line in trace.splitlines():
        match = CALL.match(line)
        if match is None or str(root) not in line:
            continue
        call, words, _, opened = match.groups()
        if call == "openat":
            if "O_CREAT" not in words:
                continue
            call, path = "open", opened
        elif call in ("rename", "mkdir"):
            path = words.split('"')[1]
        else:
            path = words.partition("<")[2].partition(">")[0]
        yield call, str(Path(path).relative_to(root))
