"""Killed at every stage of a checkpoint: earlier ones stay whole, and the next save goes well."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from galamp.core import failpoints
from galamp.storage import checkpoint as checkpoints
from tests.support.checkpoints import PONG, ROOT, made, same


class Left(NamedTuple):
    """Agent steps of the newest checkpoint and of those that the links point to; leftovers."""

    newest: int
    latest: int
    best: int
    unfinished: bool


LEFT = {
    "checkpoint.file:1": Left(1, 1, 1, True),
    "checkpoint.file:2": Left(1, 1, 1, True),
    "checkpoint.file:3": Left(1, 1, 1, True),
    "checkpoint.files:1": Left(1, 1, 1, True),
    "checkpoint.manifest:1": Left(1, 1, 1, True),
    "checkpoint.verified:1": Left(1, 1, 1, True),
    "checkpoint.renamed:1": Left(2, 1, 1, False),
    "checkpoint.saved:1": Left(2, 1, 1, False),
    "checkpoint.pointed:1": Left(2, 2, 1, False),
    "checkpoint.pointed:2": Left(2, 2, 2, False),
}
"""What is found once the second save was killed, by the point at which it was."""


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder per order with what a killed saver left in it."""
    folder = tmp_path_factory.mktemp("killed")
    template = checkpoints.save(folder / "template", made())
    command = [sys.executable, "-m", "tests.models.savers", str(template), str(folder), *LEFT]
    # One thread, so that the process may fork.
    env = os.environ | {"PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"}
    subprocess.run(command, env=env, cwd=ROOT, check=True, timeout=100)
    return folder


@pytest.mark.parametrize("order", LEFT)
def test_a_save_killed_at(order: str, killed: Path) -> None:
    folder, expected = killed / order / "checkpoints", LEFT[order]
    newest = checkpoints.find(folder.parent)
    assert newest.skipped == ()
    assert steps(newest.path) == expected.newest
    assert steps(folder / "latest") == expected.latest
    assert steps(folder / "best") == expected.best
    for path in folder.glob("ckpt-*"):
        assert same(checkpoints.load(path, expected=PONG), of(steps(path)))
    assert any(folder.glob(".tmp-*")) == expected.unfinished
    # The same moment is saved again, as it is when the run is resumed, and nothing is left over.
    again = checkpoints.save(folder, of(2))
    assert checkpoints.find(folder).path == again
    assert not any(folder.glob(".tmp-*"))
    assert sorted(path.name for path in folder.glob("ckpt-*")) == [
        "ckpt-000000000001",
        "ckpt-000000000002",
    ]


def test_every_stage_is_tried() -> None:
    stages = {order.partition(":")[0] for order in LEFT}
    assert stages == {point for point in failpoints.POINTS if point.startswith("checkpoint.")}


def steps(path: Path) -> int:
    return int(checkpoints.load(path, learners=()).progress["agent_steps"])


def of(agent_steps: int) -> checkpoints.Checkpoint:
    progress = made().progress | {"agent_steps": agent_steps}
    return dataclasses.replace(made(), progress=progress)
