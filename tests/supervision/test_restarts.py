"""What follows when children have ended, or cannot be ended, without processes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from galamp.core.disk import as_named
from galamp.memory.status import Phase
from galamp.supervision.child import UNKILLABLE_S, Child
from galamp.supervision.child_failure import ChildFailure
from galamp.supervision.children import Children, Ended
from galamp.supervision.memory_kills import MemoryKills
from galamp.supervision.progress_monitor import MAX_TICK_S
from galamp.telemetry.snapshot import WorkerState
from galamp.training.restarts import Restarts
from galamp.training.supervisor import Supervisor
from galamp.workers.child import ChildSpec


class Immortal:
    """Stands for a process that the kernel cannot end: it waits for a disk for ever."""

    pid, running, killed, exitcode, server_lost = 4711, True, 0, None, False

    def kill(self) -> None:
        self.killed += 1

    def is_alive(self) -> bool:
        return False  # so that nobody is sent a signal


class Row(dict[str, int]):
    """Stands for the status of a process that has worked."""

    phase = Phase.STEP


class Presence:
    """What others are told of a child."""

    dead = False

    def announce(self, incarnation: int) -> None:
        self.dead = False

    def mark_dead(self) -> None:
        self.dead = True


def hung(rank: int, number: int | None) -> Child:
    """A child that has worked, and was declared hung just now."""
    child = Child(
        rank,
        number,
        cast(Any, Row(agent_steps=0, done=0)),
        Presence(),
        cast(Any, None),
        9,
        as_named,
    )
    child.row["agent_steps"] = 5
    child._process = cast(Any, Immortal())
    child._spec = ChildSpec(child.role, rank, number, "", (), "there/is/none")
    child.declare_hung("hung: no progress for 10 s")
    return child


class Scene:
    """Restarts of children, and all that they do to the run."""

    def __init__(self, children: Any, *, learners: int = 1, lock_step: bool = False) -> None:
        self.failed: list[ChildFailure] = []
        self.told: list[str] = []
        self.rows = [SimpleNamespace(state=WorkerState.RUNNING) for _ in range(learners)]
        self.losses = SimpleNamespace(restarts=0, given_up=[])
        self.excluded: list[int] = []
        resources = SimpleNamespace(max_restarts=10)
        gossip = SimpleNamespace(exchanges_in_lock_step=lock_step)
        plan = SimpleNamespace(config=SimpleNamespace(resources=resources, gossip=gossip))
        self.control = SimpleNamespace(quit=False)
        self.restarts = Restarts(
            cast(Any, SimpleNamespace(plan=plan, states=[], board=None, control=self.control)),
            cast(Children, children),
            cast(Any, SimpleNamespace(
                learners=self.rows, losses=self.losses,
                log_event=lambda line, **_: self.told.append(line),
            )),
            cast(Any, SimpleNamespace(exclude=self.excluded.append)),
            fail=self.failed.append,
            stopping=lambda: bool(self.failed),
        )  # fmt: skip


def family(learners: int, simulators: int) -> Children:
    """Children of which all are hung."""
    children = object.__new__(Children)
    children.learners = [hung(rank, None) for rank in range(learners)]
    children.simulators = [hung(rank, w) for rank in range(learners) for w in range(simulators)]
    children._memory_kills = MemoryKills()
    children._in_lock_step = True  # so that check tells nothing of their turns
    return children


def age(child: Child, seconds: float) -> None:
    """Let the supervisor see a hung child stay for so long."""
    for _ in range(round(seconds / MAX_TICK_S) + 1):
        child.end_hung(MAX_TICK_S)


CAUSE = "hung: no progress for 10 s, and cannot be ended"


@pytest.mark.parametrize(("learners", "lock_step"), [(1, False), (2, True)])
def test_a_learner_that_cannot_be_ended_fails_a_run_that_needs_it(
    learners: int, lock_step: bool
) -> None:
    """Its last one, or any in lock-step: a hang is never told as success."""
    children = family(learners, 1)
    scene = Scene(children, learners=learners, lock_step=lock_step)
    scene.restarts.give_up_unkillable()
    assert not scene.failed, "it has its time to end"
    age(children.learners[0], UNKILLABLE_S)
    assert children.learning, "until the run has failed"
    scene.restarts.give_up_unkillable()
    [failure] = scene.failed
    assert str(failure) == f"learner 0 {CAUSE}"
    assert scene.told == [f"learner 0 {CAUSE}: given up"]
    assert cast(Any, children.learners[0])._presence.dead
    assert children.learning == (learners > 1)
    scene.restarts.give_up_unkillable()
    assert len(scene.failed) == len(scene.told) == 1


def test_the_others_go_on_without_who_cannot_be_ended() -> None:
    children = family(2, 2)
    scene = Scene(children, learners=2)
    stuck, learner = children.simulators[0], children.learners[0]
    age(stuck, UNKILLABLE_S)
    scene.restarts.give_up_unkillable()
    assert cast(Any, stuck)._presence.dead, "its learner waits for ever otherwise"
    assert not learner.given_up
    age(children.simulators[1], UNKILLABLE_S)
    scene.restarts.give_up_unkillable()
    assert learner.given_up, "it has no simulator left"
    assert cast(Any, learner)._presence.dead, "nor may it ever be reaped"
    assert scene.losses.given_up == ["simulator 0.0", "simulator 0.1"]
    assert (scene.failed, scene.excluded) == ([], [0])


def test_who_is_given_up_is_not_shown_as_running() -> None:
    children = family(2, 1)
    scene = Scene(children, learners=2)
    age(children.learners[0], UNKILLABLE_S)
    scene.restarts.give_up_unkillable()
    scene.restarts.note_working()
    assert [row.state for row in scene.rows] == [WorkerState.FAILED, WorkerState.RUNNING]


def test_where_no_restart_is_allowed_who_cannot_be_ended_ends_the_run() -> None:
    children = family(2, 1)
    scene = Scene(children, learners=2)
    children.simulators[0].row["agent_steps"] = 0  # it has never worked
    age(children.simulators[0], UNKILLABLE_S)
    scene.restarts.give_up_unkillable()
    assert [str(failure) for failure in scene.failed] == [f"simulator 0.0 {CAUSE}"]


def test_the_end_of_a_learner_that_is_done_is_not_waited_for() -> None:
    """Such as one whose driver does not return at its exit: that is no failure."""
    children = family(1, 1)
    scene = Scene(children)
    children.learners[0].row["done"] = 1
    age(children.learners[0], UNKILLABLE_S)
    scene.restarts.give_up_unkillable()
    assert not children.learning
    assert scene.failed == []
    assert scene.told == [f"learner 0 {CAUSE}: its work is done"]


def test_a_pause_of_the_supervisor_makes_nobody_unkillable() -> None:
    """The kill may not even have been sent."""
    child = hung(0, None)
    child.end_hung(3600.0)
    assert not child.unkillable


def test_who_is_given_up_is_not_told_to_be_there() -> None:
    """A learner whose turns were long would be waited for, for five of them."""
    children = family(1, 0)
    children._in_lock_step = False
    told: list[bool] = []
    children._control = cast(Any, SimpleNamespace(set_alive=lambda rank, alive: told.append(alive)))
    children.check(0.05)
    assert told == [True]
    children.learners[0].give_up()
    children.check(0.05)
    assert told == [True]


@pytest.mark.parametrize(("role", "ends"), [("learner", True), ("simulator", False)])
def test_a_learner_that_fails_twice_at_the_same_place_ends_the_run(role: str, ends: bool) -> None:
    """The others run the same code; a simulator's game is a matter of its own."""
    restarts = object.__new__(Restarts)
    done: list[str] = []
    for name in ("_set_state", "_fail", "_give_up"):
        setattr(restarts, name, lambda *_, name=name: done.append(name))
    setattr(restarts, "_is_fatal", lambda child: False)  # noqa: B010
    restarts._stopping = lambda: False
    child = SimpleNamespace(role=role, given_up=False, repeats=True, delay_s=lambda failure: None)
    restarts._handle_failure(
        cast(Child, child), ChildFailure(f"{role} 0", "raised ValueError: x"), ""
    )
    assert done == ["_set_state", "_fail" if ends else "_give_up"]


