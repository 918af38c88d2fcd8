"""From start to start: where one leads that cannot begin, and what is kept of a graph.

The starts are stand-ins; real ones are in `test_remote.py`.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import MagicMock

import pytest

from galamp.core.config import GossipConfig, ResourceConfig, RunConfig, to_dict
from galamp.core.errors import UserError
from galamp.core.machine.machine import plain_machine
from galamp.storage import run_folder
from galamp.storage.run_folder import RunFolder, StoredChoices
from galamp.supervision.child_failure import ChildFailure
from galamp.training import resolve as resolving
from galamp.training import session as sessions
from galamp.training.resolve import Graph, ResolvedRun, resolve_run
from galamp.training.session import Outcome, PendingScale, Session
from galamp.training.supervisor import RunResult
from tests.storage.test_odd_disks import refusing
from tests.storage.test_run_folder import create
from tests.support.checkpoints import without_waiting_for_the_disk
from tests.support.told import Told
from tests.system.test_foreign_folders import with_two

__all__ = ["without_waiting_for_the_disk"]

FINISHED = RunResult("finished", 0)
STOPPED = RunResult("stopped", 130)
FAILED = RunResult("failed", 70, ChildFailure("learner 1", "could not be started: no room"))
FAILED_AND_STOPPED = RunResult("failed", 70, FAILED.failure, is_stopped=True)


def to(learners: int) -> RunResult:
    return RunResult("rescaled", 0, scale_to=learners)


class Acted(Session):
    """A session whose starts end as they are told to."""

    def __init__(self, *results: RunResult, worked: int = 0, refused: Exception | None = None):
        """Act; in start number `worked` all have worked, the next one is `refused` at first."""
        self.confirmed = 0
        self._pending_scale = PendingScale(self._confirm)
        self._folder = cast(RunFolder, SimpleNamespace(lost=False))
        self._control_server = cast(Any, SimpleNamespace(decline=self._decline))
        self._signals = cast(Any, SimpleNamespace(pending=False))
        self._results, self._worked, self._refused = list(results), worked, refused
        self.begun: list[int] = []
        self.from_what: list[str] = []
        self.told = Told()
        self.declined: list[str] = []

    def _confirm(self) -> None:
        self.confirmed += 1

    def _decline(self, why: str) -> None:
        self.declined.append(why)

    def _resolve_for(self, config: Any, learners: int) -> ResolvedRun:
        return resolved(learners)

    def _prepare(self, resolved: ResolvedRun, resume_point: Any) -> Any:
        learners = len(resolved.plan.learners)
        if self._refused is not None and self.begun:
            refused, self._refused = self._refused, None
            raise refused
        self.begun.append(learners)
        self.from_what.append(resume_point)
        recorder = SimpleNamespace(log_event=self.told.log_event)
        return SimpleNamespace(resolved=resolved, recorder=recorder)

    def _resume_point_of(self, started: Any) -> Any:
        return f"left by {len(started.resolved.plan.learners)}"

    def _supervise(self, started: Any) -> RunResult:
        children = [
            SimpleNamespace(has_worked=True),
            SimpleNamespace(has_worked=len(self.begun) == self._worked),
        ]
        children = SimpleNamespace(all=children)
        self._pending_scale.tick(cast(Any, SimpleNamespace(children=children)))
        return self._results.pop(0)

    def _conclude(self, started: Any, result: RunResult) -> Outcome:
        assert not self._results
        return Outcome(result, {}, Path("run"))

    def act(self, restarts: int = 5) -> RunResult:
        return self.run(resolved(2, restarts), cast(Any, "former")).result


def resolved(learners: int, restarts: int = 5) -> ResolvedRun:
    config = RunConfig(resources=ResourceConfig(max_restarts=restarts))
    plan = SimpleNamespace(learners=range(learners), config=config)
    return ResolvedRun(cast(Any, plan), cast(Any, None))


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without pauses, and without looking for what is free in all that the tests have loaded."""
    monkeypatch.setattr(sessions, "RETRY_EVERY_S", 0.0)
    monkeypatch.setattr(sessions, "gc", MagicMock())


def test_learners_who_were_asked_for_and_cannot_begin_end_no_run() -> None:
    session = Acted(to(5), FAILED, FINISHED)
    assert session.act() is FINISHED
    assert session.begun == [2, 5, 2]
    assert session.from_what == ["former", "left by 2", "left by 2"]
    assert session.declined == [str(FAILED.failure)]
    assert session.told == [f"2 learners as before: {FAILED.failure}"]


