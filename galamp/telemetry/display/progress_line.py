"""Progress of a command that takes a while: one line on a terminal, gone before its results.

text --ProgressLine--> the current line of the terminal, again and again --leaving--> an empty line
"""

from __future__ import annotations

from typing import Self, TextIO

from galamp.telemetry.display.streams import print_safely

CLEAR = "\r\x1b[K"
"""To the begin of the line, and nothing in it any more."""


class ProgressLine:
    """A line that each `show` replaces, and that is cleared when it is left.

    Results often go to another stream on the same terminal: they would replace no more of the line
    than they are long.
    """

    def __init__(self, stream: TextIO | None) -> None:
        """Write to `stream`; where it is no terminal, nothing."""
        self._stream = stream
        self.is_shown = stream is not None and stream.isatty()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """Clear the line."""
        if self.is_shown:
            print_safely(CLEAR, self._stream)

    def show(self, text: str) -> None:
        """Show `text`, which must fit into a line."""
        if self.is_shown:
            print_safely(f"{CLEAR}{text}\r", self._stream)