def test_who_cannot_be_started_is_lost_before_all_are_called_back() -> None:
    """In lock-step nobody may be left then: without going back at once, the run would be over."""
    restarts = object.__new__(Restarts)
    done: list[str] = []
    for name in ("_handle_failure", "finish_rollback"):
        setattr(restarts, name, lambda *_, name=name: done.append(name))
    lost = Ended(cast(Child, None), ChildFailure("learner 0", "could not be started"))
    due = SimpleNamespace(start_due=lambda now_s, postpone: [lost])
    restarts._children = cast(Children, due)
    supervisor = object.__new__(Supervisor)
    supervisor._restarts = restarts
    supervisor._restart()
    assert done == ["_handle_failure", "finish_rollback"]


@pytest.mark.parametrize("how", ["reap", "start_due"])
def test_who_fails_together_with_the_failure_that_ends_the_run_is_not_restarted(how: str) -> None:
    """Nor given up, nor waited for: the run saves and ends."""
    stopped: list[ChildFailure] = []
    rows = [SimpleNamespace(state=WorkerState.RUNNING) for _ in range(3)]
    found = [
        SimpleNamespace(
            role="learner", rank=rank, title=f"learner {rank}", has_worked=rank > 0, due_s=None,
            given_up=False, repeats=False, delay_s=lambda failure, delay_s=delay_s: delay_s,
        )
        for rank, delay_s in enumerate([0.0, 0.0, None])
    ]  # fmt: skip
    ended = [
        Ended(cast(Child, child), ChildFailure(child.title, f"raised ValueError: {child.rank}"))
        for child in found
    ]
    of_all = SimpleNamespace(
        reap=lambda: ended, start_due=lambda now_s, postpone: ended,
        look_for_orphans=lambda now_s: None, bridge=None,
    )  # fmt: skip
    resources = SimpleNamespace(max_restarts=10)
    gossip = SimpleNamespace(exchanges_in_lock_step=False)
    plan = SimpleNamespace(config=SimpleNamespace(resources=resources, gossip=gossip))
    losses = SimpleNamespace(restarts=0, given_up=[])
    restarts = Restarts(
        cast(Any, SimpleNamespace(plan=plan, states=[], board=None)),
        cast(Children, of_all),
        cast(Any, SimpleNamespace(learners=rows, losses=losses, log_event=pytest.fail)),
        cast(Any, SimpleNamespace(exclude=pytest.fail)),
        fail=stopped.append,
        stopping=lambda: bool(stopped),
    )
    if how == "reap":
        restarts.reap()
    else:
        restarts.start_due(lambda: False)
    assert stopped == [ended[0].failure]
    assert [row.state for row in rows] == [WorkerState.FAILED] * 3
    assert (losses.restarts, losses.given_up) == (0, [])
    assert all(child.due_s is None for child in found)


