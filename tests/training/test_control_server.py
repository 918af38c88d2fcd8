"""The control server of a run, with only the test behind it."""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from galamp.core.errors import UserError
from galamp.telemetry.snapshot import Snapshot
from galamp.training.control.framing import CONTROL
from galamp.training.control.server import (
    MAX_CONNECTIONS,
    MAX_MISSED,
    REQUEST_TIMEOUT_S,
    ControlServer,
)
from tests.support.engine import DEADLINE_S
from tests.support.snapshots import busy


@pytest.fixture
def control_server(tmp_path: Path) -> Iterator[ControlServer]:
    complaints: list[str] = []
    with ControlServer(tmp_path, complaints.append) as opened:
        opened.configure(2, at_most_four)
        yield opened
    assert complaints == []


def at_most_four(learners: int) -> None:
    if learners > 4:
        raise UserError(f"--learners {learners}: too many")


def visit(folder: Path, said: bytes = b"") -> socket.socket:
    line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    line.settimeout(DEADLINE_S)
    line.connect(str(folder / CONTROL))
    line.sendall(said)
    return line


def watch() -> bytes:
    return b'{"want": "watch"}\n'


def scale(learners: object) -> bytes:
    return json.dumps({"want": "scale", "learners": learners}).encode() + b"\n"


def settle(control_server: ControlServer) -> None:
    """Let in who knocks, one at a time, and hear what was said."""
    for _ in range(MAX_CONNECTIONS + 2):
        control_server.poll()


def answers(line: socket.socket) -> list[Any]:
    """Return what is said before the run hangs up."""
    said = b""
    with line, contextlib.suppress(ConnectionResetError):  # it has not heard us out
        while data := line.recv(65_536):
            said += data
    return list(map(json.loads, said.splitlines()))


def answer(line: socket.socket) -> Any:
    """Return the one thing that is said before the run hangs up."""
    (message,) = answers(line)
    return message


def taken(line: socket.socket, learners: int) -> None:
    """Hear that a request for so many learners was taken."""
    assert json.loads(line.recv(65_536)) == {"taken": learners}


def running(learners: int) -> Snapshot:
    return busy(learners, status="running")


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (b"\x00\xff\n", "not JSON: expected a JSON object"),
        (b"{\n", "not JSON: expected a JSON object"),
        (b"3\n", "expected a JSON object"),
        (b"[" * 4000 + b"\n", "not JSON: expected a JSON object"),
        (b"x" * 4096 + b"x", "at most 4096 bytes"),
        (b"{}\n", "expected to be asked"),
        (b'{"want": "stop"}\n', "expected to be asked"),
        (b'{"want": "watch", "more": 1}\n', "expected to be asked"),
        (scale(2)[:-2] + b', "more": 1}\n', "expected to be asked"),
        (scale("3"), "expected to be asked"),
        (scale(3.0), "expected to be asked"),
        (scale(True), "from 1 to 1024"),
        (scale(0), "from 1 to 1024"),
        (scale(-1), "from 1 to 1024"),
        (scale(10**30), "from 1 to 1024"),
        (scale(5), "--learners 5: too many"),
        (watch() + watch(), "one request only"),
    ],
)
def test_what_makes_no_sense_is_answered_and_dropped(
    control_server: ControlServer, tmp_path: Path, said: bytes, why: str
) -> None:
    line = visit(tmp_path, said)
    settle(control_server)
    assert why in answer(line)["refused"]
    assert control_server.requested_learners is None


def test_everyone_who_watches_sees_every_snapshot(
    control_server: ControlServer, tmp_path: Path
) -> None:
    watchers = [visit(tmp_path, watch()) for _ in range(3)]
    settle(control_server)
    control_server.publish(running(2))
    control_server.end("finished")
    for line in watchers:
        with line, line.makefile("rb") as said:
            first, last = map(json.loads, said)
        assert first["snapshot"]["status"] == "running"
        assert last == {"ended": "finished"}


def received(line: socket.socket) -> Any:
    """Return the next message."""
    said = b""
    while not said.endswith(b"\n"):
        said += line.recv(1)
    return json.loads(said)


def test_a_history_is_sent_once(control_server: ControlServer, tmp_path: Path) -> None:
    with visit(tmp_path, watch()) as early:
        settle(control_server)
        control_server.publish(running(1))
        control_server.publish(running(1))
        with visit(tmp_path, watch()) as late:
            settle(control_server)
            control_server.publish(running(1))
            told = [received(early)["snapshot"]["history"] is not None for _ in range(3)]
            assert told == [True, False, False]
            assert received(late)["snapshot"]["history"]["number"] == 7


def test_a_game_is_wanted_while_somebody_looks(
    control_server: ControlServer, tmp_path: Path
) -> None:
    game = b'{"want": "game", "show": %s}\n'
    with visit(tmp_path, watch() + game % b"true") as line:
        settle(control_server)
        assert control_server.wants_game
        line.sendall(game % b"false")
        settle(control_server)
        assert not control_server.wants_game
        line.sendall(game % b"true")
    settle(control_server)
    assert not control_server.wants_game, "the connection is gone"
    refused = visit(tmp_path, game % b"true")
    settle(control_server)
    assert "expected to be asked" in answer(refused)["refused"]


