"""Failures of environments as text: one line with the place in the code, and the traceback.

Used by the probe, before a run starts, and by evaluation, which plays in its own process.
"""

from __future__ import annotations

import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import gymnasium

import galamp
from galamp.core.errors import GalampError
from galamp.environments.checks import InvalidDataError

MAX_DETAILS = 20_000
"""Most characters of a traceback; that of an endless recursion is longer."""


def failure_line(env_id: str, error: BaseException) -> str:
    """Return one line with the exception of an environment, and its place in the code."""
    if isinstance(error, InvalidDataError):
        return str(error)
    text = " ".join(f"raised {type(error).__name__}: {error}".split()).removesuffix(":")
    return f"{env_id}: {text} ({_place(error)})"


def traceback_of(error: BaseException) -> str:
    """Return the traceback of an error with its notes; only the end if it is too long."""
    text = "".join(traceback.format_exception(error))
    return text if len(text) <= MAX_DETAILS else f"...{text[-MAX_DETAILS:]}"


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


def _place(error: BaseException) -> str:
    """Return file, line and function of the user's code that caused an error.

    That is the innermost frame outside installed packages; if there is none, outside galamp.
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
