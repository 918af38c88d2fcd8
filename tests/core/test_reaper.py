"""What a child has started ends with it, in whatever session it hides; other people's do not."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from galamp.core.processes import reaper
from galamp.core.processes.reaper import (
    Orphans,
    Strays,
    adopt_orphans,
    adopts_orphans,
    children_of,
    claim_process,
    end_child,
    process,
)
from tests.support.engine import DEADLINE_S, ROOT, running, wait_for

pytestmark = [pytest.mark.real, pytest.mark.counted]  # for they start processes

VARIABLE = "GALAMP_SERVER"


@contextlib.contextmanager
def family(role: str, **more: str) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """Start one; gives its first process and the ids that it told: the simulator, its helpers."""
    words = [sys.executable, "-m", "tests.support.families", role]
    first = subprocess.Popen(
        words, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=os.environ | more
    )
    assert first.stdout is not None
    pids: list[int] = []
    try:
        assert select.select([first.stdout], [], [], DEADLINE_S)[0], "it has told nothing"
        pids += map(int, first.stdout.readline().split())
        yield first, pids
    finally:
        first.kill()
        first.wait(DEADLINE_S)
        first.stdout.close()
        for pid in filter(running, pids):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.fixture
def adopting(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This process adopts orphans, as a supervisor does that is a part of another program."""
    monkeypatch.setattr(reaper, "_own_process", False)
    before = adopts_orphans()
    adopt_orphans()
    assert adopts_orphans()
    yield
    adopt_orphans(before)


def gone(pids: list[int]) -> bool:
    return not any(map(running, pids))


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGSEGV])
def test_what_a_simulator_has_started_ends_with_it(end: int) -> None:
    orphans = Orphans(VARIABLE)
    with family("serve") as (server, [simulator, *helpers]):
        assert len(helpers) == 7
        assert orphans.end(server.pid, [simulator]) == 0
        assert all(map(running, helpers)), "they are its own while it lives, daemons included"
        os.kill(simulator, end)
        wait_for(lambda: not running(simulator), "the end of the simulator")
        wait_for(lambda: not orphans.end(server.pid, [simulator]) and gone(helpers), "their end")
        wait_for(lambda: not children_of(server.pid), "the server reaps them")
        assert all(process(pid) is None for pid in helpers), "nor is a zombie left"
        assert orphans.ended == len(helpers)
        assert running(server.pid)


def test_when_the_server_is_killed_orphans_are_the_supervisors(adopting: None) -> None:
    """It kills its own, and of a program that it is a part of no child, orphan or zombie."""
    orphans = Orphans(VARIABLE)
    shell = "sleep 600 >/dev/null & echo $!"  # the shell ends: this process adopts what it started
    told = subprocess.run(["sh", "-c", shell], stdout=subprocess.PIPE, text=True, check=True)
    foreign = [subprocess.Popen(["sleep", "600"]), subprocess.Popen(["sleep", "0"])]
    orphan = int(told.stdout)
    try:
        with family("serve") as (server, [simulator, *helpers]):
            assert orphans.end(server.pid, [simulator]) == 0
            later = subprocess.Popen(["sleep", "600"])
            foreign.append(later)
            os.kill(server.pid, signal.SIGKILL)
            ours = helpers[:2] + helpers[3:]  # the one without any environment bears no mark

            def over() -> bool:
                orphans.end(None, [simulator], [server.pid])
                return all(process(pid) is None for pid in ours)

            wait_for(over, "the end of what the simulator had started")
            os.waitpid(simulator, 0)  # a known one is left to whoever asks how it ended
            assert orphans.ended == len(ours)
            assert process(server.pid) is not None, "the standard library waits for it"
            scrubbed = helpers[2]
            os.kill(scrubbed, signal.SIGKILL)
            os.waitpid(scrubbed, 0)
        assert running(orphan)
        assert running(later.pid)
        assert foreign[1].wait(DEADLINE_S) == 0, "nobody has taken its exit code"
    finally:
        for each in foreign:
            each.kill()
            each.wait(DEADLINE_S)
        os.kill(orphan, signal.SIGKILL)
        os.waitpid(orphan, 0)


def left_by_shell(command: str) -> int:
    """Have a shell start something and end: this process adopts it; returns its id."""
    words = ["sh", "-c", f"{command} >/dev/null & echo $!"]
    return int(subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True).stdout)


