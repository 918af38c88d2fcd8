"""Orphans: processes whose parent has ended are adopted, ended and reaped.

    simulator --starts--> game engine --starts--> helper, and so on
    simulator ends:       game engine --adopted by--> server
    supervisor: Orphans.end: kills children of the server that are no learner and no simulator

A process that has called `adopt_orphans` (a Linux child subreaper) becomes the parent of all its
descendants whose own parent has ended, in any session or group. Simulators, learners and the server
call it: processes that a simulator has started stay its descendants while it runs, and become
children of the server after it ends. Nothing else becomes a child of the server, so children of a
program that uses galamp are never killed. If the server itself is killed, orphans become children
of the supervisor, which may have other children, such as other services of a container: only
processes that belong to this run are then killed, see `Orphans._is_ours`. Other ended children are
reaped (`Strays`), in simulators and in a process that belongs to galamp alone.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import NamedTuple, NoReturn

from galamp.core.errors import EXIT_FAILURE

PROC = Path("/proc")
POLL_S = 0.002
KEEPER_TIMEOUT_S = 4.0
"""Longest wait of a keeper for killed processes."""
STRAYS_EVERY_S = 1.0
"""Interval at which the supervisor reaps other ended children."""

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER, _PR_GET_CHILD_SUBREAPER = 1, 36, 37


class Process(NamedTuple):
    """Process, from /proc/<pid>/stat."""

    name: str
    state: str
    parent: int


def process(pid: int) -> Process | None:
    """Return name, state and parent of a process; None if it does not exist."""
    with contextlib.suppress(OSError):
        text = (PROC / str(pid) / "stat").read_text(errors="replace")
        head, _, rest = text.rpartition(")")
        state, parent = rest.split()[:2]
        return Process(head.partition("(")[2], state, int(parent))
    return None


def adopts_orphans() -> bool:
    """Whether this process adopts descendants whose own parent has ended."""
    flag = ctypes.c_int(0)
    ctypes.CDLL(None).prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(flag), 0, 0, 0)
    return bool(flag.value)


def adopt_orphans(adopt: bool = True) -> None:
    """Adopt descendants whose own parent has ended, or (`adopt` False) stop doing so."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, int(adopt), 0, 0, 0)


