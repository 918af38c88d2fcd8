"""Measurements on a GPU are made in a child process, which reports each value on a line.

    parent: ask(module, arguments) --starts--> python -m galamp.tools.bench.gpu.<module> arguments
            values so far <--"galamp: found {...}" lines-- child: send(name=value)

Other output of the child, such as torch's warnings, is skipped.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from galamp.core.errors import RunFailed
from galamp.tools.bench.gpu.steps import Deadline, Report, code_of
from galamp.tools.bench.processes import Program
from galamp.tools.bench.runs import ROOT

MARK = "galamp: found "
FAILURE = "failure"


def send(**values: Any) -> None:
    """In a child: send these values to the parent."""
    print(f"{MARK}{json.dumps(values)}", flush=True)


def run(main: Callable[[], None]) -> None:
    """In a child: run `main`; an exception is sent to the parent, in one line.

    Of a CUDA error, the first line gives the error, and the last how to debug it.
    """
    try:
        main()
    except Exception as error:
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        send(**{FAILURE: line})
        raise


def ask(module: str, words: Sequence[object], report: Report, deadline: Deadline) -> dict[str, Any]:
    """Run `galamp.tools.bench.gpu.<module>` as a child; returns the values that it sent.

    They are added to `report` as well.

    Raises:
        RunFailed: it failed.
        Late: its time is over; the values so far are in `report`.
    """
    command = [sys.executable, "-m", f"galamp.tools.bench.gpu.{module}", *words]
    with (
        tempfile.TemporaryDirectory(prefix="galamp-bench-") as folder,
        Program(command, ROOT, Path(folder, "output.log")) as program,
    ):
        try:
            code = code_of(program, deadline, module)
        finally:
            report.values |= told(program.lines())
        if code != 0:
            why = report.values.pop(FAILURE, program.last_line())
            raise RunFailed(f"{module} ended with code {code}: {why}")
    return report.values


def told(lines: Iterable[str]) -> dict[str, Any]:
    """Return the values in a child's lines; of a repeated value, the last."""
    found: dict[str, Any] = {}
    for line in lines:
        if line.startswith(MARK) and line.endswith("}"):
            found |= json.loads(line.removeprefix(MARK))
    return found
