"""What writes tables: as wide as the terminal, or as a page where there is none."""

from __future__ import annotations

from typing import TextIO

from rich.console import Console

PAGE_WIDTH = 120


def table_console(file: TextIO, width: int | None = None) -> Console:
    """Return what writes plain text and tables to `file`, `width` columns wide where given."""
    width = width or (None if file.isatty() else PAGE_WIDTH)
    return Console(file=file, width=width, markup=False, highlight=False, emoji=False)
