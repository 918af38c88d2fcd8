"""A throw-away process that tries an environment out, and tells its spec or what is wrong with it.

Started by `preflight.Probe`, as `python -m galamp.environments.probe REQUEST`. It answers on
standard output with one line of JSON: `spec`, or `problems` (a line each) and `details` (such as a
traceback). It exists because ale-py ends its whole process from C++ over a bad ROM, which no
`except` can catch, and because what a user's environment starts or leaves behind ends with it.
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import sys
import sysconfig
import traceback
from pathlib import Path
from typing import Any, NoReturn

import gymnasium

import galamp
from galamp import config
from galamp.environments import describe
from galamp.environments.checks import InvalidDataError
from galamp.errors import EXIT_OK, EXIT_USAGE, UserError
from galamp.worker import die_with_parent

MARGIN_S = 30
"""The probe ends itself so long after its time is up, should nobody else have."""

LONGEST_ALARM_S = 2**31 - 1

MOST_DETAILS = 20_000
"""Characters of a traceback; one of endless recursion is longer."""


def main(request: str) -> NoReturn:
    """Try out the environment of one request, answer, and leave at once, whatever still runs."""
    asked = json.loads(request)
    die_with_parent(asked["parent"], signal.SIGKILL)
    signal.alarm(min(int(asked["timeout_s"]) + MARGIN_S, LONGEST_ALARM_S))
    # Only the answer may stand on standard output: what games and modules print goes to stderr.
    answer = os.dup(1)
    os.dup2(2, 1)
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    told = look(config.from_dict({"environment": asked["environment"]}).environment)
    os.write(answer, json.dumps(told).encode() + b"\n")
    # A thread of the environment's that is no daemon, or what runs at exit, is not waited for.
    os._exit(EXIT_OK if "spec" in told else EXIT_USAGE)


def look(environment: config.EnvironmentConfig) -> dict[str, Any]:
    """Return the answer for one environment."""
    try:
        return {"spec": describe(environment).to_dict()}
    except UserError as error:
        cause = error.__cause__
        lines = [" ".join(problem.split()) for problem in error.problems]
        return {"problems": lines, "details": "" if cause is None else _traceback(cause)}
    except InvalidDataError as error:
        return {"problems": [str(error)], "details": ""}
    except (Exception, SystemExit) as error:
        text = " ".join(f"raised {type(error).__name__}: {error}".split()).removesuffix(":")
        line = f"{environment.env_id}: {text} ({_place(error)})"
        return {"problems": [line], "details": _traceback(error)}


def _traceback(error: BaseException) -> str:
    text = "".join(traceback.format_exception(error))
    return text if len(text) <= MOST_DETAILS else f"...{text[-MOST_DETAILS:]}"


def _place(error: BaseException) -> str:
    """Return file, line and function of the user's code from which an error came.

    That is the innermost frame which is nobody else's; where there is none, which is not galamp's.
    """
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    installed = [sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")]
    ours = [f"{Path(str(module.__file__)).parent}/" for module in (galamp, gymnasium)]
    for others in ((*ours, *installed, "<frozen"), (*ours, "<frozen"), ours[:1]):
        for frame in reversed(frames):
            if not frame.filename.startswith(tuple(others)):
                return f"{frame.filename}:{frame.lineno} in {frame.name}"
    return f"{frames[-1].filename}:{frames[-1].lineno}"


if __name__ == "__main__":
    main(sys.argv[1])
