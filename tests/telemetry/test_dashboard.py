"""Displays on pipes and pseudo-terminals that are read, held, closed and lost."""

from __future__ import annotations

import contextlib
import io
import os
import pty
import subprocess
import sys
import termios
from typing import Any

import pytest
from rich.console import Console

from galamp.telemetry.display.dashboard import (
    Dashboard,
    Display,
    PlainLines,
    Silent,
    make_display,
    progress_line,
)
from galamp.telemetry.display.streams import SafeStream
from galamp.telemetry.snapshot import Event
from tests.support.snapshots import EMPTY, busy


def test_plain_lines_keep_their_distance_and_tell_each_event_once() -> None:
    pipe = io.StringIO()
    with PlainLines(pipe, every_s=10.0) as lines:
        for second in range(26):
            events = tuple(Event(float(s), f"event {s}") for s in (3, 12, 14) if s <= second)
            lines.update(busy(1, elapsed_s=float(second), events=events[-2:]))
    said = pipe.getvalue().splitlines()
    assert said[0].startswith("galamp   ALE/Breakout-v5   classic")
    times = [line.split()[0] for line in said[1:] if "agent steps" in line]
    assert times == ["0.0", "10.0", "20.0", "25.0"], "the last one on leaving"
    told = [line for line in said if "event" in line]
    assert told == ["     3.0 s  event 3", "    12.0 s  event 12", "    14.0 s  event 14"]


def test_a_line_of_progress() -> None:
    snapshot = busy(1, elapsed_s=12.4, agent_steps=57_600, mean_return=1.9, best_mean_return=2.1)
    assert progress_line(snapshot) == (
        "    12.4 s       57,600 agent steps (0.5 %)  2,310/s (9,240 frames/s)"
        "  score 1.9 (best 2.1)  left 1 h 11 m"
    )
    assert progress_line(EMPTY) == "     0.0 s            0 agent steps (0.0 %)  0/s  left -"


def test_a_closed_pipe_silences_lines_and_does_not_fail_the_process_at_exit() -> None:
    program = """
import os, sys
from tests.support.snapshots import busy
from galamp.telemetry.display.dashboard import PlainLines
read, write = os.pipe()
os.dup2(write, 1)
os.close(read)
os.close(write)
with PlainLines(sys.stdout, every_s=0.0) as lines:
    for second in range(3):
        lines.update(busy(1, elapsed_s=float(second)))
    assert lines._stream.lost
print("later", flush=True)
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, "")


def test_a_closed_file_and_an_encoding_without_the_characters_are_survived() -> None:
    closed = io.StringIO()
    closed.close()
    with PlainLines(closed) as lines:
        lines.update(busy(1))
    ascii_only = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    SafeStream(ascii_only).write("→x")
    ascii_only.seek(0)
    assert ascii_only.read() == "?x"


def terminal(output: int) -> tuple[Dashboard, Any]:
    """Return a dashboard of 80 x 24 on the terminal `output`, and the file it writes to."""
    file = open(output, "w", encoding="utf-8")  # noqa: SIM115
    console = Console(file=file, force_terminal=True, width=80, height=24)
    return Dashboard(console), file


def drain(source: int) -> str:
    """Return what a pseudo-terminal holds."""
    os.set_blocking(source, False)
    seen = b""
    try:
        while chunk := os.read(source, 65_536):
            seen += chunk
    except BlockingIOError:
        pass
    return seen.decode()


def test_the_dashboard_redraws_in_place_and_gives_the_cursor_back() -> None:
    ours, theirs = pty.openpty()
    display, file = terminal(theirs)
    before = sys.stdout, sys.stderr
    with file, display:
        display.update(busy(2, status="running"))
        first = drain(ours)
        assert "\x1b[?25l" in first, "the cursor is hidden"
        assert "\x1b[?1049h" not in first, "no alternate screen"
        display.update(busy(2, status="stopping"))
        again = drain(ours)
        assert again.count("\x1b[1A") == 23
        assert "stopping" in again
        display.__exit__(None, None, None)
        assert drain(ours).endswith("\x1b[?25h")
    assert (sys.stdout, sys.stderr) == before
    os.close(ours)


def test_the_dashboard_gives_the_cursor_back_when_the_run_raises() -> None:
    ours, theirs = pty.openpty()
    display, file = terminal(theirs)
    with file:
        with contextlib.suppress(KeyboardInterrupt), display:
            display.update(busy(2))
            raise KeyboardInterrupt
        assert drain(ours).endswith("\x1b[?25h")
    os.close(ours)


def test_a_terminal_that_goes_away_does_not_reach_the_run() -> None:
    ours, theirs = pty.openpty()
    display, file = terminal(theirs)
    with file:
        with display:
            display.update(busy(2))
            os.close(ours)
            for _ in range(3):
                display.update(busy(2))
            assert display._stream.lost
            print("still writable", file=sys.stderr)
        assert sys.stderr.writable()


def test_a_terminal_that_does_not_read_costs_frames_not_time() -> None:
    ours, theirs = pty.openpty()
    display, file = terminal(theirs)
    os.set_blocking(theirs, False)
    with file:
        with display:
            for _ in range(50):
                display.update(busy(2))
            assert not display._stream.lost
            assert not display._stream.ready()
        drain(ours)
    os.close(ours)


def test_held_output_stops_neither_the_run_nor_its_end() -> None:
    ours, theirs = pty.openpty()
    display, file = terminal(theirs)
    with file:
        with display:
            display.update(busy(2))
            drain(ours)
            termios.tcflow(theirs, termios.TCOOFF)
            for _ in range(3):
                display.update(busy(2))
        assert drain(ours) == ""
    os.close(ours)


def test_the_display_suits_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = pty.openpty()
    monkeypatch.setenv("TERM", "xterm-256color")
    with open(theirs, "w", encoding="utf-8") as file:
        assert isinstance(make_display(False, file), Dashboard)
        assert isinstance(make_display(True, file), Silent)
        monkeypatch.setenv("TERM", "dumb")
        assert isinstance(make_display(False, file), PlainLines)
    assert isinstance(make_display(False, io.StringIO()), PlainLines)
    os.close(ours)
    silent: Display = Silent()
    with silent:
        silent.update(EMPTY)
