"""Nobody waits for the server in vain, and signals are heard meanwhile."""

from __future__ import annotations

import errno
import multiprocessing.forkserver
import multiprocessing.process
import os
import resource
import signal
import struct
import subprocess
import sys
import tempfile
import threading
from multiprocessing import util
from multiprocessing.forkserver import read_signed
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest import mock

import pytest

from galamp.core.errors import UserError
from galamp.supervision import launching
from galamp.supervision.child import Child
from galamp.supervision.children import Children
from galamp.supervision.launching import (
    AwakeTimeout,
    ForkedProcess,
    Launch,
    Readiness,
    ServerFailed,
    StartPostponed,
    standard_children,
)
from galamp.workers import forkserver
from galamp.workers.forkserver import (
    FOLDER,
    _enable_sigchld,
    ensure_server,
    fork_server,
    server_pid,
)
from tests.support.engine import DEADLINE_S, ROOT, wait_for

SIGNED = struct.Struct("q")


class Server:
    """Stands for a server: what it was asked, and the ends of the pipes that a child has."""

    def __init__(self) -> None:
        self.sent: list[int] = []
        self.answer, self.task = -1, -1
        self.forked: int | None = None
        """The child that it forks at once; None: it does not answer."""

    def connect(self, fds: list[int]) -> tuple[int, int]:
        from_child, self.answer = os.pipe()
        self.task, to_child = os.pipe()
        if self.forked is not None:
            self.reply(self.forked)
        return from_child, to_child

    def reply(self, number: int) -> None:
        os.write(self.answer, SIGNED.pack(number))

    def close(self) -> None:
        os.close(self.answer)
        os.close(self.task)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    server = Server()
    handle = SimpleNamespace(connect_to_new_process=server.connect)
    monkeypatch.setattr(launching, "fork_server", lambda: handle)
    monkeypatch.setattr(launching, "wake_server", lambda: server.sent.append(signal.SIGCONT))
    monkeypatch.setattr(launching, "send_server", server.sent.append)
    monkeypatch.setattr(launching, "POLL_S", 0.001)
    return server


def child(postpone: Any = lambda: False, task: bytes = b"") -> ForkedProcess:
    process = ForkedProcess(target=print, args=(task,))
    process.postpone = postpone
    return process


def after(polls: int) -> Any:
    """Something else is to be seen to after so many polls."""
    left = iter([False] * polls)
    return lambda: next(left, True)


def test_a_signal_is_heard_while_the_server_does_not_answer(server: Server) -> None:
    with pytest.raises(StartPostponed):
        child(after(3)).start()
    assert server.sent == [signal.SIGCONT] * 4, "it may have been stopped"
    assert os.read(server.task, 1) == b"", "a child that comes up later gets no task"
    server.close()


def test_a_signal_is_heard_while_a_child_does_not_take_its_task(server: Server) -> None:
    ended: list[int] = []
    process = child(after(3), b"x" * 10**6)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launching, "server_pid", lambda: 1)
        patch.setattr(launching, "end_child", lambda pid, parent: ended.append(pid))
        server.forked = 4711
        with pytest.raises(StartPostponed):
            process.start()
    assert ended == [4711]
    server.close()


def test_nobody_waits_for_a_child_when_python_ends(server: Server) -> None:
    """The standard library would, without limit: for one that a disk holds as for any other."""
    server.forked = 4711
    process = child()
    process.start()
    assert process not in multiprocessing.process._children  # type: ignore[attr-defined]
    assert process.is_alive()
    server.close()


def test_the_command_line_waits_for_nobody_whom_the_kernel_cannot_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    left: list[int] = []
    monkeypatch.setattr(os, "_exit", left.append)
    forkserver.exit_if_children_remain(7)
    assert left == []
    monkeypatch.setattr(forkserver, "left_behind", {4711, 42})
    forkserver.exit_if_children_remain(7)
    assert left == [7]
    expected = "galamp: warning: could not be ended, and are left behind: 42, 4711\n"
    assert capsys.readouterr().err == expected


