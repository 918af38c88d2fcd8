"""Figures of the tools: the flag that asks for one, where it may be written, and in which format.

    --figure FILE --figure_file--> FigureFile, checked before any work
    drawing function --rendered--> content --FigureFile.write--> FILE

Runs in the process of a tool. matplotlib is loaded only when something is drawn: it takes a second.
"""

from __future__ import annotations

import argparse
import io
import stat
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from galamp.core.disk import replace_file, write_new
from galamp.core.errors import UserError
from galamp.core.pip_commands import pip_install
from galamp.core.sanitize import clean
from galamp.core.settings import shown
from galamp.telemetry.display.streams import print_safely

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FLAG = "--figure"
FORMATS = ("png", "svg", "pdf")
"""Ends of a file's name, each a format of matplotlib."""
WITHOUT_DATE: dict[str, dict[str, Any]] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
"""Metadata of a figure, so that equal runs give equal files."""

INK, QUIET = "#22262b", "#7c858f"
CHART_STYLE: Any = {
    "font.size": 10.5,
    "text.color": INK,
    "text.parse_math": False,  # names may hold dollar signs
    "axes.edgecolor": QUIET,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e7ea",
    "grid.linewidth": 0.8,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
}
"""How curves look, by matplotlib's names."""


@dataclass(frozen=True)
class FigureFile:
    """The file of a figure: its path, whether it may replace one that exists, what it can be."""

    path: Path
    overwrite: bool = False
    formats: Sequence[str] = FORMATS

    @property
    def format(self) -> str:
        """One of `formats`, by the end of the name."""
        return self.path.suffix.lower().removeprefix(".")

    def check(self) -> None:
        """Check the path before any work is done.

        Raises:
            UserError: no format, no folder, no file, or one that exists.
        """
        if self.format not in self.formats:
            ends = " or ".join(f".{each}" for each in self.formats)
            raise self._error(f"expected a name that ends in {ends}")
        try:
            known = self.path.lstat()
        except FileNotFoundError:
            if not self.path.parent.is_dir():
                folder = shown(self.path.parent)
                raise self._error(f"there is no folder {folder}; make it first") from None
            return
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or error
            raise self._error(f"cannot be a file: {why}; name another") from None
        if stat.S_ISDIR(known.st_mode):
            raise self._error("is a folder; add a name")
        if not self.overwrite:
            raise self._error("exists; choose another name, or give --overwrite")

    def write(self, content: bytes) -> None:
        """Save the figure, and print so on standard error; see `save`."""
        self.save(content)
        print_safely(f"written: {clean(str(self.path))}\n", sys.stderr)

    def save(self, content: bytes) -> None:
        """Write the figure completely; a link is not followed.

        Raises:
            UserError: it cannot be written, or exists by now and may not be replaced.
        """
        try:
            (replace_file if self.overwrite else write_new)(self.path, content)
        except OSError as error:
            raise self._error(f"cannot be written: {error.strerror}; name another") from None

    def _error(self, problem: str) -> UserError:
        return UserError(f"{FLAG} {shown(self.path)}: {problem}")


def add_figure_flags(
    parser: argparse.ArgumentParser,
    text: str,
    *,
    short: str = "",
    former: str = "",
    formats: Sequence[str] = FORMATS,
) -> None:
    """Give `parser` the flags of a figure.

    Args:
        parser: of the command.
        text: what is drawn.
        short: a short name of the flag, such as `-o`.
        former: what the flag was called before.
        formats: ends of names that `figure_file` is to take.
    """
    ends = ", ".join(f".{each}" for each in formats)
    names = (short, FLAG) if short else (FLAG,)
    parser.add_argument(*names, metavar="FILE", help=f"{text}; its format by the name: {ends}")
    parser.add_argument(
        "--overwrite", action="store_true", help=f"let {FLAG} replace a file that exists"
    )
    if former:
        _add_former(parser, former)


def _add_former(parser: argparse.ArgumentParser, former: str) -> None:
    parser.add_argument(
        former, dest=FLAG.strip("-"), action=_Former, default=argparse.SUPPRESS,
        help=argparse.SUPPRESS,
    )  # fmt: skip


def figure_file(args: argparse.Namespace, formats: Sequence[str] = FORMATS) -> FigureFile | None:
    """Return the file that the options name, checked; None if they name none.

    Raises:
        UserError: see `FigureFile.check`; or `--overwrite` is given alone.
    """
    if args.figure is None:
        if args.overwrite:
            raise UserError(f"--overwrite: goes with {FLAG}; give that, too")
        return None
    file = FigureFile(Path(args.figure), args.overwrite, formats)
    file.check()
    return file


def rendered(
    draw: Callable[[], Figure], format: str = FORMATS[0], style: Any = MappingProxyType({})
) -> bytes:
    """Return a figure as the content of a file.

    Args:
        draw: draws it; `style` holds meanwhile.
        format: one of `FORMATS`.
        style: by name, what differs from matplotlib's own defaults. A matplotlibrc is not heeded:
            one in the working directory could have LaTeX run, say.

    Raises:
        UserError: matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
    except ImportError:
        raise UserError(f"{FLAG}: matplotlib is missing; {pip_install('matplotlib')}") from None
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update({"svg.hashsalt": "galamp", **style})  # ids that are the same every time
        content = io.BytesIO()
        draw().savefig(content, format=format, metadata=WITHOUT_DATE.get(format))
    return content.getvalue()


class _Former(argparse.Action):
    """A former name of a flag: it is taken, and told what it is called now."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        if getattr(namespace, self.dest, None) is None:  # once, however often it is given
            print_safely(f"galamp: {option_string} is now called {FLAG}\n", sys.stderr)
        setattr(namespace, self.dest, values)
