"""One frame of the dashboard as a picture, SVG, that loads nothing: neither fonts nor scripts.

    lines of text --svg_of--> bytes of an SVG, equal for equal lines

Runs in the process of `galamp attach`; Rich draws it.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence

from rich.console import Console, RenderableType
from rich.terminal_theme import SVG_EXPORT_THEME

FONT_FACE = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)
"""Rich's style asks another host for a font; any monospaced one does as well."""
RICHS_FONTS = "font-family: Fira Code, monospace"
FONTS = "font-family: Fira Code, Menlo, Consolas, DejaVu Sans Mono, monospace"


def svg_of(lines: Sequence[RenderableType], *, width: int, title: str) -> bytes:
    """Return lines of text, of at most `width` columns, as a picture of a terminal's window."""
    console = Console(
        file=io.StringIO(), width=width, record=True, force_terminal=True,
        color_system="truecolor", legacy_windows=False,
    )  # fmt: skip
    for line in lines:
        console.print(line, no_wrap=True, crop=True, highlight=False, markup=False)
    picture = console.export_svg(title=title, theme=SVG_EXPORT_THEME, unique_id="frame")
    return FONT_FACE.sub("", picture).replace(RICHS_FONTS, FONTS).encode()
