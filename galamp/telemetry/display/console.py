"""Console for tables: as wide as the terminal, or a fixed page width without one."""

from __future__ import annotations

from typing import TextIO

from rich.console import Console

PAGE_WIDTH = 120


def table_console(file: TextIO, width: int | None = None) -> Console:
    """Return a console for plain text and tables on `file`; `width` is in columns."""
    width = width or (None if file.isatty() else PAGE_WIDTH)
    return Console(file=file, width=width, markup=False, highlight=False, emoji=False)
