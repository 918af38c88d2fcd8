"""What is measured on a GPU is measured in a child, which tells what it has found line by line.

    parent: ask(module, words) --starts--> python -m galamp.tools.bench.gpu.<module> words
            values, as far as they came <--"galamp: found {...}" lines-- child: tell(name=value)

Whatever else the child writes, such as torch's warnings, is passed over.
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


def tell(**values: Any) -> None:
    """In a child: have the parent know these values."""
    print(f"{MARK}{json.dumps(values)}", flush=True)


def run(main: Callable[[], None]) -> None:
    """In a child: do all; the parent is told what was raised, in one line.

    Of what CUDA raises, the first line says what is wrong, and the last how to find out more.
    """
    try:
        main()
    except Exception as error:
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        tell(**{FAILURE: line})
        raise


def ask(module: str, words: Sequence[object], report: Report, deadline: Deadline) -> dict[str, Any]:
    """Run `galamp.tools.bench.gpu.<module>` as a child; returns what it told.

    What it tells goes into `report` as well.

    Raises:
        RunFailed: it failed.
        Late: its time is over; what it had told is in `report`.
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
            why = report.values.pop(FAILURE, program.last_words())
            raise RunFailed(f"{module} ended with code {code}: {why}")
    return report.values


def told(lines: Iterable[str]) -> dict[str, Any]:
    """Return what a child's lines tell; of a value that is told twice, the last."""
    found: dict[str, Any] = {}
    for line in lines:
        if line.startswith(MARK) and line.endswith("}"):
            found |= json.loads(line.removeprefix(MARK))
    return found
