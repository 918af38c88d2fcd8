"""A process that saves without end, killed at any time: two whole checkpoints, always."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from galamp.core.action_spec import DiscreteActions
from galamp.storage import checkpoint as ck
from galamp.storage.checkpoint import Checkpoint, Identity, LearnerState
from tests.support.checkpoints import ROOT

PARAMETERS = 300_000
IDENTITY = Identity(
    "ALE/Pong-v5",
    "classic",
    (4, 84, 84),
    DiscreteActions(6),
    "a2c",
    "gala",
    (("w", (PARAMETERS,)),),
)
KEEP = 2
LONGEST_S = 0.4
"""Some saves: 5 MB are written in 20 to 100 ms."""
MOST_TIMES = 4
"""Where a kill falls is the machine's affair: so many times as many are tried at most."""


def numbered(steps: int) -> Checkpoint:
    """A checkpoint of 5 MB of which every number tells which one it is."""
    value = np.full(PARAMETERS, steps, np.float32)
    learners = tuple(
        LearnerState(rank, {"w": value + rank}, {"s": value - rank}, {}, np.zeros(64, np.uint8))
        for rank in range(2)
    )
    return Checkpoint(IDENTITY, {}, {"agent_steps": steps}, learners)


def is_number(loaded: Checkpoint, steps: int) -> bool:
    expected = numbered(steps)
    return all(
        np.array_equal(found.parameters["w"], wanted.parameters["w"])
        and np.array_equal(found.optimizer["s"], wanted.optimizer["s"])
        for found, wanted in zip(loaded.learners, expected.learners, strict=True)
    )


def save_as_a_run_does(folder: Path, checkpoint: Checkpoint, *, best: bool) -> None:
    """What the supervisor's writer thread does for each checkpoint."""
    path = ck.save(folder, checkpoint)
    ck.point(folder, "latest", path)
    if best:
        ck.point(folder, "best", path)
    ck.prune(folder, KEEP, {path})


def save_without_end(folder: Path, announce_to: int, steps: int) -> None:
    """Save one after the other, and say of each that it is saved."""
    while True:
        save_as_a_run_does(folder, numbered(steps), best=steps % 3 == 0)
        os.write(announce_to, b"%d\n" % steps)
        steps += 1


START = """
import sys
from pathlib import Path
from tests.storage.test_checkpoint_kills import save_without_end
save_without_end(Path(sys.argv[1]), 1, int(sys.argv[2]))
"""


def killed(folder: Path, steps: int, after_s: float) -> tuple[int, list[int]]:
    """Kill a saving process some time after its first announcement; return its pid and all."""
    saver = subprocess.Popen(
        [sys.executable, "-c", START, str(folder), str(steps)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert saver.stdout is not None
    with saver.stdout as announcements:
        lines = [announcements.readline()]
        time.sleep(after_s)
        saver.kill()
        lines += announcements.readlines()
    assert saver.wait() == -signal.SIGKILL
    return saver.pid, [int(line) for line in lines]


@pytest.mark.real
@pytest.mark.parametrize(
    "kills", [4, pytest.param(100, marks=[pytest.mark.slow, pytest.mark.timeout(600)])]
)
def test_two_are_whole_after_every_kill(tmp_path: Path, kills: int) -> None:
    folder, draw, steps = tmp_path / "checkpoints", random.Random(kills), 1
    in_a_save = tried = 0
    while tried < kills or (in_a_save < kills // 3 and tried < MOST_TIMES * kills):
        tried += 1
        pid, announced = killed(folder, steps, draw.uniform(0, LONGEST_S))
        saved = check(folder, announced[-1])
        in_a_save += any(f"-{pid}-" in name for name in os.listdir(folder))
        assert all(
            not name.startswith(".tmp-") or f"-{pid}-" in name for name in os.listdir(folder)
        ), "what the one killed before had left is still there"
        steps = saved + 1
    save_as_a_run_does(folder, numbered(steps), best=True)
    assert not [name for name in os.listdir(folder) if name.startswith(".tmp-")]
    assert in_a_save >= kills // 3, "hardly any kill fell into a save: it tested nothing"


def check(folder: Path, announced: int) -> int:
    """Hold that all is whole, and return the newest, which may not have been announced yet."""
    found = ck.find(folder)
    assert found.skipped == ()
    newest = int(found.path.name.removeprefix("ckpt-"))
    assert newest - announced in (0, 1)
    whole = [path for path in folder.iterdir() if path.name.startswith("ckpt-")]
    assert len(whole) >= min(2, newest)
    for path in [*whole, folder / "latest", *([folder / "best"] if newest > 3 else [])]:
        loaded = ck.load(path, expected=IDENTITY)
        assert is_number(loaded, loaded.progress["agent_steps"])
    assert ck.load(folder / "latest").progress["agent_steps"] >= announced
    return newest
