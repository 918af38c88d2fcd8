"""Displays on pipes and pseudo-terminals that are read, held, closed and lost."""

from __future__ import annotations

import contextlib
import io
import os
import pty
import re
import subprocess
import sys
import termios
from typing import Any

import pytest
from rich.console import Console, ConsoleDimensions

from galamp.telemetry.display import dashboard
from galamp.telemetry.display.dashboard import (
    Dashboard,
    Display,
    PlainLines,
    Silent,
    make_display,
    progress_line,
)
from galamp.telemetry.display.keyboard import Keyboard, keys_in
from galamp.telemetry.display.streams import SafeStream
from galamp.telemetry.snapshot import Event, GameFrame
from tests.support.engine import wait_for
from tests.support.snapshots import EMPTY, busy


def test_plain_lines_keep_their_distance_and_tell_each_event_once() -> None:
    pipe = io.StringIO()
    with PlainLines(pipe, every_s=10.0) as lines:
        for second in range(26):
            events = tuple(Event(float(s), f"event {s}") for s in (3, 12, 14) if s <= second)
            lines.update(busy(1, elapsed_s=float(second), former_s=0.0, events=events[-2:]))
    said = pipe.getvalue().splitlines()
    assert said[0].startswith("galamp   ALE/Breakout-v5   classic")
    times = [line.split()[0] for line in said[1:] if "agent steps" in line]
    assert times == ["0.0", "10.0", "20.0", "25.0"], "the last one on leaving"
    told = [line for line in said if "event" in line]
    assert told == ["     3.0 s  event 3", "    12.0 s  event 12", "    14.0 s  event 14"]


def test_plain_lines_tell_the_time_of_all_attempts() -> None:
    """After a resume, and after a `scale` while they are shown, as the dashboard does."""
    pipe = io.StringIO()
    with PlainLines(pipe, every_s=10.0) as lines:
        for former_s, seconds in ((100.0, range(12)), (111.5, range(3))):
            for second in seconds:
                events = (Event(-5.0, "before"), *((Event(1.0, "on"),) if second else ()))
                known = {"elapsed_s": float(second), "former_s": former_s}
                lines.update(busy(1, events=events, attempt=2, **known))
    assert [line.split(" s  ")[0].strip() for line in pipe.getvalue().splitlines()[1:]] == [
        "100.0", "101.0", "110.0", "111.5", "112.5", "113.5",
    ]  # fmt: skip


def test_a_line_of_progress() -> None:
    snapshot = busy(
        1,
        former_s=0.0,
        elapsed_s=12.4,
        agent_steps=57_600,
        mean_return=1.9,
        best_mean_return=2.1,
        remaining_s=4300.0,
    )
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


def terminal(
    output: int, keyboard: Keyboard | None = None, every_s: float = 0.0
) -> tuple[Dashboard, Any]:
    """Return a dashboard of 80 x 24 on the terminal `output`, and the file it writes to."""
    file = open(output, "w", encoding="utf-8")  # noqa: SIM115
    console = Console(file=file, force_terminal=True, width=80, height=24)
    return Dashboard(console, keyboard, every_s=every_s), file


def drain(source: int) -> str:
    """Return what a pseudo-terminal holds."""
    os.set_blocking(source, False)
    seen = b""
    try:
        while chunk := os.read(source, 65_536):
            seen += chunk
    except BlockingIOError:
        pass
    return seen.decode(errors="replace")  # the end may be within a character


def test_a_frame_is_one_synchronised_write_of_what_has_changed() -> None:
    ours, theirs = pty.openpty()
    display, file = terminal(theirs)
    before = sys.stdout, sys.stderr
    with file, display:
        display.update(busy(2, status="running"))
        first = drain(ours)
        assert first.startswith("\x1b[?2026h\x1b[?1049h\x1b[?25l")
        assert first.endswith("\x1b[?2026l")
        display.update(busy(2, status="running"))
        assert drain(ours) == "", "nothing has changed"
        display.update(busy(2, status="stopping"))
        again = drain(ours)
        assert "stopping" in again
        assert re.findall(r"\x1b\[(\d+);1H", again) == ["1", "3"], "only the lines that differ"
        assert "\x1b[2J" not in again
        assert "\x1b[2K" not in again
        display.__exit__(None, None, None)
        assert drain(ours).endswith("\x1b[?25h\x1b[?1049l")
    assert (sys.stdout, sys.stderr) == before
    os.close(ours)


COLOUR = re.compile(r"\x1b\[(?:\d+;)*(?:3[0-8]|4[0-8]|9[0-7]|10[0-7])(?:;\d+)*m")


