"""Real runs of the command line for tests: start, watch, look for what is left behind.

A test that starts one bears the mark `real`, which `conftest.py` gives to all that name a function
of `STARTERS`; should it overlook one, that test fails here, so that `bin/test --fast` stays fast.
"""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import DEVNULL, PIPE
from typing import Any, Self

import pytest

from galamp.core.processes.titles import without_run
from tests.support import forked

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 60.0
"""What a quiet machine does in a few seconds must have happened by then on a busy one."""

STREAMS: dict[str, Any] = {"cwd": ROOT, "stdin": DEVNULL, "stdout": PIPE, "stderr": PIPE}
"""Where a command starts, and what it reads and writes."""

STARTERS = ("words", "command", "begun", "started", "run", "galamp", "OnTerminal")
"""What of this module starts real runs, or gives the words for one."""

NOT_ALLOWED = "this test starts a real run: mark it with pytest.mark.real"

allowed = True
"""Whether the test that is running now is marked as one that starts real runs."""


def words(*arguments: object) -> list[str]:
    """Return the command line `galamp` with `arguments`."""
    assert allowed, NOT_ALLOWED
    return [sys.executable, "-m", "galamp", *map(str, arguments)]


def also(*values: object) -> Any:
    """Return values for a parametrised test that the slow set tries; the gate has their like."""
    return pytest.param(*values, marks=pytest.mark.slow)


def command(*arguments: object) -> list[str]:
    """Return the command line `galamp run` with `arguments`."""
    return words("run", *arguments)


def begun(*arguments: object, new_python: bool = False) -> subprocess.Popen[str]:
    """Start any command; whoever calls this must `end` it.

    It is forked, unless a test wants a new Python or has set what one may read at its start.
    """
    if new_python or not forked.has_a_template():
        return subprocess.Popen(words(*arguments), text=True, **STREAMS)
    assert allowed, NOT_ALLOWED
    return forked.Forked(list(map(str, arguments)), **STREAMS)


def end(process: subprocess.Popen[str]) -> None:
    """Kill a command and its descendants, unless it has ended: its id may be another's by then."""
    if process.poll() is None:
        for pid in [*family(process.pid), process.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    process.communicate(timeout=DEADLINE_S)


@contextlib.contextmanager
def started(*arguments: object, new_python: bool = False) -> Iterator[subprocess.Popen[str]]:
    """Start a run; whatever is left of it is killed at the end."""
    process = begun("run", *arguments, new_python=new_python)
    try:
        yield process
    finally:
        end(process)


def run(*arguments: object, new_python: bool = False) -> subprocess.CompletedProcess[str]:
    """Run to the end."""
    return galamp("run", *arguments, new_python=new_python)


def summary(folder: Path) -> dict[str, Any]:
    """Return a run's summary.json."""
    values: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return values


def wait_for(ready: Callable[[], Any], what: str, deadline_s: float = DEADLINE_S) -> Any:
    """Return the first true value of `ready`, or fail."""
    until_s = time.monotonic() + deadline_s
    while time.monotonic() < until_s:
        value = ready()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"{what} did not happen within {deadline_s:.0f} s")


def family(pid: int) -> list[int]:
    """Return the process ids of all descendants of `pid`."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                parents.setdefault(int(fields[1]), []).append(int(entry.name))
    found, queue = [], [pid]
    while queue:
        below = parents.get(queue.pop(), [])
        found += below
        queue += below
    return found


def running(pid: int) -> bool:
    """Whether `pid` still runs (a zombie does not)."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def titled(pid: int, title: str) -> list[int]:
    """Return the descendants of `pid` whose title is `galamp[...]: <title>...`."""
    found = []
    for child in family(pid):
        with contextlib.suppress(OSError):
            line = Path(f"/proc/{child}/cmdline").read_bytes().decode(errors="replace")
            if without_run(line).startswith(f"galamp: {title}"):
                found.append(child)
    return found


def titles(pid: int) -> set[str]:
    """Return the titles of `pid` and its descendants that are galamp's."""
    found = set()
    for each in [pid, *family(pid)]:
        with contextlib.suppress(OSError):
            line = Path(f"/proc/{each}/cmdline").read_bytes().strip(b"\0 ")
            found.add(line.decode(errors="replace"))
    return {title for title in found if title.startswith("galamp")}


def training(folder: Path) -> bool:
    """Whether every learner of the run in `folder` has taken a step, as its metrics tell."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        last = (folder / "metrics.jsonl").read_text().splitlines()[-1]
        updates = [v for k, v in json.loads(last).items() if k.endswith("/updates")]
        return bool(updates) and min(updates) > 0
    return False


def galamp(*arguments: object, new_python: bool = False) -> subprocess.CompletedProcess[str]:
    """Run any command to its end."""
    process = begun(*arguments, new_python=new_python)
    try:
        output, errors = process.communicate(timeout=2 * DEADLINE_S)
    finally:
        end(process)
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


class OnTerminal:
    """A command whose terminal is a pseudo-terminal of its own; it is killed at the end."""

    def __init__(self, *arguments: object, columns: int = 100, lines: int = 30) -> None:
        self.master, slave = pty.openpty()
        termios.tcsetwinsize(slave, (lines, columns))
        os.set_blocking(self.master, False)
        assert allowed, NOT_ALLOWED
        self.process = forked.Forked(
            list(map(str, arguments)),
            on_terminal=True,
            cwd=ROOT,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=os.environ | {"TERM": "xterm-256color"},
        )
        os.close(slave)
        self.seen = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for pid in [*family(self.process.pid), self.process.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(DEADLINE_S)
        self.close()

    def read(self) -> str:
        """Return all that was ever written to the terminal."""
        with contextlib.suppress(OSError):  # EIO: the last process on it has left
            while chunk := os.read(self.master, 65_536):
                self.seen += chunk.decode(errors="replace")
        return self.seen

    def press(self, keys: bytes) -> None:
        """Type."""
        os.write(self.master, keys)

    def close(self) -> None:
        """Close the terminal, as closing its window would."""
        if self.master >= 0:
            os.close(self.master)
            self.master = -1
