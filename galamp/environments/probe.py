"""A throw-away process that builds one lane and prints the environment's spec.

Started by `start_probe`, as `python -m galamp.environments.probe CONFIG`, with the environment
section of the config as JSON. It answers on standard output with the `EnvironmentSpec` as one line
of JSON, or with a line on standard error and exit code 2 where the user made a mistake. It exists
because ale-py ends its whole process from C++ over a bad ROM, which no `except` can catch.
"""

from __future__ import annotations

import json
import os
import signal
import sys

from galamp import config
from galamp.environments import describe
from galamp.errors import UserError

LIFETIME_S = 120
"""The probe ends itself after so long, should the process that waits for it be gone."""


def main(section: str) -> int:
    """Describe the environment of one config section; return the exit code."""
    signal.alarm(LIFETIME_S)
    # Only the spec may stand on standard output: whatever games and modules print goes to stderr.
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        spec = describe(config.from_dict({"environment": json.loads(section)}).environment)
    except UserError as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        return error.exit_code
    with answer:
        print(json.dumps(spec.to_dict()), file=answer)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