@pytest.mark.parametrize("forbidden", [True, False])
def test_a_terminal_without_colours_is_sent_none(
    forbidden: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By NO_COLOR, in every view."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    if forbidden:
        monkeypatch.setenv("NO_COLOR", "1")
    ours, theirs = pty.openpty()
    with open(theirs, "w", encoding="utf-8") as file:
        monkeypatch.setattr(dashboard, "in_foreground", lambda descriptor: True)
        display = make_display(False, file)
        assert isinstance(display, Dashboard)
        with display:
            game = GameFrame(0, 0, 20, 20, bytes(range(0, 200, 10)).hex() * 20)
            display.update(busy(2, status="running", game=game))
            seen = {"first": drain(ours)}
            for key in "2345g?":
                display._press(key)
                seen[key] = drain(ours)
            assert all(seen.values())
            coloured = [key for key, drawn in seen.items() if COLOUR.search(drawn)]
            assert coloured == ([] if forbidden else list(seen))
    os.close(ours)


def test_numbers_wait_for_the_next_frame_and_a_new_state_does_not() -> None:
    ours, theirs = pty.openpty()
    display, file = terminal(theirs, every_s=3600.0)
    with file, display:
        display.update(busy(2, status="running"))
        assert "1.24M" in drain(ours)
        display.update(busy(2, status="running", agent_steps=2_340_000))
        assert drain(ours) == "", "it is not due"
        display.update(busy(2, status="stopping", agent_steps=2_340_000))
        seen = drain(ours)
        assert "stopping" in seen
        assert "2.34M" in seen
        display._press("g")
        assert drain(ours), "a key is answered at once"
        display.update(busy(2, status="stopping", agent_steps=3_450_000))
        assert "3.45M" in drain(ours), "a game is shown as it is played"
    os.close(ours)


def test_another_size_is_drawn_from_nothing() -> None:
    ours, theirs = pty.openpty()
    display, file = terminal(theirs)
    with file, display:
        display.update(busy(2))
        drain(ours)
        display._console.size = ConsoleDimensions(60, 20)
        display.update(busy(2))
        again = drain(ours)
        assert again.startswith("\x1b[?2026h\x1b[H\x1b[2J\x1b[1;1H")
        assert max(map(int, re.findall(r"\x1b\[(\d+);1H", again))) <= 20
    os.close(ours)


def test_the_dashboard_gives_the_terminal_back_when_the_run_raises() -> None:
    ours, theirs = pty.openpty()
    display, file = terminal(theirs)
    with file:
        with contextlib.suppress(KeyboardInterrupt), display:
            display.update(busy(2))
            raise KeyboardInterrupt
        assert drain(ours).endswith("\x1b[?25h\x1b[?1049l")
    os.close(ours)


def test_keys_are_read_and_the_modes_are_put_back() -> None:
    ours, theirs = pty.openpty()
    before = termios.tcgetattr(theirs)
    with open(theirs, "r+b", buffering=0, closefd=False) as keys:
        display, file = terminal(theirs, Keyboard(io.TextIOWrapper(keys)))
        with file:
            with display:
                display.update(busy(2))
                assert not termios.tcgetattr(theirs)[3] & (termios.ICANON | termios.ECHO)
                assert termios.tcgetattr(theirs)[3] & termios.ISIG, "Ctrl-C stays a signal"
                drain(ours)
                # The kernel hands on what is typed when it comes to it.
                os.write(ours, b"3")
                title = "consensus distance of each learner"
                seen: list[str] = []

                def shown() -> bool:
                    display.poll()
                    seen.append(drain(ours))
                    return title in "".join(seen)

                wait_for(shown, "the view")
                os.write(ours, b"g")
                wait_for(lambda: display.poll() or display.wants_game, "the game")
                os.write(ours, b"q")
                with pytest.raises(KeyboardInterrupt):
                    wait_for(display.poll, "the signal")
            assert termios.tcgetattr(theirs) == before
    os.close(ours)


def test_a_run_is_asked_to_save_and_stop_and_sent_no_signal() -> None:
    """A signal may be under way already, and a second one ends a run unsaved."""
    ours, theirs = pty.openpty()
    with open(theirs, "r+b", buffering=0, closefd=False) as keys:
        file = open(theirs, "w", encoding="utf-8")  # noqa: SIM115
        console = Console(file=file, force_terminal=True, width=80, height=24)
        asked: list[str] = []
        keyboard = Keyboard(io.TextIOWrapper(keys))
        with file, Dashboard(console, keyboard, stop=lambda: asked.append("stop")) as display:
            display.update(busy(2))
            os.write(ours, b"qy")
            wait_for(lambda: display.poll() or asked, "the answer")
    assert asked == ["stop"]
    os.close(ours)


def test_a_process_that_ends_at_once_gives_the_terminal_back() -> None:
    ours, theirs = pty.openpty()
    before = termios.tcgetattr(theirs)
    with open(theirs, "r+b", buffering=0, closefd=False) as keys:
        display, file = terminal(theirs, Keyboard(io.TextIOWrapper(keys)))
        with file, display:
            display.update(busy(2))
            drain(ours)
            display.abandon()
            assert drain(ours).endswith("\x1b[?25h\x1b[?1049l")
            assert termios.tcgetattr(theirs) == before
    os.close(ours)


@pytest.mark.parametrize(
    ("sent", "keys"),
    [
        ("3m?", ["3", "m", "?"]),
        ("\x1b[A\x1b[6~q", ["up", "page down", "q"]),
        ("\x1b", ["escape"]),
        ("\x1b[1;5Cx", ["x"]),
    ],
)
def test_what_terminals_send_for_keys(sent: str, keys: list[str]) -> None:
    assert keys_in(sent) == keys


def test_without_a_terminal_there_are_no_keys() -> None:
    for stream in (None, io.StringIO("3")):
        keyboard = Keyboard(stream)
        keyboard.open()
        assert not keyboard.usable
        assert not keyboard.is_open
        assert keyboard.read() == []


def test_a_terminal_that_goes_away_does_not_reach_the_run() -> None:
    ours, theirs = pty.openpty()
    display, file = terminal(theirs)
    with file:
        with display:
            display.update(busy(2))
            os.close(ours)
            for steps in range(3):
                display.update(busy(2, agent_steps=steps))
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
                display._screen.renew()
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
