"""How the supervisor has the server fork a child, without ever waiting for it in vain.

    Readiness.look: has the server loaded? One that has ended is started anew, a stopped one woken
    ForkedProcess.start: request --> server --fork--> child; its id comes back, its task is sent

The standard library waits without limit for a server that loads, was stopped or hangs. Every wait
here is left several times a second, to see whether a signal has come, and ends at a limit of its
own. The task is sent only to a child whose id has come back: one that nobody knows of never has a
task, and ends.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Callable
from multiprocessing import popen_forkserver, process, reduction, resource_tracker, spawn, util
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerProcess, set_spawning_popen
from multiprocessing.forkserver import read_signed
from typing import Any

from galamp.core.processes.exit_reports import signal_name
from galamp.core.processes.reaper import end_child
from galamp.workers.forkserver import (
    blocked_signals,
    ensure_server,
    ensure_tracker,
    fork_server,
    loaded_file,
    send_server,
    server_pid,
    wake_server,
)

LOOK_S = 0.05
LOAD_LIMIT_S, ANSWER_LIMIT_S = 120.0, 60.0
"""The server has so long to load, and to answer once it has."""
LONGEST_STEP_S = 0.2
"""A gap in this process's own time, as where all are stopped, counts for so much at most."""
MOST_LOST = 1
"""So many servers may end while they load; the next one that does is a failure."""
THE_SERVER = "the server that children are forked from"
UNKNOWN_TO_SERVER = 255
"""The exit code that stands for a child whose server is no more."""


class Hurried(Exception):
    """Something else is to be looked at first."""


class ServerFailed(OSError):
    """The server cannot be had; in words."""


class Patience:
    """A limit on time in which this process was awake."""

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self.waited_s, self._last_s = 0.0, time.monotonic()

    def look(self) -> bool:
        """Whether the limit is exceeded by now."""
        now_s = time.monotonic()
        self.waited_s += min(now_s - self._last_s, LONGEST_STEP_S)
        self._last_s = now_s
        return self.waited_s > self.limit_s


class Readiness:
    """Whether the server has loaded; it is started anew where it has ended.

    There is one for all starts of a run, as there is one server: that it has loaded is read once,
    from a file that whatever tidies /tmp may remove later.
    """

    def __init__(self) -> None:
        self._ready: int | None = None
        self._patience: Patience | None = None
        self._lost = 0

    @property
    def awaited(self) -> bool:
        """Whether somebody waits for a server that has not loaded yet."""
        return self._patience is not None

    def loaded(self, server: int | None) -> bool:
        """Whether this server is the one that has loaded, and forks for us."""
        return server is not None and server == self._ready

    def look(self) -> bool:
        """Return whether children can be started; does not wait.

        Raises:
            ServerFailed: the server could not load, or has not in time; the next one may.
        """
        self._replace_ended()
        pid = server_pid()
        assert pid is not None
        if pid != self._ready:
            wake_server()
            if not self._has_loaded(pid):
                return False
            self._ready, self._patience, self._lost = pid, None, 0
        return True

    def _replace_ended(self) -> None:
        """Start a server where there is none, or has ended."""
        pid = server_pid()
        ending = None if pid is None else _ending(pid)
        if pid is not None and ending is None:
            return
        if pid != self._ready and ending is not None:
            self._lost += 1
            if self._lost > MOST_LOST:
                self._fail(f"{ending} while it loaded", end=False)
        ensure_tracker()
        with blocked_signals():
            ensure_server()

    def _has_loaded(self, pid: int) -> bool:
        self._patience = self._patience or Patience(LOAD_LIMIT_S)
        with contextlib.suppress(FileNotFoundError):
            failed = loaded_file(pid).read_text()
            if failed:
                self._fail(f"could not load: {failed}")
            return True
        if self._patience.look():
            self._fail(f"has not loaded within {LOAD_LIMIT_S:g} s")
        return False

    def _fail(self, why: str, *, end: bool = True) -> None:
        self._patience, self._lost = None, 0
        if end:
            send_server(signal.SIGKILL)
        raise ServerFailed(f"{THE_SERVER} {why}")


READINESS = Readiness()
"""Of this process's server."""


def standard_children() -> set[int]:
    """Return the children that the standard library starts and waits for: server and tracker."""
    tracker: int | None = resource_tracker._resource_tracker._pid  # type: ignore[attr-defined]
    return {pid for pid in (tracker, server_pid()) if pid is not None}


def _ending(pid: int) -> str | None:
    """Return how a child of this process has ended, in words; None while it runs."""
    try:
        ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return "ended"
    if ended is None:
        return None
    if ended.si_code == os.CLD_EXITED:
        return f"ended with exit code {ended.si_status}"
    return f"was ended by {signal_name(ended.si_status)}"


