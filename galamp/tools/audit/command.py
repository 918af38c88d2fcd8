"""`galamp audit`: replay a run's recorded gossip, and compare the measurements with it.

    arguments --> audit.audit --> report, JSON or PNG, and exit code 0 or 1

Only light modules are imported at the top, since the command line imports this one for every
command.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from galamp.core.errors import EXIT_OK, UserError
from galamp.storage.links import followed

if TYPE_CHECKING:
    from galamp.tools.audit.audit import Audit

EXIT_NOT_PROVEN = 1
"""Exit code for a violation or an incomplete record."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Give `parser` the options of `galamp audit`, and the command."""
    parser.set_defaults(command=audit_command)
    parser.add_argument("run", metavar="RUN", type=followed, help="run folder")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument(
        "--plot", metavar="FILE.png", type=Path, help="draw distances, certificates and their ratio"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="let --plot replace a file that exists"
    )


def audit_command(options: argparse.Namespace) -> int:
    """`galamp audit`: 0 where no measured distance exceeds its certificate, else 1."""
    if options.plot is not None:
        _check_target(options.plot, options.overwrite)
    elif options.overwrite:
        raise UserError("--overwrite: goes with --plot; give that, too")
    from galamp.tools.audit.audit import audit
    from galamp.tools.audit.report import lines, summary

    found = audit(options.run, _progress())
    result = summary(options.run, found)
    print(json.dumps(result) if options.json else "\n".join(lines(result)))
    if options.plot is not None:
        _plot(options.plot, options.overwrite, result, found)
    return EXIT_OK if found.passed else EXIT_NOT_PROVEN


def _progress() -> Callable[[int, int], None] | None:
    """Return a function that shows progress on a terminal: records of gigabytes take minutes."""
    if not sys.stderr.isatty():
        return None

    def on_progress(lines: int, measurements: int) -> None:
        sys.stderr.write(f"\r\x1b[K{lines:,} lines, {measurements:,} measurements\r")
        sys.stderr.flush()

    return on_progress


def _check_target(path: Path, overwrite: bool) -> None:
    """Refuse an existing or impossible target before the audit, which takes longer."""
    if path.suffix.lower() != ".png":
        raise UserError(f"--plot {path}: expected a name that ends in .png")
    if not os.path.isdir(path.parent):
        raise UserError(f"--plot {path}: there is no folder {path.parent}; make it first")
    if os.path.isdir(path):
        raise UserError(f"--plot {path}: is a folder; choose another name")
    if not overwrite and os.path.lexists(path):
        raise UserError(f"--plot {path}: exists; choose another name, or give --overwrite")


def _plot(path: Path, overwrite: bool, result: dict[str, Any], found: Audit) -> None:
    from galamp.core.disk import temporary_name, write_new
    from galamp.core.sanitize import clean
    from galamp.tools.audit.figure import draw

    if not len(found.series):
        sys.stderr.write(f"galamp: {path} not drawn: nothing was measured\n")
        return
    name = Path(result["run"]).resolve().name
    content = draw(
        found.series, clean(f"{name}: {result['learners']} learners, {result['topology']}")
    )
    try:
        if overwrite:
            with temporary_name(path.parent) as temporary:
                write_new(temporary, content)
                temporary.replace(path)
        else:
            write_new(path, content)
    except OSError as error:
        raise UserError(f"--plot {path}: cannot be written: {error.strerror}") from None
    sys.stderr.write(f"written: {path}\n")
