"""Displays of a run: a live screen on a terminal, plain lines elsewhere, or none.

    Snapshot --update--> render --> Screen --> terminal
    keys --poll--> Viewing --^

Runs in the supervisor's process, or in that of `galamp attach`. Snapshots go in, text comes out on
the caller's stream. A display never disturbs a run: after its terminal or pipe is closed it writes
nothing, and a live screen skips frames that the terminal would not take immediately.
"""

from __future__ import annotations

import math
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Protocol, Self, TextIO, cast

from rich.console import Console

from galamp.core.sanitize import clean
from galamp.telemetry.display.keyboard import Keyboard, in_foreground
from galamp.telemetry.display.render import render
from galamp.telemetry.display.screen import Screen
from galamp.telemetry.display.streams import SafeStream
from galamp.telemetry.display.suspension import Suspension
from galamp.telemetry.display.text import count, duration, percent, score
from galamp.telemetry.display.viewing import Viewing, pressed
from galamp.telemetry.snapshot import Event, Snapshot

FRAME_EVERY_S = 0.4
"""Snapshots come four times a second: every second one is drawn, which is half the cost."""

__all__ = ["Dashboard", "Display", "PlainLines", "Silent", "make_display", "render"]


class Display(Protocol):
    """Shows snapshots while it is entered; never raises an error of its stream."""

    def __enter__(self) -> Self:
        """Acquire the stream."""

    def __exit__(self, *error: object) -> None:
        """Restore the stream."""

    def update(self, snapshot: Snapshot) -> None:
        """Show a snapshot; it replaces or follows the last one."""

    def poll(self) -> None:
        """Act on what the viewer has asked for; called several times a second."""

    def abandon(self) -> None:
        """Give the terminal back: this process is about to end without leaving."""

    @property
    def wants_game(self) -> bool:
        """Whether snapshots are to have the frame of a game."""


def make_display(
    quiet: bool, stream: TextIO | None, *, stop: Callable[[], object] | None = None
) -> Display:
    """Return the display for `stream`: a live screen on a terminal that can draw it, else lines.

    A process that starts in the background of its shell has lines, too. Keys are read from standard
    input; `stop`: what `q` calls to stop the run, see `Dashboard`.
    """
    if quiet or stream is None:
        return Silent()
    safe = SafeStream(stream)
    draws = os.environ.get("TERM", "dumb") not in ("dumb", "unknown", "")
    draws = draws and safe.isatty() and in_foreground(safe.fileno())
    if draws and safe.encoding.lower().replace("-", "") == "utf8":
        console = Console(file=cast(TextIO, safe), force_terminal=True)
        return Dashboard(console, Keyboard(sys.stdin), stop=stop, every_s=FRAME_EVERY_S)
    return PlainLines(stream)


class Dashboard:
    """Live screen, with keys where there is a keyboard: the alternate screen, while it is entered.

    Nothing is drawn while this process is in the background of its shell.
    """

    def __init__(
        self,
        console: Console,
        keyboard: Keyboard | None = None,
        *,
        stop: Callable[[], object] | None = None,
        every_s: float = 0.0,
    ) -> None:
        """Acquire `console`, and wrap the stream that it writes to.

        Args:
            console: of the terminal.
            keyboard: whose keys count.
            stop: called by `q`, after a question, to stop the run, maybe more than once; None: `q`
                interrupts this process.
            every_s: least time between two frames in seconds, while nothing but numbers changes.
        """
        self._every_s, self._drawn_s, self._drawn_status = every_s, -math.inf, ""
        file = console.file
        self._stream = file if isinstance(file, SafeStream) else SafeStream(file)
        console.file = cast(TextIO, self._stream)
        self._console, self._keyboard = console, keyboard or Keyboard(None)
        self._screen = Screen(console, self._stream)
        self._suspension = Suspension()
        self._leave = stop or partial(signal.raise_signal, signal.SIGINT)
        self._snapshot: Snapshot | None = None
        self._viewing = Viewing(
            keys=self._keyboard.usable, stops=stop is not None, colour=not console.no_color
        )

    def __enter__(self) -> Self:
        """Enter; the first `update` draws the screen."""
        self._suspension.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        """Return to the ordinary screen, and put the terminal's modes back."""
        self._suspension.__exit__()
        self._release()

    @property
    def wants_game(self) -> bool:
        """Whether the game is looked at."""
        return self._viewing.view == "game"

    def update(self, snapshot: Snapshot) -> None:
        """Draw `snapshot` over the last frame, at the terminal's current size, if one is due."""
        if snapshot.history is None and self._snapshot is not None:
            snapshot = replace(snapshot, history=self._snapshot.history)
        self._snapshot = snapshot
        self.poll()
        changed = self.wants_game or snapshot.status != self._drawn_status
        if changed or time.monotonic() - self._drawn_s >= self._every_s:
            self._draw()

    def poll(self) -> None:
        """Act on the keys that were pressed; stop, if the terminal has asked for that."""
        if self._suspension.requested:
            self._release()
            self._suspension.stop()
        if self._suspension.continued():
            self._keyboard.renew()
            self._screen.renew()
        for key in self._keyboard.read():
            self._press(key)

    def abandon(self) -> None:
        """Put the terminal back past all buffers: this process ends at once."""
        self._keyboard.close()
        self._screen.abandon()

    def _press(self, key: str) -> None:
        if self._snapshot is None:
            return
        self._viewing, leaves = pressed(self._viewing, key, self._snapshot)
        self._draw()
        if leaves:
            self._leave()

    def _draw(self) -> None:
        if self._snapshot is None or not self._stream.ready() or not self._may_draw():
            return
        self._drawn_s, self._drawn_status = time.monotonic(), self._snapshot.status
        self._keyboard.open()
        width, height = self._console.size
        lines = render(self._snapshot, width=width, height=height, viewing=self._viewing)
        self._screen.paint(lines, (width, height))

    def _may_draw(self) -> bool:
        try:
            return in_foreground(self._stream.fileno())
        except OSError:
            return True  # no descriptor behind it

    def _release(self) -> None:
        """Give the terminal back."""
        self._keyboard.close()
        # A run must be able to end while its terminal is held (^S): its screen stays then.
        if self._stream.ready():
            self._screen.leave()