@pytest.mark.parametrize("back", [to(3), to(1)])
def test_others_may_be_asked_for_afterwards(back: RunResult) -> None:
    session = Acted(to(5), FAILED, back, STOPPED)
    assert session.act() is STOPPED
    assert session.begun == [2, 5, 2, back.scale_to]


@pytest.mark.parametrize(
    ("results", "worked", "begun"),
    [
        ([FAILED], 0, [2]),  # there is nothing to go back to
        ([to(5), FAILED], 2, [2, 5]),  # all of them have worked
        ([to(5), FAILED, FAILED], 0, [2, 5, 2]),  # what ran before fails, too
        ([to(5), FAILED_AND_STOPPED], 0, [2, 5]),  # nobody wants it to go on
        ([to(5), STOPPED], 0, [2, 5]),
    ],
)
def test_where_going_back_is_no_cure_the_run_ends(
    results: list[RunResult], worked: int, begun: list[int]
) -> None:
    session = Acted(*results, worked=worked)
    assert session.act() is results[-1]
    assert session.begun == begun


def test_a_folder_that_is_lost_is_no_reason_to_go_back() -> None:
    session = Acted(to(5), FAILED)
    session._folder.lost = True
    assert session.act() is FAILED


def test_who_wants_no_restarts_wants_no_other_start_either() -> None:
    assert Acted(to(5), FAILED).act(restarts=0) is FAILED


@pytest.mark.parametrize(
    "refused", [UserError("no memory"), OSError(errno.EMFILE, "Too many open files")]
)
def test_what_cannot_even_be_laid_out_leads_back(refused: Exception) -> None:
    session = Acted(to(5), FINISHED, refused=refused)
    assert session.act() is FINISHED
    assert session.begun == [2, 2]
    assert session.declined == [str(refused)]


def test_what_is_gone_back_to_is_forgotten_once_all_have_worked() -> None:
    confirmed: list[bool] = []
    pending_scale = PendingScale(lambda: confirmed.append(True))
    children = [SimpleNamespace(has_worked=False) for _ in range(3)]
    supervisor = cast(Any, SimpleNamespace(children=SimpleNamespace(all=children)))
    pending_scale.tick(supervisor)
    pending_scale.previous = cast(Any, ("resolved", "resume point"))
    for child in children:
        pending_scale.tick(supervisor)
        assert pending_scale.previous is not None
        assert not confirmed, "who asked is told nothing that may yet be undone"
        child.has_worked = True
    for _ in range(2):
        pending_scale.tick(supervisor)
    assert pending_scale.previous is None
    assert confirmed == [True]


# The gossip graph

RING, OTHER = "0 1\n1 0\n", "0.5 0.5\n0.5 0.5\n"


def from_file(path: Path) -> ResolvedRun:
    config = with_two(RunConfig(gossip=GossipConfig(topology=f"file:{path}")))
    return resolve_run(config, plain_machine(range(2), 0, 2**20), StoredChoices())


def test_a_graph_is_held_as_it_was_read(tmp_path: Path) -> None:
    path = tmp_path / "graph.txt"
    path.write_text(RING)
    found = from_file(path)
    path.write_text(OTHER)
    assert found.graph == Graph(path, RING.encode())


