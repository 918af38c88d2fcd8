"""Whom others wait for, before all of a run's processes have started."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from galamp.core.disk import as_named
from galamp.memory.arrays import SharedArrays
from galamp.memory.control import ControlBlock
from galamp.memory.status import StatusBoard
from galamp.supervision.child import Child
from galamp.supervision.children import Children
from galamp.supervision.launching import ServerFailed, StartPostponed
from galamp.supervision.presence import LearnerPresence, SimulatorPresence

LEARNERS, WORKERS = 2, 2


class Start:
    """Stands for the fork server: what becomes of the starts."""

    error: BaseException | None = None

    def __call__(self, postpone: object) -> Any:
        if self.error is not None:
            raise self.error
        return SimpleNamespace(close=lambda: None, kill=lambda: None)


class Scene:
    """Children of a run, none of which has started, and what the others read of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        count = LEARNERS * WORKERS
        specs = ControlBlock.specs(LEARNERS, count) + StatusBoard.specs(LEARNERS, count)
        arrays = SharedArrays.create(specs)
        self.control = ControlBlock(arrays)
        board = StatusBoard(arrays, LEARNERS)
        self.start, self.woken = Start(), 0
        monkeypatch.setattr(Child, "_forked", lambda _, postpone: self.start(postpone))
        self.children = object.__new__(Children)
        self.children._server = cast(Any, SimpleNamespace(poll=lambda: True))
        self.children.learners = [
            self.child(
                rank, None, board.learner(rank), LearnerPresence(self.control, rank, together=True)
            )
            for rank in range(LEARNERS)
        ]
        self.children.simulators = [
            self.child(
                index // WORKERS, index % WORKERS, board.simulator(index),
                SimulatorPresence(self.control, index, self.wake),
            )
            for index in range(count)
        ]  # fmt: skip

    def child(self, rank: int, number: int | None, row: Any, presence: Any) -> Child:
        return Child(rank, number, row, presence, cast(Any, None), 9, as_named)

    def wake(self) -> None:
        self.woken += 1

    @property
    def awaited(self) -> list[bool]:
        """Whether others wait for each child, learners first."""
        simulators = range(LEARNERS * WORKERS)
        of_simulators = [self.control.simulator_incarnation(index) == 0 for index in simulators]
        return [*map(self.control.alive, range(LEARNERS)), *of_simulators]


def raising(error: BaseException) -> Callable[[], bool]:
    def poll() -> bool:
        raise error

    return poll


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Scene:
    """A run before its first process."""
    return Scene(monkeypatch)


def test_all_are_awaited_before_the_first_one_starts(scene: Scene) -> None:
    """Else a rollout, or a round in lock-step, may begin without those that start last."""
    assert not any(scene.awaited)
    scene.children.schedule_all()
    assert all(scene.awaited)
    scene.children.start_due(float("inf"), lambda: False)
    assert all(scene.awaited)


@pytest.mark.parametrize("where", ["server", "process"])
def test_who_cannot_be_started_is_not_waited_for(scene: Scene, where: str) -> None:
    scene.children.schedule_all()
    error = ServerFailed("it has ended")
    if where == "server":
        scene.children._server = cast(Any, SimpleNamespace(poll=raising(error)))
    scene.start.error = error
    assert len(scene.children.start_due(float("inf"), lambda: False)) == len(scene.awaited)
    assert not any(scene.awaited)
    assert scene.woken


def test_whose_start_is_called_off_is_not_waited_for(scene: Scene) -> None:
    """As at a Ctrl-C during the first start; those that run are."""
    scene.children.schedule_all()
    children = scene.children.all
    children[0].start(lambda: False)
    scene.children.cancel_all()
    assert scene.awaited == [True] + [False] * (len(children) - 1)


def test_who_is_postponed_for_a_signals_sake_is_still_waited_for(scene: Scene) -> None:
    """As at the end of the terminal: it is started in the next tick."""
    scene.children.schedule_all()
    scene.start.error = StartPostponed()
    assert scene.children.start_due(float("inf"), lambda: False) == []
    assert all(scene.awaited)