class _Passive:
    """What a display without keys does not do."""

    wants_game = False

    def poll(self) -> None:
        """Do nothing."""

    def abandon(self) -> None:
        """Do nothing."""


class PlainLines(_Passive):
    """Log lines: one line of progress at intervals, and one per event, for logs and pipes."""

    def __init__(self, stream: TextIO, every_s: float = 10.0) -> None:
        """Write to `stream`, progress at most every `every_s` seconds of the run's own time."""
        self._stream = SafeStream(stream)
        self._every_s = every_s
        self._due_s, self._last_s, self._named = 0.0, 0.0, False
        self._shown_events: tuple[Event, ...] = ()
        self._waiting: Snapshot | None = None

    def __enter__(self) -> Self:
        """Enter; nothing is written before the first snapshot."""
        return self

    def __exit__(self, *error: object) -> None:
        """Write the final progress, unless it was just written."""
        if self._waiting is not None:
            self._print(progress_line(self._waiting))
            self._waiting = None
        self._stream.flush()

    def update(self, snapshot: Snapshot) -> None:
        """Write the new events of `snapshot`, and its progress when that is due."""
        if snapshot.elapsed_s < self._last_s:
            self._due_s = snapshot.elapsed_s  # a new attempt of the run: its time restarts
        self._last_s = snapshot.elapsed_s
        if not self._named:
            self._named = True
            names = (snapshot.env_id, snapshot.protocol, snapshot.run_dir)
            self._print("   ".join(["galamp", *(clean(name) for name in names)]))
        for event in snapshot.events:
            if event.elapsed_s >= 0 and event not in self._shown_events:
                at_s = snapshot.former_s + event.elapsed_s
                self._print(f"{at_s:8.1f} s  {clean(event.text)}")
        self._shown_events = snapshot.events
        self._waiting = snapshot
        if snapshot.elapsed_s >= self._due_s:
            self._print(progress_line(snapshot))
            self._due_s = snapshot.elapsed_s + self._every_s
            self._waiting = None
        self._stream.flush()

    def _print(self, line: str) -> None:
        self._stream.write(line + "\n")


class Silent(_Passive):
    """Shows nothing."""

    def __enter__(self) -> Self:
        """Do nothing."""
        return self

    def __exit__(self, *error: object) -> None:
        """Do nothing."""

    def update(self, snapshot: Snapshot) -> None:
        """Do nothing."""


def progress_line(snapshot: Snapshot) -> str:
    """Return the time over all attempts, progress, speed, score and time left on one line."""
    done, rate = snapshot.agent_steps, snapshot.agent_steps_per_s
    speed = f"{count(rate)}/s"
    if snapshot.frames_per_step > 1:
        speed += f" ({count(rate * snapshot.frames_per_step)} frames/s)"
    share = percent(done, snapshot.total_steps)
    if snapshot.goal is not None:
        share = clean(snapshot.goal.text)
    facts = [f"{snapshot.total_s:8.1f} s  {done:>11,} agent steps ({share})", speed]
    if snapshot.mean_return is not None:
        best = f" (best {score(snapshot.best_mean_return)})"
        facts.append(f"score {score(snapshot.mean_return)}{best}")
    if snapshot.status in ("starting", "running", "checkpointing"):
        left = snapshot.goal.remaining_s if snapshot.goal else snapshot.remaining_s
        facts.append(f"left {duration(left)}")
    else:
        facts.append(clean(snapshot.status))
    return "  ".join(facts)
