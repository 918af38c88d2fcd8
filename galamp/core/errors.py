"""Exceptions of galamp, with the exit code of each.

Used by every process. The command line turns a `GalampError` into one line on standard error and
its exit code, and so an unexpected `OSError` (`refusal`): a full disk is no defect of galamp. Any
other exception is a defect, and its traceback is shown.
"""

from __future__ import annotations

import difflib
import errno
import os
from collections.abc import Iterable

from galamp.core.pip_commands import install_extra

NEAR = 0.65
"""Smallest similarity, from 0 to 1, of a suggestion for a flag, a setting or a command."""

EXIT_OK = 0
EXIT_USAGE = 2
EXIT_FAILURE = 70
EXIT_SIGINT = 130
EXIT_SIGTERM = 143


class GalampError(Exception):
    """Base class of all exceptions that galamp raises on purpose."""

    exit_code = EXIT_FAILURE
    details = ""
    """Additional lines, such as the traceback of an exception in a user's code."""

    def __str__(self) -> str:
        return "\n".join(self.problems)

    @property
    def problems(self) -> tuple[str, ...]:
        """The problems, one line each; text from outside in them is not sanitised yet."""
        return tuple(map(str, self.args))


class UserError(GalampError):
    """Errors that the user can correct; each line says what was wrong, expected, and to do."""

    exit_code = EXIT_USAGE


class CheckpointError(UserError):
    """A checkpoint is damaged, unreadable, or belongs to another game or network."""


class RunFailed(GalampError):
    """A run cannot continue: a process died or hung, or its parameters diverged."""


class StoppedBySignal(GalampError):
    """A signal has ended the command before a run started; the exit code is 128 + its number."""

    def __init__(self, exit_code: int) -> None:
        super().__init__("stopped; no run was begun")
        self.exit_code = exit_code


class StopRun(Exception):
    """Raised in a child's waits when the run is over: the child exits normally."""


def refusal(error: OSError) -> tuple[str, int]:
    """Return one line for an operation that the system has refused, and the exit code."""
    text = error.strerror or str(error)
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return f"{text}: raise the limit (ulimit -n)", EXIT_USAGE
    if error.filename is not None:
        return f"{text} ({error.filename})", EXIT_FAILURE
    try:
        os.getcwd()
    except OSError:
        return f"{text}: the working directory was removed; go to another", EXIT_USAGE
    return text, EXIT_FAILURE


def not_installed(what: str, extra: str, error: ModuleNotFoundError) -> UserError:
    """Return the error for an optional package that is missing.

    Args:
        what: option or command that needs it.
        extra: of galamp, that brings it.
        error: the import that failed.
    """
    package = str(error.name).partition(".")[0]
    return UserError(
        f"{what}: needs the package {package}, which is not installed: {install_extra(extra)}"
    )


def did_you_mean(word: str, known: Iterable[str], *, most: int = 3, cutoff: float = 0.5) -> str:
    """Return ` (did you mean a, b?)` for the names nearest to `word`, or an empty string.

    At most `most` names; `cutoff` is the smallest similarity of a name, from 0 to 1.
    """
    by_folded = {_folded(name): name for name in known}
    near = difflib.get_close_matches(_folded(word), by_folded, n=most, cutoff=cutoff)
    return f" (did you mean {', '.join(by_folded[name] for name in near)}?)" if near else ""


def _folded(name: str) -> str:
    """Return a name as it is compared: what all flags begin with would make them alike."""
    return name.lower().replace("_", "").lstrip("-")
