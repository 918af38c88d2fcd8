"""Orphans: what a process has started and left behind is adopted, ended and reaped.

    simulator --starts--> game engine --starts--> helper, and so on
    simulator ends:       game engine --adopted by--> server
    supervisor: Orphans.end: whoever is a child of the server and no learner or simulator is killed

A process that has called `adopt_orphans` becomes the parent of all its descendants whose own parent
has ended, whatever session or group they have moved to. Simulators, learners and the server do so:
what a simulator has started stays its own while it lives, and is the server's afterwards. Nothing
else ever becomes a child of the server's, so the children of a program that galamp is a part of are
never touched. Only when the server itself is killed do orphans become the supervisor's, beside
children that it has for other reasons, such as a container's other services: there only who is
known to be of this run is killed, see `Orphans._is_ours`. Others that have ended are reaped
(`Strays`), in a process that is galamp's alone and in simulators.
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
"""Whom the kernel has not ended so long after a kill, a keeper leaves to others."""
STRAYS_EVERY_S = 1.0
"""The supervisor looks so often for others' children that have ended."""

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER, _PR_GET_CHILD_SUBREAPER = 1, 36, 37


class Process(NamedTuple):
    """One process, as the kernel tells of it."""

    name: str
    state: str
    parent: int


def process(pid: int) -> Process | None:
    """Return what is known of a process; None if it is gone."""
    with contextlib.suppress(OSError):
        text = (PROC / str(pid) / "stat").read_text(errors="replace")
        head, _, rest = text.rpartition(")")
        state, parent = rest.split()[:2]
        return Process(head.partition("(")[2], state, int(parent))
    return None


def adopts_orphans() -> bool:
    """Whether this process becomes the parent of its descendants whose own parent has ended."""
    flag = ctypes.c_int(0)
    ctypes.CDLL(None).prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(flag), 0, 0, 0)
    return bool(flag.value)


def adopt_orphans(adopt: bool = True) -> None:
    """Become the parent of descendants whose own parent has ended, or no longer do."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, int(adopt), 0, 0, 0)


def die_with_parent(parent: int, by: signal.Signals) -> None:
    """Ask the kernel for signal `by` when the parent ends; leave if that has happened."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, by, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(EXIT_FAILURE)


def children_of(pid: int) -> set[int]:
    """Return the children of all threads of a process, zombies included."""
    return children_of_each(pid)[pid]


def children_of_each(*parents: int) -> dict[int, set[int]]:
    """Return the children of several processes; looks at every process once at most."""
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
    with contextlib.suppress(OSError):  # the process is gone
        for thread in (PROC / str(parent) / "task").iterdir():
            with contextlib.suppress(OSError):  # this thread is
                found |= set(map(int, (thread / "children").read_text().split()))
    return found


def end_child(pid: int, parent: int) -> None:
    """Kill a process if it is a child of `parent`: its id may be another one's by now."""
    handle = -1
    with contextlib.suppress(OSError, AttributeError):  # older kernels and builds have no handles
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
        return  # it is gone, or another user's
    finally:
        if handle >= 0:
            os.close(handle)


def end_children(timeout_s: float) -> bool:
    """Kill and reap all children of this process, and theirs; returns whether none is left.

    For a process that adopts orphans: children of children come up as their parents end.
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
    """Return the children that objects of `subprocess` or `multiprocessing` stand for."""
    import multiprocessing.process  # seldom needed
    import subprocess

    found = {each.pid for each in gc.get_objects() if issubclass(type(each), subprocess.Popen)}
    found.update(each.pid for each in subprocess._active or ())  # type: ignore[attr-defined]
    for child in multiprocessing.process._children:  # type: ignore[attr-defined]
        found.add(child._popen.pid)
    return found


class Strays:
    """Adopted children that have ended: reaped here, as nobody else would.

    Whoever has forked a child by `os.fork` waits for it soon after its end; by `subprocess` and
    `multiprocessing` any time may pass. The kernel does not tell who has started a child, so a
    zombie is reaped once two looks have found it, and no object of those modules stands for it.
    """

    def __init__(self, every_s: float) -> None:
        """Look so often at most."""
        self._every_s, self._next_s = every_s, 0.0
        self._ended: set[int] = set()

    def reap(self, spared: Collection[int] = ()) -> None:
        """Reap who has ended, except `spared`; does nothing until the next look is due."""
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
    """Return the children of this process that have ended and were not waited for."""
    try:
        if os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            return set()
    except ChildProcessError:
        return set()
    children = children_of(os.getpid())
    return {pid for pid in children if (known := process(pid)) is not None and known.state == "Z"}


_own_process = False


def claim_process() -> None:
    """Say that this process is galamp's alone: every child that ends may be reaped.

    For the command line. It may be process 1 of a container, or have been executed in the place of
    a shell with children; a program that galamp is a part of waits for its children itself.
    """
    global _own_process
    _own_process = True


class Orphans:
    """What the children of a run have left behind, as their supervisor sees it."""

    def __init__(self, variable: str) -> None:
        """Take the environment variable in which a server tells its children its process id."""
        self.ended = 0
        """How many were ended so far."""
        self._variable = variable
        self._servers: set[int] = set()
        self._seen: set[int] = set()
        self._strays = Strays(STRAYS_EVERY_S) if _own_process else None

    def end(self, server: int | None, known: Collection[int], spared: Collection[int] = ()) -> int:
        """Kill who is nobody's, and reap those that are this process's.

        Args:
            server: the server, once it has forked somebody.
            known: learners and simulators.
            spared: other children of this process that are to live.

        Returns:
            How many are not gone yet.
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
        """Whether orphans may be this process's: a server has ended, or it is process 1."""
        if server is None or len(self._servers) > 1 or os.getpid() == 1:
            return True
        known = process(server)
        return known is None or known.state in "ZX"

    def _end_own(self, pid: int) -> set[int]:
        """Kill a child of this process and reap it; returns it if it is not gone yet."""
        end_child(pid, os.getpid())
        with contextlib.suppress(ChildProcessError):
            if os.waitpid(pid, os.WNOHANG) == (0, 0):
                return {pid}
            self.ended += pid not in self._seen
        return set()

    def _is_ours(self, pid: int) -> bool:
        """Whether a child of this process, which is nobody known, comes from a server of ours.

        What was forked only bears its title, and what was executed the variable, unless it was
        given another environment; whoever bears neither, as who has ended does, is not killed.
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
    """Do `work` in a child; nothing that it starts outlives it.

    Leaves as the child does. On SIGTERM, and when `parent` ends, all end at once; SIGUSR1 is handed
    on to the child.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # else nobody could be waited for
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

    def hand_on(number: int, frame: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, number)

    try:
        signal.signal(signal.SIGUSR1, hand_on)
        status = _status_of(child)
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    finally:
        end_children(KEEPER_TIMEOUT_S)
    _leave_as(os.waitstatus_to_exitcode(status))


def _status_of(child: int) -> int:
    """Wait for a child's end; meanwhile others that have ended are reaped."""
    while True:
        pid, status = os.waitpid(-1, 0)
        if pid == child:
            return status


def _end_all(number: int, frame: object) -> NoReturn:
    end_children(KEEPER_TIMEOUT_S)
    _leave_as(-signal.SIGKILL)


def _leave_as(code: int) -> NoReturn:
    """End as another process did: with its exit code, or by its signal, but without a core file."""
    if code < 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
        with contextlib.suppress(OSError, ValueError):  # SIGKILL has no handler
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code if code >= 0 else EXIT_FAILURE)
