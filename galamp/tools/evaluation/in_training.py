"""Process of one evaluation while a run trains: `galamp eval`, at the lowest priority.

    training.evaluator.Evaluator --request--> main --evaluate--> {"report": ...} or {"problem": ...}

Started by `core.processes.probe_process.Probing`, with its request from JSON; it answers on
standard output with one line of JSON. It ends with the run that started it, and so does whatever
the environment starts.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any, NoReturn

from setproctitle import setproctitle

from galamp.core.errors import EXIT_FAILURE, EXIT_OK, GalampError
from galamp.core.processes.exit_reports import report_of

LOWEST_PRIORITY = 19
OUT_OF_MEMORY_SCORE = 900
"""When memory runs out, this process goes first."""


def main(request: dict[str, Any]) -> NoReturn:
    """Evaluate one checkpoint, answer, and exit at once, whatever still runs.

    Args:
        request: `checkpoint`, its path; `cores` to run on, empty for any; `settings` of
            `EvaluationConfig`.
    """
    # Only the answer may go to standard output: what games and modules print goes to stderr.
    answer = os.dup(1)
    os.dup2(2, 1)
    setproctitle("galamp: evaluation")
    _step_back(request["cores"])
    found: dict[str, Any]
    try:
        found, code = {"report": _report(request)}, EXIT_OK
    except Exception as error:
        problem = str(error) if isinstance(error, GalampError) else report_of(error).cause
        found, code = {"problem": " ".join(problem.split())}, EXIT_FAILURE
    _write(answer, json.dumps(found).encode() + b"\n")
    # Do not wait for the environment's non-daemon threads or exit handlers.
    os._exit(code)


def _step_back(cores: list[int]) -> None:
    """Leave processors and memory to the learners and simulators."""
    os.nice(LOWEST_PRIORITY)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(OUT_OF_MEMORY_SCORE))
    if cores:
        with contextlib.suppress(OSError):  # they were removed from this machine, or container
            os.sched_setaffinity(0, cores)


def _report(request: dict[str, Any]) -> dict[str, Any]:
    from galamp.tools.evaluation.config import EvaluationConfig
    from galamp.tools.evaluation.report import evaluate
    from galamp.tools.evaluation.table import Progress

    config = EvaluationConfig(**request["settings"])
    report, _ = evaluate(Path(request["checkpoint"]), config, Progress(config.quiet, [0]))
    return report


def _write(file: int, content: bytes) -> None:
    while content:
        content = content[os.write(file, content) :]
