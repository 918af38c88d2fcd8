"""Probe: a short-lived process that tries an environment, and returns its spec or its problems.

Started by `environments.probing.Probe`, by way of `reaper.run_contained`, with its request from
JSON. It answers on standard output with one line of JSON: `spec`, or `problems` (a line each) and
`details` (such as a traceback). It exists because ale-py ends its whole process from C++ over a bad
ROM, which no `except` can catch, and because what a user's environment starts or leaves behind ends
with it.
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
from typing import Any, NoReturn

from galamp.core import config
from galamp.core.errors import EXIT_OK, EXIT_USAGE, UserError
from galamp.core.seeding import seed_generators
from galamp.core.user_code import traceback_of
from galamp.environments import describe
from galamp.environments.checks import InvalidDataError
from galamp.environments.failures import failure_line

MARGIN_S = 30
"""The probe ends itself this long after its timeout, if no other process has ended it."""

MAX_ALARM_S = 2**31 - 1


def main(request: dict[str, Any]) -> NoReturn:
    """Try the environment of one request, answer, and exit at once, whatever still runs."""
    signal.alarm(min(int(request["timeout_s"]) + MARGIN_S, MAX_ALARM_S))
    # Only the answer may go to standard output: what games and modules print goes to stderr.
    answer = os.dup(1)
    os.dup2(2, 1)
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True, chain=True)  # writes stacks, then ends
    seed_generators(request["seed"])
    found = try_environment(config.from_dict({"environment": request["environment"]}).environment)
    os.write(answer, json.dumps(found).encode() + b"\n")
    # Do not wait for the environment's non-daemon threads or exit handlers.
    os._exit(EXIT_OK if "spec" in found else EXIT_USAGE)


def try_environment(environment: config.EnvironmentConfig) -> dict[str, Any]:
    """Build, reset and step one environment; return the probe's answer."""
    try:
        return {"spec": describe(environment).to_dict()}
    except UserError as error:
        cause = error.__cause__
        lines = [" ".join(problem.split()) for problem in error.problems]
        return {"problems": lines, "details": "" if cause is None else traceback_of(cause)}
    except InvalidDataError as error:
        return {"problems": [str(error)], "details": ""}
    except BaseException as error:
        line = failure_line(environment.env_id, error)
        return {"problems": [line], "details": traceback_of(error)}