def lose(children: Children, lost: dict[Child, float | None], how: str) -> list[Ended]:
    """Let these end at once, or not be started; the restart policy says when they are due."""
    for child in children.all:
        child._process = cast(Any, Immortal())  # it runs
    for child, delay_s in lost.items():
        child._process = None
        setattr(child, "delay_s", lambda failure, delay_s=delay_s: delay_s)  # noqa: B010
    ended = [Ended(child, ChildFailure(child.title, "was ended by SIGKILL")) for child in lost]
    setattr(children, how, lambda *_: ended)
    setattr(children, "look_for_orphans", lambda now_s: None)  # noqa: B010
    return ended


def handle(scene: Scene, how: str) -> None:
    if how == "reap":
        scene.restarts.reap()
    else:
        scene.restarts.start_due(lambda: False)


@pytest.mark.parametrize("how", ["reap", "start_due"])
@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("role", ["learner", "simulator"])
def test_one_that_is_given_up_takes_nobody_along_that_is_restarted(
    role: str, first: int, how: str
) -> None:
    """Of several that end at once: those that are handled later are yet to be scheduled."""
    children = family(2, 1) if role == "learner" else family(1, 2)
    abandoned, restarted = children.learners if role == "learner" else children.simulators
    delays: list[tuple[Child, float | None]] = [(abandoned, None), (restarted, 0.0)]
    lose(children, dict([delays[first], delays[1 - first]]), how)
    scene = Scene(children, learners=2)
    handle(scene, how)
    assert scene.failed == []
    assert restarted.due_s is not None
    assert [child.title for child in children.all if child.given_up] == [abandoned.title]


@pytest.mark.parametrize("how", ["reap", "start_due"])
@pytest.mark.parametrize("count", [1, 2])
def test_where_all_are_given_up_at_once_the_run_ends(count: int, how: str) -> None:
    children = family(count, 2)
    ended = lose(children, dict.fromkeys(children.simulators), how)
    scene = Scene(children, learners=count)
    handle(scene, how)
    assert scene.failed == [ended[-1].failure]
    assert all(child.given_up for child in children.learners)


@pytest.mark.parametrize("first", [0, 1])
def test_a_simulator_that_is_given_up_as_all_learners_go_back_ends_no_run(first: int) -> None:
    children = family(2, 2)
    learners: dict[Child, float | None] = dict.fromkeys(children.learners, 0.0)
    abandoned: dict[Child, float | None] = {children.simulators[0]: None}
    lose(children, [learners | abandoned, abandoned | learners][first], "reap")
    scene = Scene(children, learners=2, lock_step=True)
    handle(scene, "reap")
    assert scene.failed == []
    assert [child.title for child in children.all if child.given_up] == ["simulator 0.0"]


def test_a_learner_that_only_hung_at_its_exit_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is killed then; its work is not done once more."""
    monkeypatch.setattr(Child, "running", False)
    for done, failed in ((1, False), (0, True)):
        child = hung(0, None)
        child.row["done"] = done
        monkeypatch.setattr(child, "release", lambda: None)
        children = object.__new__(Children)
        children.learners, children.simulators, children.bridge = [child], [], None
        children._memory_kills = cast(Any, SimpleNamespace(explain=lambda failure, now_s: failure))
        ((_, failure),) = children.reap()
        assert (failure is not None) is failed
