"""`galamp report`: a run as one page for a browser.

    RUN --content--> RUN/report.html, or the file that -o names

The run may have ended, or go on; it is only read. Only light modules are imported at the top, since
the command line imports this one for every command.
"""

from __future__ import annotations

import argparse
import stat
import sys
from pathlib import Path

from galamp.core.errors import EXIT_OK, UserError
from galamp.core.sanitize import clean
from galamp.storage.links import followed
from galamp.telemetry.display.streams import print_safely

FILE = "report.html"
ENDS = (".html", ".htm")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Give `parser` the options of `galamp report`, and the command."""
    parser.description = (
        "Write a run as one page for a browser: plots, numbers, settings, events, evaluations, and "
        "a clip. It needs no network, and no other file."
    )
    parser.set_defaults(command=report_command)
    parser.add_argument("run", metavar="RUN", type=followed, help="run folder, ended or running")
    parser.add_argument(
        "-o", "--output", metavar="FILE", type=Path, help=f"the page (default: RUN/{FILE})"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="let it replace a file that exists"
    )
    parser.add_argument(
        "--clip", metavar="FILE", type=Path,
        help="video to show, .mp4, .webm or .gif (default: the newest in RUN, if there is one)",
    )  # fmt: skip


def report_command(args: argparse.Namespace) -> int:
    """`galamp report`."""
    file = args.output or args.run / FILE
    _check(args.run, file, args.overwrite)
    from galamp.core.disk import replace_file, write_new
    from galamp.tools.plot.runs import load
    from galamp.tools.report.clips import clip_of
    from galamp.tools.report.content import content
    from galamp.tools.run_folders.record import read_record

    clip = clip_of(args.run, args.clip)
    (run,) = load([args.run])
    page = content(read_record(args.run), run, clip)
    try:
        (replace_file if args.overwrite else write_new)(file, page)
    except OSError as error:
        raise UserError(f"-o {file}: cannot be written: {error.strerror}; name another") from None
    print_safely(f"galamp: written: {clean(str(file))}\n", sys.stderr)
    return EXIT_OK


def _check(run: Path, file: Path, overwrite: bool) -> None:
    """Check the paths before any work is done.

    Raises:
        UserError: no run folder, or no place for the page.
    """
    from galamp.tools.run_folders.record import is_run

    if not is_run(run):
        raise UserError(f"{run}: not a run folder (it has no config.json)")
    if file.suffix.lower() not in ENDS:
        raise UserError(f"-o {file}: expected a name that ends in {' or '.join(ENDS)}")
    try:
        known = file.lstat()
    except FileNotFoundError:
        if not file.parent.is_dir():
            raise UserError(f"-o {file}: there is no folder {file.parent}; make it first") from None
        return
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise UserError(f"-o {file}: cannot be a file: {why}; name another") from None
    if stat.S_ISDIR(known.st_mode):
        raise UserError(f"-o {file}: is a folder; add a name")
    if not overwrite:
        raise UserError(f"{file}: exists; name another by -o, or give --overwrite")
