"""What an environment raised, in words: one line with the place in its code, and the traceback.

Used by the probe, before anything is started, and by evaluation, which plays in its own process.
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
    """Return in one line what an environment raised, and where."""
    if isinstance(error, InvalidDataError):
        return str(error)
    return user_code.failure_line(env_id, error, gymnasium)


@contextmanager
def failures_told(env_id: str) -> Iterator[None]:
    """Run foreign code; what it raises becomes a `GalampError` of one line, with its traceback.

    Raises:
        GalampError: the environment raised something.
    """
    try:
        yield
    except GalampError:
        raise
    except (Exception, SystemExit) as error:
        failure = GalampError(failure_line(env_id, error))
        failure.details = traceback_of(error)
        raise failure from error
