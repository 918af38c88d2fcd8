"""A terminal for a game: its keys at once, its screen for pictures, both restored at every end.

    Terminal.keys --> "left", " ", "q", ...
    lines --Terminal.draw--> the screen; rows that have not changed are not written

The alternate screen is used, so what was on the terminal before is there again afterwards.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import termios
from collections.abc import Sequence
from types import FrameType
from typing import Any, Self

from galamp.core.errors import EXIT_FAILURE, UserError

OPEN, CLOSE = "\x1b[?1049h\x1b[?25l\x1b[2J", "\x1b[?25h\x1b[?1049l"
BEGIN, END = "\x1b[?2026h", "\x1b[?2026l"
"""Synchronised output: a terminal that knows it shows a picture at once, others ignore it."""
ESCAPES = {
    "\x1b[A": "up", "\x1b[B": "down", "\x1b[C": "right", "\x1b[D": "left",
    "\x1bOA": "up", "\x1bOB": "down", "\x1bOC": "right", "\x1bOD": "left",
}  # fmt: skip
MOST_BYTES = 1024
ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
"""Signals that end the command; the terminal is restored first."""


class Closed(Exception):
    """A signal, or the loss of the terminal, ends the command.

    Attributes:
        exit_code: of the command.
    """

    def __init__(self, exit_code: int) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code


class Terminal:
    """The terminal of this process, while it is entered."""

    def __init__(self) -> None:
        """Check that there is one.

        Raises:
            UserError: standard input or output is none, or cannot draw.
        """
        if not (sys.stdin.isatty() and sys.stdout.isatty()):
            raise UserError(
                "play: needs a terminal for the picture and the keys; elsewhere galamp record "
                "writes a video"
            )
        if os.environ.get("TERM", "dumb") in ("dumb", "unknown", ""):
            raise UserError("play: the terminal cannot draw (TERM); galamp record writes a video")
        if "utf" not in (sys.stdout.encoding or "").lower():
            raise UserError("play: the terminal shows no UTF-8; set LANG, such as to C.UTF-8")
        self._in, self._out = sys.stdin.fileno(), sys.stdout.fileno()
        self._shown: list[str] = []
        self._size = (0, 0)
        self._before: dict[int, Any] = {}

    @property
    def true_colour(self) -> bool:
        """Whether it says that it has 24-bit colours; else it is taken to have 256."""
        return os.environ.get("COLORTERM", "") in ("truecolor", "24bit")

    def size(self) -> tuple[int, int]:
        """Return columns and rows."""
        try:
            found = os.get_terminal_size(self._out)
        except OSError:
            return 80, 24
        return max(1, found.columns), max(1, found.lines)

    def __enter__(self) -> Self:
        """Have every key at once and without echo, and clear the screen."""
        self._mode = termios.tcgetattr(self._in)
        mode = termios.tcgetattr(self._in)
        mode[3] &= ~(termios.ICANON | termios.ECHO)
        mode[6][termios.VSUSP] = b"\0"  # a stopped game would leave the terminal like this
        mode[6][termios.VMIN], mode[6][termios.VTIME] = 0, 0
        for number in ENDING:
            self._before[number] = signal.signal(number, self._end)
        try:
            termios.tcsetattr(self._in, termios.TCSADRAIN, mode)
            self._write(OPEN)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        """Restore the terminal, also one that was lost meanwhile."""
        with contextlib.suppress(OSError, Closed):
            self._write(END + CLOSE)
        with contextlib.suppress(OSError, termios.error):
            termios.tcsetattr(self._in, termios.TCSAFLUSH, self._mode)
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def keys(self, timeout_s: float = 0.0) -> list[str]:
        """Return the keys that were pressed; waits for one, `timeout_s` at most.

        Raises:
            Closed: the terminal is gone.
        """
        if not select.select([self._in], [], [], max(0.0, timeout_s))[0]:
            return []
        try:
            text = os.read(self._in, MOST_BYTES).decode(errors="replace")
        except OSError:
            text = ""
        if not text:
            raise Closed(EXIT_FAILURE)
        return parsed(text)

    def draw(self, rows: Sequence[str]) -> None:
        """Show rows, each at most as wide as the screen, from its top.

        Raises:
            Closed: the terminal is gone.
        """
        parts, size = [], self.size()
        if size != self._size or len(rows) < len(self._shown):
            parts.append("\x1b[0m\x1b[2J")
            self._shown, self._size = [], size
        known = [*self._shown, *[""] * (len(rows) - len(self._shown))]
        for number, (row, old) in enumerate(zip(rows[: size[1]], known, strict=False), 1):
            if row != old:
                parts.append(f"\x1b[{number};1H{row}\x1b[0m\x1b[K")
        self._shown = list(rows)
        if parts:
            self._write(BEGIN + "".join(parts) + END)

    def _write(self, text: str) -> None:
        content = text.encode()
        try:
            while content:
                content = content[os.write(self._out, content) :]
        except OSError as error:
            raise Closed(EXIT_FAILURE) from error

    def _end(self, number: int, frame: FrameType | None) -> None:
        raise Closed(128 + number)


def parsed(text: str) -> list[str]:
    """Return the keys of what a terminal has sent: arrows by name, others as they are."""
    found = []
    while text:
        name = ESCAPES.get(text[:3])
        if name is not None:
            found.append(name)
            text = text[3:]
        elif text.startswith("\x1b["):
            # Another key: a sequence ends with a letter or ~.
            end = next((at for at, char in enumerate(text[2:], 2) if "@" <= char <= "~"), 2)
            text = text[end + 1 :]
        elif text.startswith("\x1bO"):
            text = text[3:]  # F1 to F4, or a key of the numeric pad
        else:
            found.append(text[0])
            text = text[1:]
    return found
