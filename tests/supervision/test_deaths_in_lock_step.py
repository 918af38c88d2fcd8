"""A death in lock-step costs no saved turn, without processes.

Those that no longer wait for a dead learner train on, and overwrite the turn that all have saved.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from galamp.supervision.child import UNKILLABLE_S, Child
from galamp.supervision.child_failure import ChildFailure
from galamp.supervision.children import Children
from galamp.training.supervisor import Supervisor
from tests.supervision.test_restarts import Immortal, Scene, age, family


@pytest.fixture
def dying(monkeypatch: pytest.MonkeyPatch) -> Children:
    """Two learners, of which the first one has just ended, and a disk that checks who knows."""
    children = family(2, 1)
    (first, second), presences = children.learners, []
    presences = [cast(Any, child)._presence for child in children.learners]

    class Over(Immortal):
        running = False

        def close(self) -> None:
            pass

    class Running(Immortal):
        def kill(self) -> None:
            assert not any(each.dead for each in presences), "it may run on by then"
            self.killed += 1

    def failure(child: Child) -> ChildFailure:
        assert not any(each.dead for each in presences), "a disk may be slow"
        return ChildFailure(child.title, "was ended by SIGKILL")

    first._process, second._process = cast(Any, Over()), cast(Any, Running())
    first._hang = None
    monkeypatch.setattr(Child, "failure", failure)
    setattr(children, "look_for_orphans", lambda now_s: None)  # noqa: B010
    return children


def test_in_lock_step_the_others_are_killed_before_one_is_told_to_be_dead(
    dying: Children,
) -> None:
    scene = Scene(dying, learners=2, lock_step=True)
    dying.learners[0].delay_s = lambda failure: 0.0  # type: ignore[method-assign]
    scene.restarts.reap()
    first, second = (cast(Any, child) for child in dying.learners)
    assert (first._presence.dead, second._process.killed) == (True, 1)
    assert (scene.failed, scene.control.quit) == ([], False)


@pytest.mark.parametrize("ends", ["too often", "fatal", "stopping"])
def test_in_lock_step_nobody_saves_after_a_death_that_ends_the_run(
    ends: str, dying: Children
) -> None:
    """`quit` is known before the death is; `Supervisor._fail` sets it, too."""
    scene = Scene(dying, learners=2, lock_step=True)
    first = cast(Any, dying.learners[0])
    first.delay_s = lambda failure: None
    told: list[bool] = []
    first._presence.mark_dead = lambda: told.append(scene.control.quit)

    def fail(failure: ChildFailure) -> None:
        scene.control.quit = True
        scene.failed.append(failure)

    scene.restarts._fail = fail
    if ends == "fatal":
        first._work_at_run_start = first.work
    if ends == "stopping":
        scene.restarts._stopping = lambda: True
    scene.restarts.reap()
    assert told
    assert all(told)


def test_in_lock_step_nobody_saves_after_one_that_cannot_be_ended() -> None:
    """Also where the run stops already, so that nothing fails any more."""
    children = family(2, 0)
    scene = Scene(children, learners=2, lock_step=True)
    scene.restarts._stopping = lambda: True
    age(children.learners[0], UNKILLABLE_S)
    scene.restarts.give_up_unkillable()
    assert scene.control.quit


def test_in_lock_step_no_more_are_started_once_one_could_not_be() -> None:
    """The first ones would train without it meanwhile; all are to go back."""
    children = family(3, 0)
    children._server = cast(Any, SimpleNamespace(poll=lambda: True))
    began: list[str] = []

    def start(child: Child) -> None:
        began.append(child.title)
        if child.rank == 1:
            raise OSError("no room")

    for child in children.learners:
        child._process, child.due_s = None, 0.0
        child.start = lambda postpone, child=child: start(child)  # type: ignore[assignment]
    (ended,) = children.start_due(1.0, lambda: False)
    assert ended.child.title == "learner 1"
    assert began == ["learner 0", "learner 1"]


def of_a_failure(control: Any, children: Any, **known: Any) -> Supervisor:
    """A supervisor that has begun nothing, and what it uses to stop."""
    supervisor = object.__new__(Supervisor)
    board = SimpleNamespace(learners=lambda: [{"turns": 5}, {"turns": 8}])
    supervisor.__dict__ |= {
        "run_layout": SimpleNamespace(control=control, status_board=board),
        "children": children, "_stopping": None, "_in_lock_step": True,
        "recorder": SimpleNamespace(status="running", log_event=lambda *_, **__: None),
        "_failure": None, "_stopped_by": None, "_scale_to": None,
    } | known  # fmt: skip
    return supervisor


@pytest.mark.parametrize("lock_step", [False, True])
@pytest.mark.parametrize("due", [None, "learner 1", "simulator 0.0"])
def test_a_stop_while_learners_are_started_in_lock_step_lets_none_save_alone(
    due: str | None, lock_step: bool
) -> None:
    """Between two starts of a rollback: who is started would train without the others."""
    children = family(2, 1)
    for child in children.all:
        child.due_s = 1.0 if child.title == due else None
    control = SimpleNamespace(quit=False, stop_turn=None)
    known: list[bool] = []
    for each in children.all:
        cast(Any, each)._presence.mark_dead = lambda: known.append(control.quit)
    supervisor = of_a_failure(control, children, _in_lock_step=lock_step)
    supervisor._stop()
    alone = lock_step and due == "learner 1"
    assert control.quit == alone
    assert known == [alone] * (due is not None)
    assert control.stop_turn == (10 if lock_step else 0)


def test_all_are_told_to_leave_before_a_failure_is_written_down() -> None:
    control = SimpleNamespace(quit=False, stop_turn=None)
    written: list[bool] = []
    recorder = SimpleNamespace(
        status="running", log_event=lambda *_, **__: written.append(control.quit)
    )
    supervisor = of_a_failure(control, family(2, 0), recorder=recorder)
    supervisor._fail(ChildFailure("learner 0", "was ended by SIGKILL"))
    assert written == [True]