def test_the_server_of_a_program_around_is_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its server is neither killed nor asked, and what that has forked is nobody's orphan."""
    host = multiprocessing.forkserver._forkserver  # type: ignore[attr-defined]
    started: list[Any] = []
    monkeypatch.setattr(type(host), "ensure_running", lambda handle: started.append(handle))
    monkeypatch.setattr(host, "_forkserver_pid", 4711)
    monkeypatch.setattr(host, "_preload_modules", ["theirs"])
    monkeypatch.setenv(FOLDER, str(tmp_path / "tidied"))
    ensure_server()
    assert started == [fork_server()]
    assert started != [host]
    assert host._preload_modules == ["theirs"]
    assert 4711 not in {server_pid(), *standard_children()}
    assert (tmp_path / "tidied").is_dir(), "whatever tidies /tmp may have removed it"


def test_a_process_forked_by_one_that_has_trained_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It would wait for, and send signals to, a server that is its parent's."""
    monkeypatch.setattr(fork_server(), "_forkserver_pid", 4711)
    monkeypatch.setattr(forkserver, "_owners", [os.getppid()])
    monkeypatch.setattr(forkserver, "ensure_server", lambda: pytest.fail("it was asked"))
    with pytest.raises(UserError, match=r"fork of one that has trained.*spawn"):
        forkserver.start_server()


@pytest.fixture
def without_a_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[dict[str, str]]:
    """Have a server started without one: the environment that it would get is noted."""
    started: list[dict[str, str]] = []

    def start() -> None:
        fork_server()._forkserver_pid = 4711
        started.append(dict(os.environ))

    monkeypatch.setattr(fork_server(), "_forkserver_pid", None)
    monkeypatch.setattr(forkserver, "_owners", [])
    monkeypatch.setattr(forkserver, "ensure_server", start)
    monkeypatch.setattr(forkserver, "is_findable", lambda: True)
    monkeypatch.setattr(util, "get_temp_dir", lambda: str(tmp_path))
    for name in ("settle_libraries", "_enable_sigchld"):
        monkeypatch.setattr(forkserver, name, lambda: None)
    return started


@pytest.mark.parametrize("clear", [False, True])
def test_a_program_may_put_its_environment_back_between_two_trainings(
    without_a_start: list[dict[str, str]], *, clear: bool
) -> None:
    for _ in range(2):
        with mock.patch.dict(os.environ, clear=clear):
            forkserver.start_server()
    for environment in without_a_start:
        assert environment[forkserver.SUPERVISOR] == str(os.getpid())
        assert FOLDER in environment
    assert len(without_a_start) == 2


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_a_process_that_was_really_forked_by_one_that_has_trained_is_refused(
    without_a_start: list[dict[str, str]],
) -> None:
    forkserver.start_server()
    child = os.fork()
    if not child:
        code = 1
        try:
            forkserver.start_server()
        except UserError:
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    forkserver.start_server()


# Open files of the server: one for every child

INFINITE = resource.RLIM_INFINITY


