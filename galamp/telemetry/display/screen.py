r"""Screen: the alternate screen of a terminal, of which only changed lines are written.

    lines --Screen.paint--> ESC[?2026h, changed lines, ESC[?2026l in one write --> terminal

A terminal that knows synchronised output shows a frame as a whole; others ignore the two marks.
Each line is written over the old one, and what is left of that is erased: nothing is ever blank
between.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Hashable, Sequence

from rich.color import ColorSystem
from rich.console import Console
from rich.text import Text

from galamp.telemetry.display.streams import SafeStream

ENTER = "\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[H\x1b[2J"
"""Alternate screen, no cursor, no wrapping, and blank."""
LEAVE = "\x1b[?2026l\x1b[0m\x1b[?7h\x1b[?25h\x1b[?1049l"
COLOURS = {
    "standard": ColorSystem.STANDARD,
    "256": ColorSystem.EIGHT_BIT,
    "truecolor": ColorSystem.TRUECOLOR,
}
BEGIN, END = "\x1b[?2026h", "\x1b[?2026l"


class Screen:
    """The alternate screen of the terminal behind a console, entered by the first `paint`."""

    def __init__(self, console: Console, stream: SafeStream) -> None:
        """Paint on `stream` with the colours that `console` knows."""
        self._console, self._stream = console, stream
        self._shown: list[str] = []
        self._known: dict[Hashable, str] = {}
        """Lines of the last frame -> what was written for them."""
        self._size = (0, 0)
        self.entered = False

    def paint(self, lines: Sequence[Text], size: tuple[int, int]) -> None:
        """Show `lines` on a terminal of `size`, columns and rows."""
        drawn = self._translated(lines[: size[1]])
        drawn += [""] * (size[1] - len(drawn))
        head = ""
        if not self.entered or size != self._size:
            head = "\x1b[H\x1b[2J" if self.entered else ENTER
            self._shown, self._size, self.entered = [""] * size[1], size, True
        changed = [
            f"\x1b[{row};1H{new}" + ("" if _fills(lines, row, size[0]) else "\x1b[K")
            for row, (old, new) in enumerate(zip(self._shown, drawn, strict=True), start=1)
            if old != new
        ]
        self._shown = drawn
        if head or changed:
            self._stream.write(f"{BEGIN}{head}{''.join(changed)}{END}")
            self._stream.flush()

    def _translated(self, lines: Sequence[Text]) -> list[str]:
        """Return what is written for each line; most are those of the last frame."""
        former, self._known = self._known, {}
        for line in lines:
            key = _key(line)
            if key not in self._known:
                self._known[key] = former.get(key) or _ansi(line, self._console)
        return [self._known[_key(line)] for line in lines]

    def renew(self) -> None:
        """Let the next `paint` write every line: something else may have written."""
        self._size = (0, 0)

    def leave(self) -> None:
        """Return to the ordinary screen."""
        if self.entered:
            self.entered = False
            self._stream.write(LEAVE)
            self._stream.flush()

    def abandon(self) -> None:
        """Return to the ordinary screen past all buffers: this process ends at once."""
        if self.entered:
            with contextlib.suppress(OSError, ValueError):
                os.write(self._stream.fileno(), LEAVE.encode())


def _key(line: Text) -> Hashable:
    return line.plain, tuple(line.spans), line.style


def _fills(lines: Sequence[Text], row: int, width: int) -> bool:
    """Whether a line reaches the last column: to erase there would erase its last character."""
    return row <= len(lines) and lines[row - 1].cell_len >= width


def _ansi(line: Text, console: Console) -> str:
    """Return a line with its styles as the terminal's sequences, each complete in itself."""
    system = COLOURS.get(console.color_system or "")
    return "".join(
        segment.text
        if segment.style is None
        else (segment.style.without_color if console.no_color else segment.style).render(
            segment.text, color_system=system
        )
        for segment in line.render(console)
    )
