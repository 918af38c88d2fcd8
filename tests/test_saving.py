"""Saving where there is little room; all else of it is tested by real runs."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from galamp.saving import LEAST_KEPT, Saver
from galamp.storage import checkpoint as checkpoints
from galamp.storage.checkpoint import Checkpoint, CheckpointNotWritten
from tests.checkpoints import made, without_waiting_for_the_disk

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
    saver._folder, saver._best_path = tmp_path / "checkpoints", None
    saver._remove_dead = lambda: None
    for steps in range(1, 9):
        path = saver._save(made(steps))
        checkpoints.point(saver._folder, "latest", path)
        assert whole(saver._folder)[-1] == path
        assert len(whole(saver._folder)) >= min(steps, LEAST_KEPT)


def test_a_disk_with_no_room_at_all_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for steps in (1, 2):
        checkpoints.save(tmp_path, made(steps))

    def full(folder: Path, content: Checkpoint) -> Path:
        raise CheckpointNotWritten("no space left on device")

    monkeypatch.setattr(checkpoints, "save", full)
    saver = object.__new__(Saver)
    saver._folder, saver._best_path = tmp_path, None
    saver._remove_dead = lambda: None
    with pytest.raises(CheckpointNotWritten):
        saver._save(made(3))
    assert len(whole(tmp_path)) == 2