def die_with_parent(parent: int, by: signal.Signals) -> None:
    """Request the signal `by` when the parent ends; exit if it has ended already."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, by, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(EXIT_FAILURE)


def children_of(pid: int) -> set[int]:
    """Return the children of all threads of a process, zombies included."""
    return children_of_each(pid)[pid]


def children_of_each(*parents: int) -> dict[int, set[int]]:
    """Return the children of several processes; reads every process at most once."""
    if _lists_children():
        return {parent: _listed_children(parent) for parent in parents}
    found: dict[int, set[int]] = {parent: set() for parent in parents}
    for entry in PROC.iterdir():
        known = process(int(entry.name)) if entry.name.isdigit() else None
        if known is not None and known.parent in found:
            found[known.parent].add(int(entry.name))
    return found


def _lists_children() -> bool:
    """Whether the kernel lists the children of a process (CONFIG_PROC_CHILDREN)."""
    try:
        (PROC / "thread-self" / "children").read_text()
    except OSError:
        return False
    return True


def _listed_children(parent: int) -> set[int]:
    found: set[int] = set()
    with contextlib.suppress(OSError):  # the process has ended
        for thread in (PROC / str(parent) / "task").iterdir():
            with contextlib.suppress(OSError):  # this thread has ended
                found |= set(map(int, (thread / "children").read_text().split()))
    return found


def end_child(pid: int, parent: int) -> None:
    """Kill a process if it is a child of `parent`: its id may be in use by another one now."""
    handle = -1
    with contextlib.suppress(OSError, AttributeError):  # older kernels and builds have no pidfds
        handle = os.pidfd_open(pid)
    try:
        known = process(pid)
        if known is None or known.parent != parent:
            return
        if handle < 0:
            os.kill(pid, signal.SIGKILL)
        else:
            signal.pidfd_send_signal(handle, signal.SIGKILL)
    except OSError:
        return  # it has ended, or belongs to another user
    finally:
        if handle >= 0:
            os.close(handle)


def end_children(timeout_s: float) -> bool:
    """Kill and reap all descendants of this process; return whether none is left.

    For a process that adopts orphans: grandchildren become children when their parents end.
    """
    until_s = time.monotonic() + timeout_s
    while True:
        for pid in children_of(os.getpid()):
            end_child(pid, os.getpid())
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return True
        if time.monotonic() > until_s:
            return False
        time.sleep(POLL_S)


def awaited() -> set[int]:
    """Return the children that belong to objects of `subprocess` or `multiprocessing`."""
    import multiprocessing.process  # rarely needed
    import subprocess

    found = {each.pid for each in gc.get_objects() if issubclass(type(each), subprocess.Popen)}
    found.update(each.pid for each in subprocess._active or ())  # type: ignore[attr-defined]
    for child in multiprocessing.process._children:  # type: ignore[attr-defined]
        found.add(child._popen.pid)
    return found


class Strays:
    """Reaps adopted children that have ended: no other code waits for them.

    Code that has forked a child by `os.fork` waits for it soon after its end; `subprocess` and
    `multiprocessing` may wait much later. The kernel does not report which code has started a
    child. So a zombie is reaped if two checks in a row have found it, and it belongs to no object
    of these modules.
    """

    def __init__(self, every_s: float) -> None:
        """Check at most every `every_s` seconds."""
        self._every_s, self._next_s = every_s, 0.0
        self._ended: set[int] = set()

    def reap(self, spared: Collection[int] = ()) -> None:
        """Reap ended children, except `spared`; does nothing before the next check is due."""
        now_s = time.monotonic()
        if now_s < self._next_s:
            return
        self._next_s = now_s + self._every_s
        before, self._ended = self._ended, _zombies().difference(spared)
        old = self._ended & before
        for pid in old.difference(awaited()) if old else ():
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)


def _zombies() -> set[int]:
    """Return the ended children of this process that are not reaped yet."""
    try:
        if os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            return set()
    except ChildProcessError:
        return set()
    children = children_of(os.getpid())
    return {pid for pid in children if (known := process(pid)) is not None and known.state == "Z"}


_own_process = False


def claim_process() -> None:
    """Declare that this process belongs to galamp alone: every child that ends may be reaped.

    For the command line. It may be process 1 of a container, or have replaced a shell that had
    children (`exec`). A program that uses galamp as a library waits for its children itself.
    """
    global _own_process
    _own_process = True


def is_claimed() -> bool:
    """Return whether this process belongs to galamp alone; see `claim_process`."""
    return _own_process


class Orphans:
    """Orphans of a run: processes that its children have left behind. For the supervisor."""

    def __init__(self, variable: str) -> None:
        """Set the environment variable that holds the server's process id in its children."""
        self.ended = 0
        """Number of orphans that were ended so far."""
        self._variable = variable
        self._servers: set[int] = set()
        self._seen: set[int] = set()
        self._strays = Strays(STRAYS_EVERY_S) if _own_process else None

    def end(self, server: int | None, known: Collection[int], spared: Collection[int] = ()) -> int:
        """Kill orphans, and reap those that are children of this process.

        Args:
            server: process id of the server; None before its first fork.
            known: learners and simulators, which are no orphans.
            spared: other children of this process that must not be killed.

        Returns:
            number of orphans that have not ended yet.
        """
        left: set[int] = set()
        me = os.getpid()
        parents = [me] if self._may_have_adopted(server) else []
        if server is not None:
            self._servers.add(server)
            parents.append(server)
        children = children_of_each(*parents)
        for pid in children.get(server or 0, set()).difference(known):
            left.add(pid)
            end_child(pid, server or 0)
        for pid in children.get(me, set()).difference(known, spared, self._servers):
            if pid in self._seen or self._is_ours(pid):
                left |= self._end_own(pid)
        self.ended += len(left - self._seen)
        self._seen = left
        if self._strays is not None:
            self._strays.reap({*known, *spared, *self._servers})
        return len(left)

    def _may_have_adopted(self, server: int | None) -> bool:
        """Whether this process may have adopted orphans: a server has ended, or it is process 1."""
        if server is None or len(self._servers) > 1 or os.getpid() == 1:
            return True
        known = process(server)
        return known is None or known.state in "ZX"

    def _end_own(self, pid: int) -> set[int]:
        """Kill and reap a child of this process; return it if it has not ended yet."""
        end_child(pid, os.getpid())
        with contextlib.suppress(ChildProcessError):
            if os.waitpid(pid, os.WNOHANG) == (0, 0):
                return {pid}
            self.ended += pid not in self._seen
        return set()

    def _is_ours(self, pid: int) -> bool:
        """Whether an unknown child of this process comes from one of this run's servers.

        A forked process has a galamp title; an executed program has the environment variable,
        unless it got another environment. A process with neither, such as a zombie, is not killed.
        """
        known = process(pid)
        if known is None:
            return False
        if known.name.startswith(("galamp: learner", "galamp: simulat")):
            return True
        if known.name.startswith("galamp: ser"):  # a child that ended before it had a title
            return known.state in "ZX"
        marks = {f"{self._variable}={server}".encode() for server in self._servers}
        with contextlib.suppress(OSError):
            return not marks.isdisjoint((PROC / str(pid) / "environ").read_bytes().split(b"\0"))
        return False


def run_contained(parent: int, work: Callable[[], object]) -> NoReturn:
    """Run `work` in a child, as its keeper; all processes that it starts end with it.

    This process exits as the child does. On SIGTERM, and when `parent` ends, all processes end at
    once; SIGUSR1 is forwarded to the child.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # if it is ignored, children cannot be waited for
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end_all)
    die_with_parent(parent, signal.SIGTERM)
    adopt_orphans()
    keeper = os.getpid()
    child = os.fork()
    if not child:
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, signal.SIG_DFL)
        die_with_parent(keeper, signal.SIGKILL)
        work()
        sys.exit()

    def forward(number: int, frame: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, number)

    try:
        signal.signal(signal.SIGUSR1, forward)
        status = _status_of(child)
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    finally:
        end_children(KEEPER_TIMEOUT_S)
    _exit_as(os.waitstatus_to_exitcode(status))


def _status_of(child: int) -> int:
    """Wait for a child's end, and return its status; other ended children are reaped."""
    while True:
        pid, status = os.waitpid(-1, 0)
        if pid == child:
            return status


def _end_all(number: int, frame: object) -> NoReturn:
    end_children(KEEPER_TIMEOUT_S)
    _exit_as(-signal.SIGKILL)


def _exit_as(code: int) -> NoReturn:
    """Exit as another process did: with its code, or by its signal, but without a core file."""
    if code < 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
        with contextlib.suppress(OSError, ValueError):  # SIGKILL has no handler
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code if code >= 0 else EXIT_FAILURE)