def test_who_asked_for_learners_hears_once_they_run(
    control_server: ControlServer, tmp_path: Path
) -> None:
    asker, late = visit(tmp_path, scale(3)), visit(tmp_path, scale(4))
    settle(control_server)
    assert control_server.requested_learners == 3
    taken(asker, 3)
    assert answer(late) == {"refused": "a change to 3 learners is under way"}
    control_server.publish(running(2))
    control_server.configure(3, at_most_four)
    assert control_server.requested_learners is None
    control_server.publish(busy(3, status="running"))
    assert not select.select([asker], [], [], 0)[0], "not all of them have worked yet"
    control_server.confirm()
    found = answer(asker)["scaled"]
    assert (found["former"], found["learners"]) == (2, 3)
    assert 0 <= found["took_s"] < 5
    again = visit(tmp_path, scale(3))
    settle(control_server)
    assert answer(again) == {"kept": 3}


def test_who_asked_in_vain_hears_why(control_server: ControlServer, tmp_path: Path) -> None:
    for say, word in ((control_server.decline, "no memory"), (control_server.end, "failed")):
        asker = visit(tmp_path, scale(3))
        settle(control_server)
        say(word)
        first, last = answers(asker)
        assert first == {"taken": 3}
        assert word in last["refused"]
        assert control_server.requested_learners is None


def test_a_wish_outlives_who_had_it(control_server: ControlServer, tmp_path: Path) -> None:
    visit(tmp_path, scale(3)).close()
    settle(control_server)
    assert control_server.requested_learners == 3
    control_server.configure(3, at_most_four)
    assert control_server.requested_learners is None
    control_server.confirm()
    later = visit(tmp_path, scale(4))
    settle(control_server)
    assert control_server.requested_learners == 4
    later.close()


def test_an_answer_to_who_has_left_does_not_throw_out_the_next(
    control_server: ControlServer, tmp_path: Path
) -> None:
    asker = visit(tmp_path, scale(3))
    settle(control_server)
    asker.close()
    settle(control_server)
    with visit(tmp_path, watch()) as watcher:  # both ends get the numbers that the asker's had
        settle(control_server)
        control_server.decline("no memory")
        control_server.publish(running(2))
        watcher.settimeout(DEADLINE_S)
        assert b"snapshot" in watcher.recv(2**20)


def test_who_does_not_read_is_left_out_then_dropped(
    control_server: ControlServer, tmp_path: Path
) -> None:
    deaf, attentive = visit(tmp_path, watch()), visit(tmp_path, watch())
    settle(control_server)
    seen = 0
    for _ in range(MAX_MISSED + 50):
        control_server.publish(running(16))
        attentive.settimeout(0.0)
        with contextlib.suppress(BlockingIOError):
            seen += attentive.recv(2**22).count(b"\n")
        control_server.poll()
    assert seen > MAX_MISSED
    with deaf:
        deaf.settimeout(DEADLINE_S)
        while deaf.recv(2**20):
            pass
    attentive.close()


def test_there_is_room_for_so_many(control_server: ControlServer, tmp_path: Path) -> None:
    lines = [visit(tmp_path, watch()) for _ in range(MAX_CONNECTIONS)]
    settle(control_server)
    over = visit(tmp_path, watch())
    settle(control_server)
    assert answer(over) == {"refused": f"{MAX_CONNECTIONS} connections are open already"}
    for line in lines:
        line.close()
    settle(control_server)
    later = visit(tmp_path, scale(2))
    settle(control_server)
    assert answer(later) == {"kept": 2}


def test_who_says_nothing_is_not_kept(
    control_server: ControlServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = visit(tmp_path, b'{"want"')
    settle(control_server)
    later_s = time.monotonic() + REQUEST_TIMEOUT_S + 1
    monkeypatch.setattr("galamp.training.control.server.time.monotonic", lambda: later_s)
    control_server.poll()
    assert "within 5 s" in answer(line)["refused"]


def test_only_its_owner_may_knock(control_server: ControlServer, tmp_path: Path) -> None:
    assert stat.S_IMODE((tmp_path / CONTROL).stat().st_mode) == 0o600


def test_what_a_killed_run_left_is_replaced_and_nothing_stays(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stale:
        stale.bind(str(tmp_path / CONTROL))
    before = len(os.listdir("/proc/self/fd"))
    with ControlServer(tmp_path, print) as control_server:
        line = visit(tmp_path, watch())
        settle(control_server)
    with line:
        assert line.recv(1) == b""
    assert os.listdir(tmp_path) == []
    assert len(os.listdir("/proc/self/fd")) == before


def test_where_it_cannot_be_opened_the_run_goes_on(tmp_path: Path) -> None:
    (tmp_path / CONTROL).write_text("mine")
    complaints: list[str] = []
    with ControlServer(tmp_path, complaints.append) as control_server:
        control_server.poll()
        control_server.publish(running(1))
        control_server.end("finished")
    (complaint,) = complaints
    assert "galamp attach and scale do not work" in complaint
    assert (tmp_path / CONTROL).read_text() == "mine"


def test_who_profiles_may_trace_for_as_long_as_it_is_connected(
    control_server: ControlServer, tmp_path: Path
) -> None:
    permitted: list[int] = []
    control_server.tracing.configure(lambda: {7: "learner 0", 8: "supervisor"}, permitted.append)
    first = visit(tmp_path, b'{"want": "profile"}\n')
    settle(control_server)
    assert json.loads(first.recv(65_536)) == {"processes": {"7": "learner 0", "8": "supervisor"}}
    second = visit(tmp_path, b'{"want": "profile"}\n')
    settle(control_server)
    assert "another profile" in answer(second)["refused"]
    assert permitted == [os.getpid()], "the kernel says who is connected"
    first.close()
    settle(control_server)
    assert permitted == [os.getpid(), 0]
    third = visit(tmp_path, b'{"want": "profile"}\n')
    settle(control_server)
    control_server.end("finished")
    third.close()
    assert permitted[2:] == [os.getpid(), 0]
