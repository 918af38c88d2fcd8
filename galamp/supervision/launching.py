"""Starting a child through the fork server, with a limit on every wait.

    Readiness.poll: has the server loaded? An ended one is restarted, a stopped one continued
    ForkedProcess.start: request --> server --fork--> child; its pid comes back, its task is sent

The standard library waits without limit for a server that loads, was stopped or hangs. Here every
wait has a limit and is interrupted several times a second to check for signals. The task is sent
only after the child's pid has come back: a child that the supervisor does not know of never gets a
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
from pathlib import Path
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

POLL_S = 0.05
LOAD_TIMEOUT_S, ANSWER_TIMEOUT_S = 120.0, 60.0
"""Limits for the fork server: to load, and to answer once it has loaded."""
MAX_TICK_S = 0.2
"""Longest time that one poll may add, should this process itself have been stopped."""
MAX_LOST_SERVERS = 1
"""Servers that may end while they load; the next one is a failure."""
THE_SERVER = "the server that children are forked from"
UNKNOWN_TO_SERVER = 255
"""Exit code of a child whose fork server has ended."""


class StartPostponed(Exception):
    """The start was left off, since another event has to be handled first."""


class ServerFailed(OSError):
    """The fork server cannot be used; the message says why."""


class AwakeTimeout:
    """A time limit that counts only while this process runs."""

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self.waited_s, self._last_s = 0.0, time.monotonic()

    def expired(self) -> bool:
        """Return whether the limit is exceeded."""
        now_s = time.monotonic()
        self.waited_s += min(now_s - self._last_s, MAX_TICK_S)
        self._last_s = now_s
        return self.waited_s > self.limit_s


class Readiness:
    """State of the fork server: loaded or not; an ended one is restarted.

    There is one instance for all attempts of a run, as there is one server. That the server has
    loaded
    is read once, from a file in /tmp that may be cleaned up later.
    """

    def __init__(self) -> None:
        self._ready: int | None = None
        self._timeout: AwakeTimeout | None = None
        self._lost = 0

    @property
    def awaited(self) -> bool:
        """Whether a start waits for a server that has not loaded yet."""
        return self._timeout is not None

    def loaded(self, server: int | None) -> bool:
        """Return whether `server` is the one that has loaded and forks for this run."""
        return server is not None and server == self._ready

    def poll(self) -> bool:
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
            self._ready, self._timeout, self._lost = pid, None, 0
        return True

    def _replace_ended(self) -> None:
        """Start a server if there is none or it has ended."""
        pid = server_pid()
        ending = None if pid is None else _ending(pid)
        if pid is not None and ending is None:
            return
        if pid != self._ready and ending is not None:
            self._lost += 1
            if self._lost > MAX_LOST_SERVERS:
                self._fail(f"{ending} while it loaded", end=False)
        ensure_tracker()
        with blocked_signals():
            ensure_server()

    def _has_loaded(self, pid: int) -> bool:
        self._timeout = self._timeout or AwakeTimeout(LOAD_TIMEOUT_S)
        with contextlib.suppress(FileNotFoundError):
            failed = loaded_file(pid).read_text()
            if failed:
                self._fail(f"could not load: {failed}")
            return True
        if self._timeout.expired():
            self._fail(f"has not loaded within {LOAD_TIMEOUT_S:g} s")
        return False

    def _fail(self, why: str, *, end: bool = True) -> None:
        self._timeout, self._lost = None, 0
        if end:
            send_server(signal.SIGKILL)
        raise ServerFailed(f"{THE_SERVER} {why}")


READINESS = Readiness()
"""State of this process's server."""


def standard_children() -> set[int]:
    """Return the pids of the standard library's own children: fork server and resource tracker."""
    tracker: int | None = resource_tracker._resource_tracker._pid  # type: ignore[attr-defined]
    return {pid for pid in (tracker, server_pid()) if pid is not None}