@pytest.mark.parametrize(
    ("given", "servers", "childs"),
    [
        ((64, 4096), 4096, 1024),
        ((1024, 2**20), 2**16, 1024),
        ((4096, 2**20), 2**16, 4096),
        ((256, 512), 512, 512),
        ((1024, INFINITE), 2**16, 1024),
        ((1024, 1024), 1024, 1024),
        ((2**17, 2**20), 2**17, 2**17),
        ((INFINITE, INFINITE), INFINITE, INFINITE),
    ],
)
def test_the_server_has_room_for_all_children_and_these_have_what_they_know(
    given: tuple[int, int], servers: int, childs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = [given]
    monkeypatch.setattr(resource, "getrlimit", lambda kind: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda kind, pair: limits.append(pair))
    monkeypatch.setattr(forkserver, "_raised_from", [])
    forkserver.raise_file_limit()
    assert limits[-1] == (servers, given[1])
    forkserver.restore_file_limit()
    assert limits[-1] == (childs, given[1])


MANY = """
import multiprocessing.forkserver, os, resource, signal
from multiprocessing.forkserver import read_signed
least, hard = 32, resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (least, hard))
server = multiprocessing.forkserver.ForkServer()
server.set_forkserver_preload(["tests.support.roomy"])
server.ensure_running()
resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))  # as `plan` does, a moment later
held = [server.connect_to_new_process([]) for _ in range(least + 8)]
pids = [read_signed(answer) for answer, _ in held]
print(len(set(pids)), min(pids) > 0)
for answer, task in held:
    os.close(task)
for answer, _ in held:
    read_signed(answer)
"""


@pytest.mark.real
def test_a_server_that_was_started_under_a_low_limit_has_more_children() -> None:
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", MANY],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        text=True,
        capture_output=True,
        timeout=DEADLINE_S,
    )
    assert ended.stdout == "40 True\n", ended.stderr


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.ENOMEM])
def test_a_fork_that_fails_is_told_as_such(server: Server, number: int) -> None:
    server.forked = -number
    with pytest.raises(ServerFailed, match=f"no room for another process .{os.strerror(number)}"):
        child().start()
    server.close()


@pytest.mark.real
def test_a_server_outlives_a_fork_that_fails() -> None:
    """The standard library's, without galamp's heavy modules; its third fork is the first to do."""
    server = multiprocessing.forkserver.ForkServer()
    server.set_forkserver_preload(["tests.support.full_machine"])
    answers, tasks = [], []
    try:
        for _ in range(3):
            answer, task = server.connect_to_new_process([])
            tasks.append(task)
            answers.append(read_signed(answer))
            if answers[-1] < 0:
                assert os.read(answer, 1) == b"", "the request's files are closed"
            os.close(answer)
    finally:
        for task in tasks:
            os.close(task)
        server._stop()
    assert answers[:2] == [-errno.EAGAIN, -errno.ENOMEM]
    assert answers[2] > 0


def test_signals_reach_who_waits_for_the_server(server: Server) -> None:
    """They are not held back: the third one ends everything on the spot."""
    masks: list[set[int]] = []

    def postpone() -> bool:
        masks.append(set(signal.pthread_sigmask(signal.SIG_BLOCK, ())))
        return True

    with pytest.raises(StartPostponed):
        child(postpone).start()
    assert masks == [set()]
    server.close()


def test_a_server_that_never_answers_is_given_up(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launching, "ANSWER_TIMEOUT_S", 0.01)
    with pytest.raises(ServerFailed, match=r"has not answered within 0\.01 s"):
        child().start()
    assert server.sent[-1] == signal.SIGKILL
    server.close()


def test_a_server_that_ends_meanwhile_is_an_error(server: Server) -> None:
    def end() -> None:
        wait_for(lambda: server.answer >= 0, "the request")
        os.close(server.answer)

    ending = threading.Thread(target=end, daemon=True)
    ending.start()
    with pytest.raises(EOFError):
        child().start()
    ending.join()
    os.close(server.task)


@pytest.mark.parametrize("size", [10, 2**18])
def test_a_child_gets_its_whole_task(server: Server, size: int) -> None:
    process, taken = child(task=b"x" * size), bytearray()

    def live() -> None:
        wait_for(lambda: server.task >= 0, "the task")
        while b"x" * size not in taken:
            taken.extend(os.read(server.task, 65_536))

    server.forked = 4711
    living = threading.Thread(target=live, daemon=True)
    living.start()
    process.start()
    living.join(DEADLINE_S)
    assert process.pid == 4711
    assert b"x" * size in taken
    server.reply(0)
    process.join()
    assert process.exitcode == 0
    server.close()


