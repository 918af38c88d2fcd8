"""`galamp doctor`: a line for each finding, and exit code 1 if no run is possible.

Only light modules are imported at the top, since the command line imports this one for its help.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import textwrap
from collections.abc import Iterable
from typing import TYPE_CHECKING

from galamp.core.errors import EXIT_OK

if TYPE_CHECKING:
    from galamp.tools.doctor.finding import Finding

EXIT_PREVENTED = 1
WHAT = 12
"""Width of the first column, in characters."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Give `parser` the command; it has no options."""
    parser.description = (
        "Look at this machine: processors, memory, GPUs, PyTorch, games, terminal, disk, and a "
        "speed test of 3 s. Lines with ! say what to do. Exit code 1 if no run is possible."
    )
    parser.set_defaults(command=doctor_command)


def doctor_command(args: argparse.Namespace) -> int:
    """`galamp doctor`."""
    from galamp.tools.doctor.checks import CHECKS
    from galamp.tools.doctor.trial import tried

    findings: list[Finding] = []
    for check in (*CHECKS, tried):
        for finding in check():
            findings.append(finding)
            print("\n".join(lines_of(finding, _width())), flush=True)
    prevented = [finding for finding in findings if finding.prevents]
    fixes = sum(bool(finding.fix) for finding in findings)
    print(f"\n{verdict(len(prevented), fixes)}")
    return EXIT_PREVENTED if prevented else EXIT_OK


def verdict(prevented: int, fixes: int) -> str:
    """Return the last line."""
    if prevented:
        return "No run is possible before that is done."
    return "Runs are possible." if fixes else "All is well."


def lines_of(finding: Finding, width: int) -> Iterable[str]:
    """Return a finding in lines of at most `width` characters; 0: in one line."""
    mark = "! " if finding.fix or finding.prevents else "ok"
    indent = " " * (len(mark) + 1 + WHAT)
    if not width:
        fix = f" -> {finding.fix}" if finding.fix else ""
        return [f"{mark} {finding.what:<{WHAT}}{finding.text}{fix}"]
    wrapped = textwrap.wrap(finding.text, max(20, width - len(indent))) or [""]
    if finding.fix:
        wrapped += textwrap.wrap(f"-> {finding.fix}", max(20, width - len(indent)))
    return [f"{mark} {finding.what:<{WHAT}}{wrapped[0]}", *(indent + line for line in wrapped[1:])]


def _width() -> int:
    """Return the width of lines: a terminal's; 0 where there is none."""
    return shutil.get_terminal_size().columns - 1 if sys.stdout.isatty() else 0
