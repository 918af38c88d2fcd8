"""Failures of environments as text: one line with the place in the code, and the traceback.

Used by the probe, before a run starts, and by evaluation, which plays in its own process.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import gymnasium

from galamp.core import user_code
from galamp.core.errors import GalampError
from galamp.core.user_code import traceback_of
from galamp.environments.checks import InvalidDataError


def failure_line(env_id: str, error: BaseException) -> str:
    """Return one line with the exception of an environment, and its place in the code."""
    if isinstance(error, InvalidDataError):
        return str(error)
    return user_code.failure_line(env_id, error, gymnasium)


@contextmanager
def failures_reported(env_id: str) -> Iterator[None]:
    """Run an environment's code; its exception becomes a `GalampError` of one line, with traceback.

    Raises:
        GalampError: the environment raised an exception.
    """
    try:
        yield
    except GalampError:
        raise
    except (Exception, SystemExit) as error:
        failure = GalampError(failure_line(env_id, error))
        failure.details = traceback_of(error)
        raise failure from error
