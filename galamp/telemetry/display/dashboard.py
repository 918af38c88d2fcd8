"""Displays of a run: a live screen on a terminal, plain lines elsewhere, or none.

Runs in the supervisor's process. Snapshots go in, text comes out on the caller's stream. A display
never disturbs a run: after its terminal or pipe is closed it writes nothing, and a live screen
skips frames that the terminal would not take immediately.
"""

from __future__ import annotations

import os
from typing import Protocol, Self, TextIO, cast

from rich.console import Console
from rich.live import Live

from galamp.core.sanitize import clean
from galamp.telemetry.display.render import render
from galamp.telemetry.display.streams import SafeStream
from galamp.telemetry.display.text import count, duration, percent, score
from galamp.telemetry.snapshot import Event, Snapshot

__all__ = ["Dashboard", "Display", "PlainLines", "Silent", "make_display", "render"]


class Display(Protocol):
    """Shows snapshots while it is entered; never raises an error of its stream."""

    def __enter__(self) -> Self:
        """Acquire the stream."""

    def __exit__(self, *error: object) -> None:
        """Restore the stream; the last frame stays on it."""

    def update(self, snapshot: Snapshot) -> None:
        """Show a snapshot; it replaces or follows the last one."""


def make_display(quiet: bool, stream: TextIO | None) -> Display:
    """Return the display for `stream`: a live screen on a terminal that can draw it, else lines."""
    if quiet or stream is None:
        return Silent()
    safe = SafeStream(stream)
    draws = os.environ.get("TERM", "dumb") not in ("dumb", "unknown", "")
    if safe.isatty() and draws and safe.encoding.lower().replace("-", "") == "utf8":
        return Dashboard(Console(file=cast(TextIO, safe), force_terminal=True))
    return PlainLines(stream)


class Dashboard:
    """Live screen: redraws the whole terminal in place at every `update`.

    The alternate screen is not used, so the last frame stays above the prompt.
    """

    def __init__(self, console: Console) -> None:
        """Acquire `console`, and wrap the stream that it writes to."""
        file = console.file
        self._stream = file if isinstance(file, SafeStream) else SafeStream(file)
        console.file = cast(TextIO, self._stream)
        self._console = console
        self._live = Live(
            console=console,
            auto_refresh=False,
            redirect_stdout=False,
            vertical_overflow="crop",
        )
        self._size = console.size

    def __enter__(self) -> Self:
        """Enter; the first `update` draws the screen."""
        return self

    def __exit__(self, *error: object) -> None:
        """Keep the last frame and show the cursor again."""
        # A run must be able to end while its terminal is held (^S): the cursor stays hidden.
        self._stream.lost = not self._stream.ready()
        self._live.stop()

    def update(self, snapshot: Snapshot) -> None:
        """Draw `snapshot` over the last frame, at the terminal's current size."""
        if not self._stream.ready():
            return
        size = self._console.size
        if size != self._size:
            # After a resize the terminal has wrapped the old frame: its line count is wrong.
            self._console.clear()
            self._size = size
        self._live.start()
        frame = render(snapshot, width=size.width, height=size.height)
        self._live.update(frame, refresh=True)


class PlainLines:
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
            if event not in self._shown_events:
                self._print(f"{event.elapsed_s:8.1f} s  {clean(event.text)}")
        self._shown_events = snapshot.events
        self._waiting = snapshot
        if snapshot.elapsed_s >= self._due_s:
            self._print(progress_line(snapshot))
            self._due_s = snapshot.elapsed_s + self._every_s
            self._waiting = None
        self._stream.flush()

    def _print(self, line: str) -> None:
        self._stream.write(line + "\n")


class Silent:
    """Shows nothing."""

    def __enter__(self) -> Self:
        """Do nothing."""
        return self

    def __exit__(self, *error: object) -> None:
        """Do nothing."""

    def update(self, snapshot: Snapshot) -> None:
        """Do nothing."""


def progress_line(snapshot: Snapshot) -> str:
    """Return the run's time, progress, speed, score and time left on one line."""
    done, rate = snapshot.agent_steps, snapshot.agent_steps_per_s
    speed = f"{count(rate)}/s"
    if snapshot.frames_per_step > 1:
        speed += f" ({count(rate * snapshot.frames_per_step)} frames/s)"
    facts = [
        f"{snapshot.elapsed_s:8.1f} s  {done:>11,} agent steps"
        f" ({percent(done, snapshot.total_steps)})",
        speed,
    ]
    if snapshot.mean_return is not None:
        best = f" (best {score(snapshot.best_mean_return)})"
        facts.append(f"score {score(snapshot.mean_return)}{best}")
    if snapshot.status in ("starting", "running", "checkpointing"):
        facts.append(f"left {duration(snapshot.remaining_s)}")
    else:
        facts.append(clean(snapshot.status))
    return "  ".join(facts)
