"""The process of a run that a program has started, and what it says.

    RunProcess --Popen--> child.main: galamp run
    anonymous files <--standard output and error

Runs in a user's program, without threads of its own: files, unlike pipes, need no reader. Any
threads of the program may use it. Every wait has a deadline.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from galamp.cli.python.child import RUN_DIR
from galamp.core.errors import (
    EXIT_OK,
    EXIT_SIGINT,
    EXIT_SIGTERM,
    EXIT_USAGE,
    GalampError,
    RunFailed,
    UserError,
)
from galamp.core.isolation import path_for_children
from galamp.core.machine.memory import anonymous_files

POLL_S = 0.05
FOLDER_TIMEOUT_S = 300.0
"""Longest wait for a run to have begun: an environment may take long to be made."""
TERMINATE_TIMEOUT_S, KILL_TIMEOUT_S = 20.0, 10.0
"""Longest waits after SIGTERM, and then after SIGKILL."""
NOTES = ("warning: ", "starting: ")
"""Begins of lines on standard error that are no errors."""

_START = """
import json, sys
request = json.loads(sys.argv[1])
sys.path[:], sys.argv[:] = request["path"], request["words"]
from galamp.core.isolation import be_package
be_package()
from galamp.cli.python.child import main
raise SystemExit(main(request["parent"]))
"""
"""Program of the child; it searches for modules in the same folders as its parent."""


class RunProcess:
    """A process that trains; it ends with this object, or the process that has made it."""

    def __init__(self, words: Sequence[str]) -> None:
        """Start `galamp` with these words.

        Raises:
            OSError: no process can be started.
        """
        self._said, self._complained = anonymous_files("galamp-output", "galamp-errors")
        requests, self._request = os.pipe()
        files = self._said, self._complained, self._request
        self._end_files = weakref.finalize(self, _close, *files)
        self._lock = threading.Lock()
        """Held while files are used, and while they are closed: their numbers are reused."""
        self._known: list[dict[str, Any]] = []
        """The lines that were read last."""
        request = {
            "path": path_for_children(),
            "words": ["galamp", *words],
            "parent": os.getpid(),
        }
        # In a session of its own, Ctrl-C in the terminal or the notebook is the program's alone.
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", _START, json.dumps(request)],
                stdin=requests,
                stdout=self._said,
                stderr=self._complained,
                start_new_session=True,
            )
        finally:
            os.close(requests)

    @property
    def pid(self) -> int:
        """Process id of the supervisor."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.poll() is None

    def folder(self, timeout_s: float = FOLDER_TIMEOUT_S) -> Path | None:
        """Wait until the run has begun; return its folder, or None if it has ended before.

        Raises:
            GalampError: it takes longer.
        """
        until_s = time.monotonic() + timeout_s
        while True:
            running, lines = self.running, self._lines()
            for line in lines:
                if RUN_DIR in line:
                    return Path(line[RUN_DIR])
            if not running:
                return None
            if time.monotonic() > until_s:
                raise GalampError(f"the run has not begun within {timeout_s:.0f} s; stop it")
            time.sleep(POLL_S)

    def ask_to_end(self) -> None:
        """Ask the run to end well; it saves first."""
        with self._lock, contextlib.suppress(BrokenPipeError):
            if self._end_files.alive:
                os.write(self._request, b".")

    def close(self) -> None:
        """Close its files, once its summary was read; a second time does nothing."""
        with self._lock:
            self._end_files()

    def wait(self, timeout_s: float) -> bool:
        """Wait for the end; return whether it has come in time."""
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def end(self, timeout_s: float) -> None:
        """Ask to end well, and after a while more sternly.

        Raises:
            GalampError: it has not ended even so.
        """
        self.ask_to_end()
        waits = ((timeout_s, signal.SIGTERM), (TERMINATE_TIMEOUT_S, signal.SIGKILL))
        for seconds, number in waits:
            if self.wait(seconds):
                return
            self._process.send_signal(number)
        if not self.wait(KILL_TIMEOUT_S):
            raise GalampError(f"the run (process {self.pid}) could not be ended")

    def summary(self) -> dict[str, Any]:
        """Return the summary of a run that has ended, as `galamp run --json` prints it.

        Raises:
            UserError, GalampError: it has failed, in the words of the command line.
        """
        code, lines = self._process.wait(KILL_TIMEOUT_S), self._lines()
        ended_well = code in (EXIT_OK, EXIT_SIGINT, EXIT_SIGTERM)
        told = [line for line in lines if RUN_DIR in line and "status" in line]
        if ended_well and told:
            return told[-1]
        raise self._error(code)

    def _error(self, code: int) -> GalampError:
        """Return what the command line has complained of."""
        prefix, problems, others = "galamp: ", list[str](), list[str]()
        for line in _content(self._complained).decode(errors="replace").splitlines():
            text = line.removeprefix(prefix)
            if text == line:
                others.append(line)
            elif not text.startswith(NOTES) and " is now called " not in text:
                problems.append(text)
        kind = UserError if code == EXIT_USAGE else RunFailed
        how = f"exit code {code}" if code >= 0 else signal.Signals(-code).name
        error = kind(*(problems or [f"the run has ended without a word ({how})"]))
        error.details = "\n".join(others)
        return error

    def _lines(self) -> list[dict[str, Any]]:
        """Return the whole lines of JSON so far; others are what a user's code has printed."""
        with self._lock:
            if self._end_files.alive:
                self._known = _objects(_content(self._said))
            return self._known


def _objects(content: bytes) -> list[dict[str, Any]]:
    """Return the whole lines that are JSON objects."""
    *whole, _ = content.split(b"\n")
    found: list[dict[str, Any]] = []
    for line in whole:
        if line.startswith(b"{"):
            with contextlib.suppress(ValueError):
                found.append(json.loads(line))
    return found


def _content(file: int) -> bytes:
    """Return what was written to a file; its position is the child's, too, and stays."""
    return os.pread(file, os.fstat(file).st_size, 0)


def _close(*files: int) -> None:
    for file in files:
        os.close(file)