class ForkedProcess(ForkServerProcess):
    """A process that the server forks.

    Unlike others of the standard library it is not waited for, without limit, when Python ends.
    """

    hurried: Callable[[], bool] = staticmethod(lambda: False)
    """Whether its start is to be left off: something else is to be looked at first."""

    @staticmethod
    def _Popen(process_obj: Any) -> Launch:
        return Launch(process_obj)

    def start(self) -> None:
        """Have the server fork it; see `Launch._launch` for what this raises."""
        super().start()
        process._children.discard(self)  # type: ignore[attr-defined]

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "hurried"}

    @property
    def server_lost(self) -> bool:
        """Whether its server has ended before it could tell how this child did."""
        popen: Launch | None = self._popen  # type: ignore[attr-defined]
        return popen is not None and popen.server_lost


class Launch(popen_forkserver.Popen):
    """A child's start and end: as the standard library has them, but with limits, see above."""

    _fds: list[int]

    def __init__(self, process_obj: Any) -> None:
        self.server_lost = False
        super().__init__(process_obj)

    def _launch(self, process_obj: Any) -> None:
        """Have the server fork a child, and send it its task.

        Raises:
            Hurried: it was left off.
            OSError, EOFError: it could not be done.
        """
        prepared = spawn.get_preparation_data(process_obj._name)
        task = self._packed(prepared, process_obj)
        with blocked_signals():
            self.sentinel, to_child = fork_server().connect_to_new_process(self._fds)
        self.pid, self.finalizer = 0, util.Finalize(self, os.close, (self.sentinel,))
        try:
            # What the child sees to be closed once this process has ended.
            held = os.dup(to_child)
            self.finalizer.cancel()
            self.finalizer = util.Finalize(self, _close, (held, self.sentinel))
            self.pid = self._answer(process_obj.hurried)
            self._send(to_child, memoryview(task), process_obj.hurried)
        except BaseException:
            self._abandon()
            raise
        finally:
            os.close(to_child)

    def _packed(self, *things: Any) -> bytes:
        """Pack what the child is to have; open files among it go to `_fds`."""
        set_spawning_popen(self)
        try:
            return b"".join(bytes(reduction.ForkingPickler.dumps(each)) for each in things)
        finally:
            set_spawning_popen(None)

    def _answer(self, hurried: Callable[[], bool]) -> int:
        """Wait for the child's process id."""
        patience = Patience(ANSWER_LIMIT_S)
        while not wait([self.sentinel], LOOK_S):
            wake_server()
            _check(hurried)
            if patience.look():
                send_server(signal.SIGKILL)
                raise ServerFailed(f"{THE_SERVER} has not answered within {ANSWER_LIMIT_S:g} s")
        answer = int(read_signed(self.sentinel))
        if answer < 0:  # see forking.answer_failed_forks
            raise ServerFailed(
                f"no room for another process ({os.strerror(-answer)}): raise ulimit -u, or "
                "pids.max of the control group, or use fewer --learners"
            )
        return answer

    def _send(self, to_child: int, task: memoryview, hurried: Callable[[], bool]) -> None:
        """Write the task to the pipe that the child reads; where that is full, wait for it."""
        os.set_blocking(to_child, False)
        writable = select.poll()
        writable.register(to_child, select.POLLOUT)
        patience = Patience(ANSWER_LIMIT_S)
        while task:
            if writable.poll(LOOK_S * 1000):
                with contextlib.suppress(BlockingIOError):
                    task = task[os.write(to_child, task) :]
                continue
            _check(hurried)
            if patience.look():
                raise ServerFailed(f"it has not taken its task within {ANSWER_LIMIT_S:g} s")

    def _abandon(self) -> None:
        """Leave nothing of a child that has not got its task."""
        server = server_pid()
        if self.pid and server is not None:
            end_child(self.pid, server)
        self.close()

    def _send_signal(self, sig: int) -> None:
        if self.poll() is None:  # else its id may be another one's by now
            super()._send_signal(sig)  # type: ignore[misc]

    def poll(self, flag: int = os.WNOHANG) -> int | None:
        """Return the exit code if the child has ended; with `flag` 0, wait for it."""
        if self.returncode is None:
            if not wait([self.sentinel], 0 if flag == os.WNOHANG else None):
                return None
            try:
                self.returncode = read_signed(self.sentinel)
            except (OSError, EOFError):
                self.returncode, self.server_lost = UNKNOWN_TO_SERVER, True
        return self.returncode


def _check(hurried: Callable[[], bool]) -> None:
    if hurried():
        raise Hurried


def _close(*files: int) -> None:
    for file in files:
        os.close(file)
