"""Commands of galamp for tests, forked from a process that has loaded torch already.

A new Python loads torch first, for nearly two seconds of a core, its fork server does so again, and
the tests start hundreds of commands. A forked one does the same from `galamp.cli.main.main` on.
What comes before (the search for modules, closed streams, the loading of a server) is tested with
new Pythons: `engine.words`.
"""

from __future__ import annotations

import array
import atexit
import functools
import json
import os
import select
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from galamp.workers import forkserver

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = "import sys; from tests.support.template import serve; serve(int(sys.argv[1]))"
READ_EARLY = ("PYTHON", "FAKE_CUDA_LIBRARY", "CUDA_")
"""Begins of the names of environment variables that are read once, when Python starts or a module
is imported. A forked command reads all others as a new Python would."""

MOST_GPUS = {"FAKE_CUDA_DEVICES": "16"}
"""As many have to be there when torch is loaded with fake GPUs; a command may have fewer."""

START_TIMEOUT_S = 120.0
"""Longest wait for a process id, and so for torch to load before the first."""


def read_early() -> dict[str, str]:
    """Return the variables of `READ_EARLY`; galamp sets the seed of hashes for every command."""
    return {
        name: value
        for name, value in os.environ.items()
        if name.startswith(READ_EARLY) and name != forkserver.HASH_SEED_VARIABLE
    }


AT_FIRST = read_early()


def has_a_template() -> bool:
    """Whether there is a template for the variables of now.

    There is one for those of the beginning, and one for fake GPUs.
    """
    early = read_early()
    return early == AT_FIRST or "FAKE_CUDA_LIBRARY" in early


class Template:
    """The process of `template.serve`; it ends with this one."""

    def __init__(self) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.settimeout(START_TIMEOUT_S)
        with theirs, mock.patch.dict(os.environ):
            os.environ |= MOST_GPUS
            forkserver.settle_libraries()  # some are read before any program is
            self._process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, str(theirs.fileno())],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        atexit.register(self.close)

    def close(self) -> None:
        """End the process."""
        self._control.close()
        self._process.wait(START_TIMEOUT_S)

    def start(self, files: Sequence[int], **request: Any) -> int:
        """Start a command with three streams and a pipe for its exit code; returns its id."""
        socket.send_fds(self._control, [json.dumps(request).encode()], files)
        (pid,) = array.array("q", self._control.recv(8))
        return int(pid)


def template() -> Template:
    """Return the template of this process for the variables of now."""
    return _template(tuple(read_early().items()))


@functools.cache
def _template(early: tuple[tuple[str, str], ...]) -> Template:
    return Template()


class Forked(subprocess.Popen[str]):
    """A running `galamp ARGUMENTS...`, in text mode; its three streams are pipes or files."""

    def __init__(
        self, arguments: Sequence[str], *, on_terminal: bool = False, **options: Any
    ) -> None:
        """Start it; `on_terminal`, its streams are the terminal of a session of its own."""
        self._on_terminal = on_terminal
        super().__init__(list(arguments), text=True, **options)

    def _execute_child(self, args: list[str], *options: Any) -> None:
        """Popen's own step: it gets all options, in one order on every Python."""
        cwd, env, ends = options[4], options[5], options[9:15]
        self._ended, told = os.pipe()
        try:
            self.pid = template().start(
                (ends[0], ends[3], ends[5], told),
                words=args,
                cwd=str(cwd),
                environment=dict(os.environ if env is None else env),
                on_terminal=self._on_terminal,
            )
        finally:
            os.close(told)
        self._child_created = True
        self._close_pipe_fds(*ends)

    def _internal_poll(self, *_: Any, **__: Any) -> int | None:
        """The template waits for the process, and tells how it has ended."""
        return self._told(0.0)

    def _wait(self, timeout: float | None) -> int:
        code = self._told(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        return code

    def _told(self, timeout_s: float | None) -> int | None:
        """Wait for the exit code; None if it does not come in time."""
        if self.returncode is None and select.select([self._ended], [], [], timeout_s)[0]:
            self.returncode = int(os.read(self._ended, 16))
            os.close(self._ended)
        return self.returncode
