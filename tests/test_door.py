"""The door of a run, with nobody behind it but the test."""

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
from galamp.training.control.server import MOST_MISSED, MOST_VISITORS, SPEAK_WITHIN_S, Door
from tests.engine import DEADLINE_S
from tests.snapshots import busy


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    complaints: list[str] = []
    with Door(tmp_path, complaints.append) as opened:
        opened.begin(2, at_most_four)
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


def settle(door: Door) -> None:
    """Let in who knocks, one at a time, and hear what was said."""
    for _ in range(MOST_VISITORS + 2):
        door.poll()


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
        (b"\x00\xff\n", "expected a line of JSON"),
        (b"{\n", "expected a line of JSON"),
        (b"3\n", "expected a JSON object"),
        (b"[" * 4000 + b"\n", "expected a line of JSON"),
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
    door: Door, tmp_path: Path, said: bytes, why: str
) -> None:
    line = visit(tmp_path, said)
    settle(door)
    assert why in answer(line)["refused"]
    assert door.wanted is None


def test_everyone_who_watches_sees_every_snapshot(door: Door, tmp_path: Path) -> None:
    watchers = [visit(tmp_path, watch()) for _ in range(3)]
    settle(door)
    door.show(running(2))
    door.end("finished")
    for line in watchers:
        with line, line.makefile("rb") as said:
            first, last = map(json.loads, said)
        assert first["snapshot"]["status"] == "running"
        assert last == {"ended": "finished"}


def test_who_asked_for_learners_hears_once_they_run(door: Door, tmp_path: Path) -> None:
    asker, late = visit(tmp_path, scale(3)), visit(tmp_path, scale(4))
    settle(door)
    assert door.wanted == 3
    taken(asker, 3)
    assert answer(late) == {"refused": "a change to 3 learners is under way"}
    door.show(running(2))
    door.begin(3, at_most_four)
    assert door.wanted is None
    door.show(busy(3, status="running"))
    assert not select.select([asker], [], [], 0)[0], "not all of them have worked yet"
    door.confirm()
    found = answer(asker)["scaled"]
    assert (found["former"], found["learners"]) == (2, 3)
    assert 0 <= found["took_s"] < 5
    again = visit(tmp_path, scale(3))
    settle(door)
    assert answer(again) == {"kept": 3}


def test_who_asked_in_vain_hears_why(door: Door, tmp_path: Path) -> None:
    for say, word in ((door.decline, "no memory"), (door.end, "failed")):
        asker = visit(tmp_path, scale(3))
        settle(door)
        say(word)
        first, last = answers(asker)
        assert first == {"taken": 3}
        assert word in last["refused"]
        assert door.wanted is None


def test_a_wish_outlives_who_had_it(door: Door, tmp_path: Path) -> None:
    visit(tmp_path, scale(3)).close()
    settle(door)
    assert door.wanted == 3
    door.begin(3, at_most_four)
    assert door.wanted is None
    door.confirm()
    later = visit(tmp_path, scale(4))
    settle(door)
    assert door.wanted == 4
    later.close()


def test_an_answer_to_who_has_left_does_not_throw_out_the_next(door: Door, tmp_path: Path) -> None:
    asker = visit(tmp_path, scale(3))
    settle(door)
    asker.close()
    settle(door)
    with visit(tmp_path, watch()) as watcher:  # both ends get the numbers that the asker's had
        settle(door)
        door.decline("no memory")
        door.show(running(2))
        watcher.settimeout(DEADLINE_S)
        assert b"snapshot" in watcher.recv(2**20)


def test_who_does_not_read_is_left_out_then_dropped(door: Door, tmp_path: Path) -> None:
    deaf, attentive = visit(tmp_path, watch()), visit(tmp_path, watch())
    settle(door)
    seen = 0
    for _ in range(MOST_MISSED + 50):
        door.show(running(16))
        attentive.settimeout(0.0)
        with contextlib.suppress(BlockingIOError):
            seen += attentive.recv(2**22).count(b"\n")
        door.poll()
    assert seen > MOST_MISSED
    with deaf:
        deaf.settimeout(DEADLINE_S)
        while deaf.recv(2**20):
            pass
    attentive.close()


def test_there_is_room_for_so_many(door: Door, tmp_path: Path) -> None:
    lines = [visit(tmp_path, watch()) for _ in range(MOST_VISITORS)]
    settle(door)
    over = visit(tmp_path, watch())
    settle(door)
    assert answer(over) == {"refused": f"{MOST_VISITORS} visitors are here already"}
    for line in lines:
        line.close()
    settle(door)
    later = visit(tmp_path, scale(2))
    settle(door)
    assert answer(later) == {"kept": 2}


def test_who_says_nothing_is_not_kept(
    door: Door, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = visit(tmp_path, b'{"want"')
    settle(door)
    later_s = time.monotonic() + SPEAK_WITHIN_S + 1
    monkeypatch.setattr("galamp.training.control.server.time.monotonic", lambda: later_s)
    door.poll()
    assert "within 5 s" in answer(line)["refused"]


def test_only_its_owner_may_knock(door: Door, tmp_path: Path) -> None:
    assert stat.S_IMODE((tmp_path / CONTROL).stat().st_mode) == 0o600


def test_what_a_killed_run_left_is_replaced_and_nothing_stays(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stale:
        stale.bind(str(tmp_path / CONTROL))
    before = len(os.listdir("/proc/self/fd"))
    with Door(tmp_path, print) as door:
        line = visit(tmp_path, watch())
        settle(door)
    with line:
        assert line.recv(1) == b""
    assert os.listdir(tmp_path) == []
    assert len(os.listdir("/proc/self/fd")) == before


def test_where_it_cannot_be_opened_the_run_goes_on(tmp_path: Path) -> None:
    (tmp_path / CONTROL).write_text("mine")
    complaints: list[str] = []
    with Door(tmp_path, complaints.append) as door:
        door.poll()
        door.show(running(1))
        door.end("finished")
    (complaint,) = complaints
    assert "galamp attach and scale do not work" in complaint
    assert (tmp_path / CONTROL).read_text() == "mine"