def test_in_a_process_of_galamps_own_others_live_and_are_reaped(
    adopting: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As what a container's services and `docker exec` leave, or a shell before `exec galamp`."""
    monkeypatch.setattr(reaper, "STRAYS_EVERY_S", 0.05)
    before, ended = subprocess.Popen(["sleep", "600"]), subprocess.Popen(["sh", "-c", "exit 7"])
    claim_process()
    orphans = Orphans(VARIABLE)
    others = [left_by_shell("sleep 600"), left_by_shell("env -i sleep 600")]
    try:
        with family("serve") as (server, [simulator, *helpers]):
            assert orphans.end(server.pid, [simulator]) == 0
            others.append(left_by_shell("sleep 600"))
            short = left_by_shell("true")
            os.kill(server.pid, signal.SIGKILL)
            ours = helpers[:2] + helpers[3:]  # the one without any environment bears no mark

            def over() -> bool:
                orphans.end(None, [simulator], [server.pid])
                return all(process(pid) is None for pid in [*ours, short])

            wait_for(over, "the end of what the simulator had started, and of a zombie")
            os.waitpid(simulator, 0)
            os.kill(helpers[2], signal.SIGKILL)
            wait_for(lambda: over() and process(helpers[2]) is None, "nor is this one a zombie")
        assert all(map(running, [before.pid, *others]))
        assert orphans.ended == len(ours)
        assert ended.wait(DEADLINE_S) == 7, "whoever uses subprocess may wait for it later"
    finally:
        for pid in others:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
        before.kill()
        before.wait(DEADLINE_S)


def test_what_a_simulator_starts_in_the_background_is_reaped(adopting: None) -> None:
    """It adopts that; who was started by way of the standard library may be asked later."""
    strays = Strays(0.01)
    mine = subprocess.Popen(["sh", "-c", "exit 7"])
    theirs = multiprocessing.get_context("fork").Process(target=os._exit, args=(8,))
    theirs.start()
    adopted = [left_by_shell("true") for _ in range(3)]
    living = left_by_shell("sleep 600")
    try:

        def reaped() -> bool:
            strays.reap()
            return all(process(pid) is None for pid in adopted)

        wait_for(lambda: all(not running(pid) for pid in [mine.pid, *adopted]), "their ends")
        wait_for(reaped, "nobody else would reap them")
        for _ in range(3):
            time.sleep(0.01)
            strays.reap()
        assert running(living)
        assert mine.wait(DEADLINE_S) == 7
        theirs.join(DEADLINE_S)
        assert theirs.exitcode == 8
    finally:
        os.kill(living, signal.SIGKILL)
        os.waitpid(living, 0)


@pytest.mark.parametrize("stop", [False, True])
def test_when_the_supervisor_is_killed_all_end(tmp_path: Path, stop: bool) -> None:
    """Also with a server that somebody has stopped; its socket goes, too."""
    folder = tmp_path / "server"
    folder.mkdir()
    with family("supervise", GALAMP_SERVER_FOLDER=str(folder)) as (supervisor, pids):
        assert len(pids) == 8
        [server] = children_of(supervisor.pid)
        assert (folder / f"loaded-{server}").read_text() == ""
        os.kill(server, signal.SIGCONT)  # as after a pause of all, by Ctrl-Z
        if stop:
            os.kill(server, signal.SIGSTOP)
        supervisor.kill()
        wait_for(lambda: gone([server, *pids]), "the end of all")
        wait_for(lambda: not folder.exists(), "the end of the server's folder")


def test_only_a_child_is_ended() -> None:
    """An id that was read a moment ago may be another process's now."""
    child = subprocess.Popen(["sleep", "600"])
    try:
        end_child(child.pid, os.getppid())
        end_child(2**22 + 1, os.getpid())
        assert running(child.pid)
        end_child(child.pid, os.getpid())
        assert child.wait(DEADLINE_S) == -signal.SIGKILL
    finally:
        child.kill()
        child.wait(DEADLINE_S)


def test_children_are_found_without_the_kernels_own_list(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    child = subprocess.Popen(["sleep", "600"])
    try:
        expected = children_of(os.getpid())
        assert child.pid in expected

        def read(path: Path, *more: object, **others: object) -> str:
            if path.name == "children":
                raise FileNotFoundError
            return path.read_bytes().decode(errors="replace")

        monkeypatch.setattr(Path, "read_text", read)
        assert children_of(os.getpid()) == expected
        assert children_of(2**22 + 1) == set()
    finally:
        child.kill()
        child.wait(DEADLINE_S)


def test_a_thread_that_vanishes_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a program with threads that come and go would have all processes looked at each time."""
    listed = Path.iterdir

    def vanishing(folder: Path) -> Iterator[Path]:
        yield folder / "4194305"
        yield from listed(folder)

    child = subprocess.Popen(["sleep", "600"])
    try:
        monkeypatch.setattr(Path, "iterdir", vanishing)
        monkeypatch.setattr(reaper, "process", lambda pid: pytest.fail("all were looked at"))
        assert child.pid in children_of(os.getpid())
    finally:
        child.kill()
        child.wait(DEADLINE_S)


def test_every_process_is_looked_at_once_for_several_parents(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where the kernel lists no children."""
    scans: list[int] = []
    known = reaper.process
    monkeypatch.setattr(reaper, "process", lambda pid: scans.append(pid) or known(pid))
    monkeypatch.setattr(reaper, "_lists_children", lambda: False)
    child = subprocess.Popen(["sleep", "600"])
    try:
        found = reaper.children_of_each(os.getpid(), os.getppid())
        assert child.pid in found[os.getpid()]
        assert os.getpid() in found[os.getppid()]
        assert len(scans) == len(set(scans))
    finally:
        child.kill()
        child.wait(DEADLINE_S)


def test_a_process_ends_all_its_children(tmp_path: Path) -> None:
    code = (
        "from galamp.core.processes.reaper import *; from tests.support.families import helpers\n"
        "import subprocess\n"
        "adopt_orphans(); found = helpers(); print(*found)\n"
        "assert len(children_of(os.getpid())) == 6\n"  # and one that is a child of a child
        "assert end_children(60.0) and not children_of(os.getpid())\n"
    )
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=ROOT,
        text=True,
        capture_output=True,
        timeout=DEADLINE_S,
    )
    assert ended.returncode == 0, ended.stderr
    pids = [int(pid) for pid in ended.stdout.split()]
    assert len(pids) == 7
    assert gone(pids)
