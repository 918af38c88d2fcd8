"""A throw-away process that tries an environment out, and tells its spec or what is wrong with it.

Started by `preflight.Probe`, by way of `reaper.keep`, with its request from JSON. It answers on
standard output with one line of JSON: `spec`, or `problems` (a line each) and `details` (such as a
traceback). It exists because ale-py ends its whole process from C++ over a bad ROM, which no
`except` can catch, and because what a user's environment starts or leaves behind ends with it.
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
"""The probe ends itself so long after its time is up, should nobody else have."""

LONGEST_ALARM_S = 2**31 - 1


def main(asked: dict[str, Any]) -> NoReturn:
    """Try out the environment of one request, answer, and leave at once, whatever still runs."""
    signal.alarm(min(int(asked["timeout_s"]) + MARGIN_S, LONGEST_ALARM_S))
    # Only the answer may stand on standard output: what games and modules print goes to stderr.
    answer = os.dup(1)
    os.dup2(2, 1)
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True, chain=True)  # and then it ends
    seed_generators(asked["seed"])
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
        return {"problems": lines, "details": "" if cause is None else traceback_of(cause)}
    except InvalidDataError as error:
        return {"problems": [str(error)], "details": ""}
    except BaseException as error:
        line = failure_line(environment.env_id, error)
        return {"problems": [line], "details": traceback_of(error)}