def _ending(pid: int) -> str | None:
    """Return how a child of this process has ended, as text; None while it runs."""
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
    """A process that the fork server forks.

    Unlike those of the standard library it is not joined, without limit, when Python exits.
    """

    postpone: Callable[[], bool] = staticmethod(lambda: False)
    """Whether to leave off its start, as another event has to be handled first."""

    @staticmethod
    def _Popen(process_obj: Any) -> Launch:
        return Launch(process_obj)

    def start(self) -> None:
        """Have the fork server fork it; see `Launch._launch` for the errors."""
        super().start()
        process._children.discard(self)  # type: ignore[attr-defined]

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "postpone"}

    @property
    def server_lost(self) -> bool:
        """Whether the fork server ended before it could report this child's exit code."""
        popen: Launch | None = self._popen  # type: ignore[attr-defined]
        return popen is not None and popen.server_lost

    @property
    def running(self) -> bool:
        """Whether it still runs, as far as the kernel says where its server cannot."""
        if self.is_alive():
            return True
        # Its server has ended; the kernel ends the child with it, but not immediately.
        return self.server_lost and self.pid is not None and not is_over(self.pid)

    def join(self, timeout: float | None = None) -> None:
        """Wait at most `timeout` seconds for its end."""
        super().join(timeout)
        if timeout and self.running and self.server_lost:  # then the line above does not wait
            time.sleep(timeout)


class Launch(popen_forkserver.Popen):
    """Start and end of a child, as in the standard library but with the limits above."""

    _fds: list[int]

    def __init__(self, process_obj: Any) -> None:
        self.server_lost = False
        super().__init__(process_obj)

    def _launch(self, process_obj: Any) -> None:
        """Have the server fork a child, and send it its task.

        Raises:
            StartPostponed: the start was left off.
            OSError, EOFError: it failed.
        """
        prepared = spawn.get_preparation_data(process_obj._name)
        task = self._packed(prepared, process_obj)
        with blocked_signals():
            self.sentinel, to_child = fork_server().connect_to_new_process(self._fds)
        self.pid, self.finalizer = 0, util.Finalize(self, os.close, (self.sentinel,))
        try:
            # The child notices the end of this process by the closing of this descriptor.
            held = os.dup(to_child)
            self.finalizer.cancel()
            self.finalizer = util.Finalize(self, _close, (held, self.sentinel))
            self.pid = self._answer(process_obj.postpone)
            self._send(to_child, memoryview(task), process_obj.postpone)
        except BaseException:
            self._abandon()
            raise
        finally:
            os.close(to_child)

    def _packed(self, *things: Any) -> bytes:
        """Pickle the child's data; open files among them go to `_fds`."""
        set_spawning_popen(self)
        try:
            return b"".join(bytes(reduction.ForkingPickler.dumps(each)) for each in things)
        finally:
            set_spawning_popen(None)

    def _answer(self, postpone: Callable[[], bool]) -> int:
        """Wait for the child's process id."""
        timeout = AwakeTimeout(ANSWER_TIMEOUT_S)
        while not wait([self.sentinel], POLL_S):
            wake_server()
            _check(postpone)
            if timeout.expired():
                send_server(signal.SIGKILL)
                raise ServerFailed(f"{THE_SERVER} has not answered within {ANSWER_TIMEOUT_S:g} s")
        answer = int(read_signed(self.sentinel))
        if answer < 0:  # see forkserver.answer_failed_forks
            raise ServerFailed(
                f"no room for another process ({os.strerror(-answer)}): raise ulimit -u, or "
                "pids.max of the control group, or use fewer --learners"
            )
        return answer

    def _send(self, to_child: int, task: memoryview, postpone: Callable[[], bool]) -> None:
        """Write the task to the child's pipe; wait while the pipe is full."""
        os.set_blocking(to_child, False)
        writable = select.poll()
        writable.register(to_child, select.POLLOUT)
        timeout = AwakeTimeout(ANSWER_TIMEOUT_S)
        while task:
            if writable.poll(POLL_S * 1000):
                with contextlib.suppress(BlockingIOError):
                    task = task[os.write(to_child, task) :]
                continue
            _check(postpone)
            if timeout.expired():
                raise ServerFailed(f"it has not taken its task within {ANSWER_TIMEOUT_S:g} s")

    def _abandon(self) -> None:
        """End a child that has not got its task, and release it."""
        server = server_pid()
        if self.pid and server is not None:
            end_child(self.pid, server)
        self.close()

    def _send_signal(self, sig: int) -> None:
        if self.poll() is None:  # else another process may have this id by now
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


def is_over(pid: int) -> bool:
    """Return whether an orphaned process has ended; reap it if this process has adopted it."""
    try:
        over = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True
    with contextlib.suppress(ChildProcessError):
        # A process whose first thread has ended looks like a zombie while other threads still run.
        return os.waitpid(pid, os.WNOHANG) != (0, 0)
    return over


def _check(postpone: Callable[[], bool]) -> None:
    if postpone():
        raise StartPostponed


def _close(*files: int) -> None:
    for file in files:
        os.close(file)