def changing(path: Path, after: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the file changed after so many readings of it."""
    make, read = resolving.make_topology, resolving.read_limited
    readings: list[str] = []

    def note(what: str, action: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        found = action(*arguments, **named)
        readings.append(what)
        if len(readings) == after:
            path.write_text(OTHER)
        return found

    monkeypatch.setattr(resolving, "make_topology", lambda *a, **n: note("made", make, *a, **n))
    monkeypatch.setattr(resolving, "read_limited", lambda *a: note("read", read, *a))


@pytest.mark.parametrize("after", [1, 2])
def test_a_graph_that_changes_while_it_is_read_is_refused(
    tmp_path: Path, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "graph.txt"
    path.write_text(RING)
    changing(path, after, monkeypatch)
    with pytest.raises(UserError, match=r"graph\.txt: it was changed while it was read"):
        from_file(path)


def stored(folder: RunFolder) -> dict[str, bytes]:
    """What lies in a run folder, by name."""
    files = (path for path in folder.path.iterdir() if path.is_file() and path.name != "lock")
    return {path.name: path.read_bytes() for path in files}


def begun(root: Path) -> RunFolder:
    """A run of a former graph that is gone on with."""
    folder = create(root, root / "run")
    assert not folder.write_config(to_dict(RunConfig(seed=1)), RING.encode())
    folder.close()
    return RunFolder.open(folder.path)


@pytest.mark.parametrize("name", ["config.json", "topology.txt"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_config_and_graph_are_replaced_together_or_not_at_all(
    tmp_path: Path, name: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = begun(tmp_path)
    before = stored(folder)
    with monkeypatch.context() as patch:
        which = "replace_json" if name == "config.json" else "replacing"
        patch.setattr(run_folder, which, refusing(number))
        with pytest.raises(UserError, match=f"cannot write .*{name}: {os.strerror(number)}"):
            folder.write_config(to_dict(RunConfig(seed=2)), OTHER.encode())
    assert stored(folder) == before
    assert folder.write_config(to_dict(RunConfig(seed=2)), OTHER.encode())
    assert stored(folder)["topology.txt"] == OTHER.encode()
    assert folder.read_config()["seed"] == 2
    folder.close()


@pytest.mark.parametrize("writes", range(4))
def test_a_disk_that_is_full_at_any_write_keeps_them_together(
    tmp_path: Path, writes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = begun(tmp_path)
    before, write, left = stored(folder), os.write, [writes]

    def full(file: int, data: Any) -> int:
        if not left[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        left[0] -= 1
        return write(file, data)

    refused = False
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        try:
            folder.write_config(to_dict(RunConfig(seed=2)), OTHER.encode())
        except UserError:
            refused = True
    assert refused == (writes < 2)
    assert (stored(folder) == before) == refused
    assert (folder.read_config()["seed"], stored(folder)["topology.txt"] == OTHER.encode()) == (
        (1, False) if refused else (2, True)
    )
    folder.close()


def test_a_new_run_that_is_refused_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = create(tmp_path, tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(run_folder, "replace_json", refusing(errno.ENOSPC))
        with pytest.raises(UserError):
            folder.write_config({}, RING.encode())
    folder.close()
    assert not folder.path.exists()


def test_the_same_graph_is_not_written_again(tmp_path: Path) -> None:
    folder = begun(tmp_path)
    number = os.stat(folder.path / "topology.txt").st_ino
    assert not folder.write_config({}, RING.encode())
    assert not folder.write_config({})
    assert os.stat(folder.path / "topology.txt").st_ino == number
    folder.close()


@pytest.mark.parametrize("has_begun", [False, True])
@pytest.mark.parametrize("refused", [False, True])
def test_a_graph_is_kept_at_the_first_start_and_told_where_it_changed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    *,
    has_begun: bool,
    refused: bool,
) -> None:
    folder, told = begun(tmp_path), Told()
    session = object.__new__(Session)
    session._folder, session._has_started = folder, has_begun
    session._context = cast(Any, SimpleNamespace(machine=None))
    monkeypatch.setattr(sessions, "stored_config", lambda plan, run_layout: {"seed": 9})
    if refused:
        monkeypatch.setattr(run_folder, "replace_json", refusing(errno.ENOSPC))
    new = ResolvedRun(
        cast(Any, None), cast(Any, None), Graph(Path("/graphs/x.txt"), OTHER.encode())
    )
    arguments = (new, cast(Any, None), cast(Any, SimpleNamespace(log_event=told.log_event)))
    if refused and not has_begun:
        with pytest.raises(UserError, match="No space left"):
            session._store(*arguments)
        assert not session._has_started
    else:
        session._store(*arguments)
        assert session._has_started
    kept = not (has_begun or refused)
    assert (stored(folder)["topology.txt"] == OTHER.encode()) == kept
    assert told == (["gossip graph: another one than before, from /graphs/x.txt"] if kept else [])
    warned = "it still describes the previous start" in capsys.readouterr().err
    assert warned == (has_begun and refused)
    folder.close()


def test_an_attempt_that_cannot_be_created_closes_its_sinks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[str] = []

    def refuse(*_: object) -> None:
        raise UserError("no room")

    session = object.__new__(Session)
    session._folder = cast(Any, MagicMock(metrics=tmp_path / "metrics.jsonl"))
    session._has_started = False
    session._context, session._attempts = MagicMock(), 0
    monkeypatch.setattr(sessions, "RunLayout", MagicMock())
    sinks = SimpleNamespace(close=lambda: closed.append("sinks"))
    monkeypatch.setattr(session, "_open_sinks", lambda *_: sinks)
    monkeypatch.setattr(session, "_create", refuse)
    with pytest.raises(UserError, match="no room"):
        session._prepare(resolved(2), None)
    assert closed == ["sinks"]
