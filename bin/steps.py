"""Runs the steps of a set-up, one after the other; used by install.py.

A step is a command with its output in `setup.log` and one line of progress on standard error. It
inherits the locks, and ends with all that it has started once nobody wants the set-up any more.
"""

from __future__ import annotations

import contextlib
import enum
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import stamp
from place import POLL_S, SetupError, say

END_GRACE_S = 5.0
LOG_TAIL_LINES = 15
PIP_SETTINGS = {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1", "PIP_QUIET": "0"}
"""What it says is read."""

ABSENT = re.compile(r"No matching distribution found for torch\b")
NOTHING = re.compile(r"\(from versions: none\)")

ROOT = Path(stamp.ROOT)

# Signals are noted and asked for at safe moments: raised as they come, one could fall between the
# start of pip and the block that ends it.
PARENT = os.getppid()
signals: list[int] = []


class Stopped(Exception):
    """A signal came, or the command that wanted the set-up is gone."""


def check_stopped() -> None:
    """Raise `Stopped` if nobody wants this set-up any more."""
    if signals or os.getppid() != PARENT:
        raise Stopped


class Outcome(enum.Enum):
    """How a step went."""

    DONE = "done"
    FAILED = "failed"
    ABSENT = "pip found no such torch, but others"
    UNWANTED = "pip was stopped as it met what is not wanted"


ENDS = {
    Outcome.DONE: "",
    Outcome.FAILED: "failed after ",
    Outcome.ABSENT: "not in the package index, ",
    Outcome.UNWANTED: "stopped after ",
}


def run(name: str, *command: str | Path, log: Path, locks: tuple[int, ...]) -> None:
    """Run one step of the set-up with its output in the log, showing one line of progress.

    Raises:
        SetupError: the command failed; the text holds the end of the log.
        Stopped: a signal came, or the parent is gone; the step was ended.
    """
    if attempt(name, *command, log=log, locks=locks) is not Outcome.DONE:
        raise SetupError(failure(name, log))


def attempt(
    name: str,
    *command: str | Path,
    log: Path,
    locks: tuple[int, ...],
    unwanted: re.Pattern[str] | None = None,
) -> Outcome:
    """Run one step, and end it if it says what is not wanted.

    Raises:
        Stopped: a signal came, or the parent is gone; the step was ended.
    """
    check_stopped()
    line, start_s = f"galamp: set-up: {name} ...", time.monotonic()
    say(line, end="")
    with log.open("a", encoding="utf-8") as output:
        print("\n$", *(stamp.bare(str(word)) for word in command), file=output, flush=True)
        start = output.tell()

        def meets_unwanted() -> bool:
            return bool(unwanted and unwanted.search(_said(log, start)))

        process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=os.environ | PIP_SETTINGS,
            pass_fds=locks,
            process_group=0,
        )
        try:
            code = _watch(process, line, start_s, meets_unwanted)
        except BaseException:
            _end_group(process)
            say("")
            raise
        if code is None:
            _end_group(process, signal.SIGINT)  # by which pip removes what it has fetched
    said, took = _said(log, start), f"{time.monotonic() - start_s:.1f} s"
    outcome = Outcome.FAILED if code else Outcome.DONE
    if meets_unwanted():
        outcome = Outcome.UNWANTED
    elif code and ABSENT.search(said) and not NOTHING.search(said):
        outcome = Outcome.ABSENT
    say(f" {ENDS[outcome]}{took}")
    return outcome


def _said(log: Path, start: int) -> str:
    with log.open("rb") as file:
        file.seek(start)
        return file.read().decode(errors="replace")


def _watch(
    process: subprocess.Popen[bytes],
    line: str,
    start_s: float,
    meets_unwanted: Callable[[], bool],
) -> int | None:
    """Return the exit code of a step, counting seconds on a terminal; None if it is to be ended."""
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = process.wait(POLL_S)
            if sys.stderr.isatty():
                say(f"\r{line}", end="")
            return code
        check_stopped()
        if meets_unwanted():
            return None
        if sys.stderr.isatty():
            say(f"\r{line} {time.monotonic() - start_s:.0f} s", end="")


def _end_group(process: subprocess.Popen[bytes], how: int = signal.SIGTERM) -> None:
    """End a step and everything that it started: politely, then for good."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, how)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(END_GRACE_S)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def failure(name: str, log: Path) -> str:
    """Return the text for a step that failed, with the end of its log."""
    tail = log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_TAIL_LINES:]
    indented = "\n".join("    " + line for line in tail)
    return f"could not {name}; the end of {log}:\n{indented}\ngalamp: the next start tries again"
