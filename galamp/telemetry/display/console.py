"""Tables of all commands, and the console for them: as wide as the terminal, or a fixed page.

headings --plain_table--> rich's Table, with rows added --Console.print--> stream
--text_lines-------> lines of text
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TextIO

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table

PAGE_WIDTH = 120


def table_console(file: TextIO, width: int | None = None) -> Console:
    """Return a console for plain text and tables on `file`; `width` is in columns."""
    width = width or (None if file.isatty() else PAGE_WIDTH)
    return Console(file=file, width=width, markup=False, highlight=False, emoji=False)


def plain_table(headings: Sequence[str], *, text: Sequence[int] = (0,), padding: int = 1) -> Table:
    """Return an empty table with one rule below its headings.

    Args:
        headings: of the columns.
        text: which columns hold text, from 0; numbers stand on the right.
        padding: cells on either side of a column.
    """
    table = Table(box=box.SIMPLE, padding=(0, padding), collapse_padding=True, pad_edge=False)
    for column, heading in enumerate(headings):
        table.add_column(heading, justify="left" if column in text else "right", overflow="fold")
    return table


def plain_grid(*widths: int | None) -> Table:
    """Return an empty table without headings; a width of None is what the page leaves."""
    grid = Table.grid(padding=(0, 1, 0, 0))
    for width in widths:
        grid.add_column(width=width, overflow="fold")
    return grid


def text_lines(shown: RenderableType, width: int = PAGE_WIDTH) -> list[str]:
    """Return a table as lines of text without trailing blanks; empty lines are left out."""
    text = io.StringIO()
    table_console(text, width).print(shown)
    return [line.rstrip() for line in text.getvalue().splitlines() if line.strip()]
