"""Runs that cannot be talked to: elsewhere, without a socket, stopped, slow, or over."""

from __future__ import annotations

import errno
import fcntl
import os
import platform
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from galamp.cli import control_client as calling
from galamp.cli import scale
from galamp.cli.control_client import ControlClient
from galamp.cli.main import main
from galamp.core.errors import UserError
from galamp.storage.locks import MAX_BYTES, owner_in
from galamp.storage.run_folder import RunFolder
from galamp.storage.run_status import NotRunningError, not_running
from galamp.training.control.framing import CONTROL
from galamp.training.control.server import ControlServer
from tests.storage.test_run_folder import create

SINCE = "since 2026-01-02 11:00:00"
ELSEWHERE = f"process 4711 on elsewhere {SINCE}"
KILLED = "not running, it ended without a word: killed"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """What a run has left that is no more."""
    folder = create(tmp_path, tmp_path / "run")
    folder.write_config({})
    folder.close()
    return folder.path


@pytest.fixture
def living(run: Path) -> Iterator[RunFolder]:
    """A run's folder, held by this process."""
    folder = RunFolder.open(run)
    yield folder
    folder.close()


def leave_socket(run: Path) -> None:
    """What a killed run leaves, and what a run on another machine looks like: nobody listens."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stale:
        stale.bind(str(run / CONTROL))


def said(run: Path) -> str:
    """What a connection is answered."""
    with pytest.raises(NotRunningError) as caught:
        ControlClient(run)
    text = str(caught.value)
    assert "\n" not in text
    return text


def complaint(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    assert main([*map(str, words)]) == 2
    captured = capsys.readouterr()
    assert (captured.out, captured.err.count("\n")) == ("", 1)
    return captured.err


# Where it may yet run


@pytest.mark.parametrize("with_socket", [True, False])
@pytest.mark.parametrize("start", ["", ", start 0123456789abcdef"])
def test_a_run_of_another_machine_is_not_called_killed(
    run: Path, capsys: pytest.CaptureFixture[str], with_socket: bool, start: str
) -> None:
    (run / "lock").write_text(f"{ELSEWHERE}{start}\n")
    if with_socket:
        leave_socket(run)
    expected = f"{run}: runs, or was killed, as {ELSEWHERE}: use galamp attach or scale on that"
    assert said(run).startswith(expected)
    assert expected in complaint(capsys, "scale", run, "--learners", 2)
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert expected in complaint(capsys, "attach", run)
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("with_socket", [True, False])
def test_a_living_run_without_a_socket_is_not_called_killed(
    living: RunFolder, with_socket: bool
) -> None:
    if with_socket:  # of a start before it
        leave_socket(living.path)
    told = said(living.path)
    assert told.startswith(f"{living.path}: runs as process {os.getpid()} on {platform.node()} ")
    assert "has no socket there to be reached by: this disk can have none" in told
    living.close()
    assert KILLED in said(living.path)


@pytest.mark.real
def test_a_number_that_came_again_is_not_the_runs(run: Path) -> None:
    child = subprocess.Popen(["sleep", "60"])
    try:
        for pid in (os.getpid(), child.pid, 999_999_999):
            (run / "lock").write_text(f"process {pid} on {platform.node()} {SINCE}\n")
            owner = owner_in(run)
            assert owner is not None
            assert (owner.here, owner.lives) == (True, False)
            assert KILLED in said(run)
    finally:
        child.kill()
        child.wait()


@pytest.mark.parametrize("code", [errno.EACCES, errno.EPERM])
def test_of_another_users_process_it_is_known_that_it_lives(
    run: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    (run / "lock").write_text(f"process 4711 on {platform.node()} {SINCE}\n")

    def refuse(path: str) -> None:
        raise OSError(code, os.strerror(code), path)

    monkeypatch.setattr(os, "listdir", refuse)
    assert "runs as process 4711" in said(run)


@pytest.mark.parametrize(
    "text",
    ["", "\x1b[2J", f"process 4711 {SINCE}", f"{ELSEWHERE}\n{ELSEWHERE}", "x" * 10**6, "\udcff"],
)
def test_a_lock_that_names_nobody_tells_nothing(run: Path, text: str) -> None:
    (run / "lock").write_bytes(text.encode(errors="surrogateescape"))
    assert owner_in(run) is None
    assert KILLED in said(run)


@pytest.mark.parametrize("what", ["link", "pipe", "folder", "missing", "giant"])
def test_only_the_beginning_of_a_plain_file_is_read(run: Path, what: str) -> None:
    lock = run / "lock"
    (run.parent / "other").write_text(f"{ELSEWHERE}\n")
    lock.unlink(missing_ok=True)
    if what == "link":
        lock.symlink_to(run.parent / "other")
    elif what == "pipe":
        os.mkfifo(lock)
    elif what == "folder":
        lock.mkdir()
    elif what == "giant":
        lock.write_text(f"process 4711 on {'e' * MAX_BYTES} {SINCE}\n")
        os.truncate(lock, 2**40)
    assert owner_in(run) is None
    assert KILLED in said(run)


def test_looking_takes_no_lock(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (run / "lock").write_text(f"{ELSEWHERE}\n")

    def taken(*arguments: Any) -> None:
        raise AssertionError("a lock is taken")

    monkeypatch.setattr(fcntl, "flock", taken)
    before = sorted(run.iterdir())
    open_files = len(os.listdir("/proc/self/fd"))
    not_running(run)
    assert len(os.listdir("/proc/self/fd")) == open_files
    assert (run / "lock").read_text() == f"{ELSEWHERE}\n"
    assert sorted(run.iterdir()) == before


# Where `control` is no socket


@pytest.mark.parametrize("what", ["link", "link of a file", "lost link", "file", "pipe", "folder"])
def test_nobody_is_talked_to_but_a_socket_of_the_run(run: Path, tmp_path: Path, what: str) -> None:
    other, control = tmp_path / "other", run / CONTROL
    other.mkdir()
    complaints: list[str] = []
    with ControlServer(other, complaints.append) as control_server:
        if what == "link":
            control.symlink_to(other / CONTROL)
        elif what == "link of a file":
            control.symlink_to(run / "config.json")
        elif what == "lost link":
            control.symlink_to("nowhere")
        elif what == "file":
            control.write_text("mine")
        else:
            os.mkfifo(control) if what == "pipe" else control.mkdir()
        open_files = len(os.listdir("/proc/self/fd"))
        with pytest.raises(UserError) as caught:
            ControlClient(run)
        assert len(os.listdir("/proc/self/fd")) == open_files
        control_server.poll()
        assert control_server._connections == {}
        with ControlClient(other):  # that one is spoken to by its own name
            control_server.poll()
            assert len(control_server._connections) == 1
    kind = "a link" if "link" in what else "no socket"
    assert str(caught.value).startswith(f"{control}: is {kind}, where a run has its socket")
    assert "\n" not in str(caught.value)


# A change that takes long


@contextmanager
def answering(
    run: Path, then: Callable[[ControlServer], object] = lambda control_server: None
) -> Iterator[ControlServer]:
    """A run of two learners that hears visitors, as its supervisor does, and does `then`."""
    over = threading.Event()

    def serve() -> None:
        while not over.wait(0.01):
            control_server.poll()
            then(control_server)

    with ControlServer(run, print) as control_server:
        control_server.configure(2, lambda wanted: None)
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield control_server
        finally:
            over.set()
            thread.join()


def scaled(capsys: pytest.CaptureFixture[str], run: Path) -> tuple[int, str, str]:
    """Run `galamp scale RUN --learners 3`; returns exit code, output, and errors."""
    code = main(["scale", str(run), "--learners", "3"])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_a_change_that_takes_long_is_said_to_go_on(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(scale, "ANSWER_TIMEOUT_S", 0.6)
    with answering(run) as control_server:
        code, out, err = scaled(capsys, run)
        assert control_server.requested_learners == 3
    assert (code, out) == (70, "")
    assert err == (
        f"galamp: after 1 s: {run} was asked for 3 learners, and goes on to that by itself: look "
        f"on by galamp attach {run}\n"
    )


def test_a_run_that_does_not_hear_may_be_stopped(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(scale, "ANSWER_TIMEOUT_S", 0.2)
    with ControlServer(run, print) as control_server:  # nobody polls it
        control_server.configure(2, lambda wanted: None)
        code, out, err = scaled(capsys, run)
        assert control_server.requested_learners is None
        control_server.poll()
        control_server.poll()
        assert control_server.requested_learners == 3  # once it goes on
    assert (code, out, err.count("\n")) == (70, "", 1)
    assert "no answer for 0 s; is it stopped (Ctrl-Z), or very busy? " in err
    assert f"look on by galamp attach {run}\n" in err


def test_who_interrupts_the_wait_interrupts_no_change(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    really = ControlClient.messages

    def messages(self: ControlClient, timeout_s: float) -> Iterator[dict[str, Any]]:
        for message in really(self, timeout_s):
            yield message
            assert message == {"taken": 3}
            raise KeyboardInterrupt

    monkeypatch.setattr(calling.ControlClient, "messages", messages)
    with answering(run) as control_server:
        code, out, err = scaled(capsys, run)
        assert control_server.requested_learners == 3
    assert (code, out) == (130, "")
    assert err == (
        f"galamp: {run} was asked for 3 learners, and goes on to that by itself: look on by "
        f"galamp attach {run}\n"
    )


@pytest.mark.parametrize("older", [False, True], ids=["now", "a run of before"])
def test_what_comes_of_it_is_told_as_before(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], older: bool
) -> None:
    """A run that an older galamp has begun does not say that it has taken a request."""
    if older:
        take = ControlServer._handle_scale

        def quietly(self: ControlServer, connection: Any, learners: int) -> None:
            with monkeypatch.context() as patch:
                patch.setattr(connection, "send", lambda line: None)
                take(self, connection, learners)

        monkeypatch.setattr(ControlServer, "_handle_scale", quietly)

    def confirm(control_server: ControlServer) -> None:
        if control_server.requested_learners == 3:
            control_server.configure(3, lambda wanted: None)
            control_server.confirm()

    with answering(run, confirm):
        code, out, err = scaled(capsys, run)
    assert (code, err) == (0, "")
    assert out.startswith("learners: from 2 to 3 in ")