@pytest.mark.parametrize("lost", [True, False])
def test_a_servers_end_is_told_from_a_childs_exit_code_255(server: Server, lost: bool) -> None:
    launch = object.__new__(Launch)
    launch.returncode, launch.server_lost = None, False
    launch.sentinel, _ = server.connect([])
    assert launch.poll() is None
    if not lost:
        server.reply(255)
    os.close(server.answer)
    assert launch.poll() == 255
    assert launch.server_lost is lost


def test_who_has_ended_gets_no_signal(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its process id may be somebody else's."""
    launch = object.__new__(Launch)
    launch.returncode, launch.pid = None, os.getpid()
    launch.sentinel, _ = server.connect([])
    server.reply(0)
    launch._send_signal(signal.SIGKILL)
    server.close()


def test_time_in_which_all_are_paused_is_no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = [100.0]
    monkeypatch.setattr(launching.time, "monotonic", lambda: now_s[0])
    timeout = AwakeTimeout(1.0)
    now_s[0] += 3600.0
    assert not timeout.expired()
    for _ in range(20):
        now_s[0] += 0.1
        late = timeout.expired()
    assert late


class Servers:
    """Stands for the standard library's: servers of ids 1, 2, ..., and how each has ended."""

    def __init__(self) -> None:
        self.pid, self.endings, self.sent = 1, {}, cast(list[int], [])
        self.endings: dict[int, str] = {}

    def replace(self) -> None:
        if self.pid in self.endings:
            self.pid += 1


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Servers:
    servers = Servers()
    monkeypatch.setattr(launching, "server_pid", lambda: servers.pid)
    monkeypatch.setattr(launching, "_ending", servers.endings.get)
    monkeypatch.setattr(launching, "wake_server", lambda: servers.sent.append(signal.SIGCONT))
    monkeypatch.setattr(launching, "send_server", servers.sent.append)
    monkeypatch.setattr(launching, "loaded_file", lambda pid: tmp_path / f"loaded-{pid}")
    monkeypatch.setattr(launching, "ensure_server", servers.replace)
    return servers


def test_a_server_that_loads_is_not_waited_for_but_asked_again(
    servers: Servers, tmp_path: Path
) -> None:
    readiness = Readiness()
    assert not readiness.awaited
    assert [readiness.poll() for _ in range(3)] == [False] * 3
    assert readiness.awaited
    assert signal.SIGCONT in servers.sent, "somebody may have stopped it"
    assert not readiness.loaded(1)
    (tmp_path / "loaded-1").touch()
    assert readiness.poll()
    assert not readiness.awaited
    assert readiness.loaded(1)
    assert not readiness.loaded(None)


def test_a_killed_server_has_a_successor_that_loads(servers: Servers, tmp_path: Path) -> None:
    readiness = Readiness()
    (tmp_path / "loaded-1").touch()
    assert readiness.poll()
    servers.endings[1] = "was ended by SIGKILL"
    assert not readiness.poll()
    assert servers.pid == 2
    (tmp_path / "loaded-2").touch()
    assert readiness.poll()


def test_a_server_that_cannot_load_says_why(servers: Servers, tmp_path: Path) -> None:
    (tmp_path / "loaded-1").write_text("ModuleNotFoundError: No module named 'ale_py'")
    with pytest.raises(ServerFailed, match="could not load: ModuleNotFoundError: No module"):
        Readiness().poll()
    assert servers.sent[-1] == signal.SIGKILL, "the next one may load"


def test_servers_that_end_while_they_load_are_a_failure(servers: Servers) -> None:
    readiness = Readiness()
    assert not readiness.poll()
    servers.endings[1] = "was ended by SIGKILL"
    assert not readiness.poll(), "somebody may have killed one"
    servers.endings[2] = "ended with exit code 1"
    with pytest.raises(ServerFailed, match="ended with exit code 1 while it loaded"):
        readiness.poll()
    assert not readiness.poll(), "later incarnations may find another one"


def test_a_server_that_never_loads_is_given_up(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launching, "LOAD_TIMEOUT_S", -1.0)
    with pytest.raises(ServerFailed, match="has not loaded within"):
        Readiness().poll()
    assert servers.sent[-1] == signal.SIGKILL


class DueChild:
    """Stands for a child whose next incarnation is due."""

    def __init__(self, title: str, failing: Exception | None = None) -> None:
        self.title, self.due_s, self.failing = title, cast(float | None, 0.0), failing
        self.released = self.started = 0

    def start(self, postpone: Any) -> None:
        self.due_s = None
        if self.failing is not None:
            raise self.failing
        self.started += 1

    def release(self) -> None:
        self.released += 1

    def mark_dead(self) -> None:
        pass


def children(poll: Any, *due: DueChild) -> Children:
    children = object.__new__(Children)
    children._server = cast(Readiness, SimpleNamespace(poll=poll))
    children.learners, children.simulators = cast(list[Child], list(due)), []
    return children


def never() -> bool:
    return False


def test_nobody_is_started_before_the_server_has_loaded() -> None:
    place = DueChild("learner 0")
    assert children(lambda: False, place).start_due(1.0, never) == []
    assert (place.due_s, place.started) == (0.0, 0)
    assert children(lambda: True, place).start_due(1.0, never) == []
    assert place.started == 1


@pytest.mark.parametrize(
    "error", [ServerFailed("no server"), BlockingIOError(11, "no process"), EOFError("gone")]
)
def test_who_cannot_be_started_is_told(error: Exception) -> None:
    def poll() -> bool:
        if isinstance(error, ServerFailed):
            raise error
        return True

    places = [DueChild("learner 0", error), DueChild("learner 1", error)]
    failed = children(poll, *places).start_due(1.0, never)
    assert [str(each.failure) for each in failed] == [
        f"{place.title} could not be started: {error}" for place in places
    ]
    assert [(place.due_s, place.released) for place in places] == [(None, 1)] * 2


def test_who_was_not_started_for_a_signals_sake_stays_due() -> None:
    places = [DueChild("learner 0"), DueChild("learner 1", StartPostponed()), DueChild("learner 2")]
    assert children(lambda: True, *places).start_due(1.0, never) == []
    assert [place.started for place in places] == [1, 0, 0]
    assert [place.due_s for place in places] == [None, 1.0, 0.0]
    assert places[1].released == 0


def test_children_are_heard_of_even_if_somebody_ignores_their_ends() -> None:
    resume_point = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        _enable_sigchld()
        assert signal.getsignal(signal.SIGCHLD) is signal.SIG_DFL
        signal.signal(signal.SIGCHLD, print)
        _enable_sigchld()
        assert signal.getsignal(signal.SIGCHLD) is print, "somebody else's handler"
    finally:
        signal.signal(signal.SIGCHLD, resume_point)


@pytest.mark.parametrize("why", ["none is usable", "/tmp is none"])
def test_without_a_folder_for_temporary_files_nothing_starts(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    why: str,
) -> None:
    """As in a container whose disk is read-only."""

    def refuse(*_: object, **__: object) -> str:
        raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp']")

    def started(*_: object) -> None:
        raise AssertionError("a process was started")

    if why == "none is usable":
        monkeypatch.setattr(tempfile, "gettempdir", refuse)
    else:
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / ("long" * 20)))
        monkeypatch.setattr(util, "get_temp_dir", refuse)
    for name in ("settle_libraries", "_enable_sigchld"):
        monkeypatch.setattr(forkserver, name, lambda: None)
    monkeypatch.setattr(forkserver, "ensure_server", started)
    for name in ("SUPERVISOR", "SERVER", "FOLDER"):
        monkeypatch.setenv(getattr(forkserver, name), "")
    before = tempfile.tempdir
    with pytest.raises(UserError, match=r"^no folder for temporary files \(No usable .*set TMPDIR"):
        forkserver.start_server()
    assert tempfile.tempdir == before
