"""`galamp audit`: replay a run's recorded gossip, and compare the measurements with it.

    arguments --> audit.audit --> report, JSON or figure, and exit code 0 or 1

Only light modules are imported at the top, since the command line imports this one for every
command.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from galamp.core.errors import EXIT_OK, UserError
from galamp.core.settings import shown
from galamp.storage.links import followed
from galamp.tools.figures import FigureFile, add_figure_flags, figure_file

if TYPE_CHECKING:
    from galamp.tools.audit.audit import Audit

EXIT_NOT_PROVEN = 1
"""Exit code for a violation or an incomplete record."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Give `parser` the options of `galamp audit`, and the command."""
    parser.set_defaults(command=audit_command)
    parser.add_argument(
        "runs", metavar="RUN", type=followed, nargs="+",
        help="run folder; several, of the machines of one run, are checked against each other, too"
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    add_figure_flags(
        parser, "draw distances, certificates and their ratio", short="-o", former="--plot"
    )


def audit_command(args: argparse.Namespace) -> int:
    """`galamp audit`: 0 where no measured distance exceeds its certificate, else 1."""
    file = figure_file(args)
    if len(args.runs) > 1:
        return _several(args.runs, as_json=args.json, drawn=file is not None)
    from galamp.tools.audit.audit import audit
    from galamp.tools.audit.report import lines, summary

    (run,) = args.runs
    with _progress() as on_progress:
        found = audit(run, on_progress)
    result = summary(run, found)
    print(json.dumps(result) if args.json else "\n".join(lines(result)))
    if file is not None:
        _draw(file, result, found)
    return EXIT_OK if found.passed else EXIT_NOT_PROVEN


def _several(runs: Sequence[Path], *, as_json: bool, drawn: bool) -> int:
    """Audit the nodes of a run, each for itself, and what has come over between them.

    Raises:
        UserError: they are no nodes of a run; or a figure is wanted, which is of one.
    """
    from galamp.tools.audit.across import crossings
    from galamp.tools.audit.audit import audit
    from galamp.tools.audit.report import across_lines, lines, summary

    if drawn:
        raise UserError("--figure: draws one run; give one folder")
    with _progress() as on_progress:
        results = [summary(run, audit(run, on_progress)) for run in runs]
    between = crossings(runs)
    passed = all(each["passed"] for each in results) and not any(one.false for one in between)
    if as_json:
        across = [one._asdict() for one in between]
        print(json.dumps({"passed": passed, "runs": results, "across": across}))
    else:
        for result in results:
            print("\n".join(lines(result)), end="\n\n")
        print("\n".join(across_lines(between)))
    return EXIT_OK if passed else EXIT_NOT_PROVEN


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """Yield a function that shows progress on a terminal: records of gigabytes take minutes."""
    from galamp.telemetry.display.progress_line import ProgressLine

    with ProgressLine(sys.stderr) as line:
        yield lambda lines, measurements: line.show(
            f"{lines:,} lines, {measurements:,} measurements"
        )


def _draw(file: FigureFile, result: dict[str, Any], found: Audit) -> None:
    from galamp.core.sanitize import clean
    from galamp.tools.audit.figure import draw

    if not len(found.series):
        sys.stderr.write(f"galamp: {shown(file.path)} not drawn: nothing was measured\n")
        return
    name = Path(result["run"]).resolve().name
    title = clean(f"{name}: {result['learners']} learners, {result['topology']}")
    file.write(draw(found.series, title, file.format))
