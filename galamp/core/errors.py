"""One tree of exceptions, and the exit code that each ends the command with.

Used by every process. The command line turns a `GalampError` into one line on standard error and
its exit code, and an `OSError` that nobody has expected as well (`refusal`): a disk that is full is
no defect. Anything else is a defect in galamp and shows its traceback.
"""

from __future__ import annotations

import difflib
import errno
import os
from collections.abc import Iterable

EXIT_OK = 0
EXIT_USAGE = 2
EXIT_FAILURE = 70
EXIT_SIGINT = 130
EXIT_SIGTERM = 143


class GalampError(Exception):
    """Base of everything that galamp raises on purpose."""

    exit_code = EXIT_FAILURE
    details = ""
    """Lines that say more, such as the traceback of what others' code has raised."""

    def __str__(self) -> str:
        return "\n".join(self.problems)

    @property
    def problems(self) -> tuple[str, ...]:
        """What is wrong, a line each; what came from outside may stand in it as it came."""
        return tuple(map(str, self.args))


class UserError(GalampError):
    """Mistakes that the user can correct: one line each on what was wrong, expected, and to do."""

    exit_code = EXIT_USAGE


class CheckpointError(UserError):
    """A checkpoint that is damaged, unreadable, or belongs to another game or network."""


class RunFailed(GalampError):
    """A run that cannot go on: a process died or hung, or its parameters diverged."""


class StoppedBySignal(GalampError):
    """A signal has ended what comes before a run; the exit code is 128 + its number."""

    def __init__(self, exit_code: int) -> None:
        super().__init__("stopped; no run was begun")
        self.exit_code = exit_code


class StopRun(Exception):
    """Raised inside a child's waits once the run is over: leave, in good order."""


def refusal(error: OSError) -> tuple[str, int]:
    """Return a line on what the system has refused, and the exit code."""
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


def did_you_mean(word: str, known: Iterable[str], *, most: int = 3, cutoff: float = 0.5) -> str:
    """Return ` (did you mean a, b?)` for the names nearest to `word`, or an empty string.

    `cutoff` is the least likeness of a name, from 0 to 1.
    """
    by_folded = {name.lower().replace("_", ""): name for name in known}
    near = difflib.get_close_matches(
        word.lower().replace("_", ""), by_folded, n=most, cutoff=cutoff
    )
    return f" (did you mean {', '.join(by_folded[name] for name in near)}?)" if near else ""
