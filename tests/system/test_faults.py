"""Real processes, real signals: what a run survives, what ends it, and what is left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from galamp.storage import checkpoint
from tests.support import scenarios
from tests.support.engine import (
    DEADLINE_S,
    ROOT,
    also,
    command,
    family,
    run,
    started,
    summary,
    titled,
    training,
    wait_for,
)
from tests.support.scenarios import ENDLESS, HANG_S, gone, rows, stopped, successor, works_on


def test_killed_supervisor_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = tmp_path / ("long" * 20)
    long.mkdir()
    monkeypatch.setenv("TMPDIR", str(long))  # too long for a socket
    scenarios.supervisor_killed(tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("when", [also("server"), "learner"])
def test_supervisor_killed_while_others_start(tmp_path: Path, when: str) -> None:
    scenarios.supervisor_killed_while_starting(tmp_path / "run", when)


@pytest.mark.parametrize(
    ("role", "number"),
    [
        ("learner 1", signal.SIGKILL),
        ("simulator 0.0", signal.SIGSEGV),
        also("learner 1", signal.SIGSEGV),
        also("simulator 0.0", signal.SIGKILL),
    ],
)
@pytest.mark.counted
def test_killed_child_comes_back_and_the_others_go_on(
    tmp_path: Path, role: str, number: int
) -> None:
    scenarios.child_killed(tmp_path / "run", role, number)


def test_stopped_server_is_woken(tmp_path: Path) -> None:
    """It tells of every end and starts everyone: nobody may wait for it in vain, at the end too."""
    folder = tmp_path / "run"
    with started(*ENDLESS, "--hang-after-s", HANG_S, "--run-dir", folder) as process:
        wait_for(lambda: training(folder), "training")
        [server] = titled(process.pid, "server")
        [victim] = titled(process.pid, "simulator 0.0")
        os.kill(server, signal.SIGSTOP)
        os.kill(victim, signal.SIGKILL)
        successor(process.pid, "simulator 0.0", victim)
        works_on(folder, "learner0/updates", "learner1/updates")
        os.kill(server, signal.SIGSTOP)
        assert stopped(process, folder)["restarts"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("more", [["--topology", "none"], ["--method", "independent"]])
def test_lock_step_of_those_who_exchange_nothing_binds_nobody(
    tmp_path: Path, more: list[object]
) -> None:
    folder = tmp_path / "run"
    with started(*ENDLESS, "--sync", *more, "--run-dir", folder) as process:
        wait_for(lambda: training(folder), "training")
        [victim], [other] = titled(process.pid, "learner 0"), titled(process.pid, "learner 1")
        os.kill(victim, signal.SIGKILL)
        successor(process.pid, "learner 0", victim)
        works_on(folder, "learner0/agent_steps", "learner1/agent_steps")
        assert titled(process.pid, "learner 1") == [other]
        stopped(process, folder)


SLOW = """
import sys, time
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "ale_py":
            {what}
if "forkserver" in " ".join(sys.orig_argv):
    sys.meta_path.insert(0, Finder())
"""


def with_server_that(folder: Path, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the server of every run do something while it loads."""
    (folder / "sitecustomize.py").write_text(SLOW.format(what=what))
    monkeypatch.setenv("PYTHONPATH", str(folder))


def test_signals_are_heard_while_the_server_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_server_that(tmp_path, "time.sleep(600)", monkeypatch)
    folder = tmp_path / "run"
    with started(*ENDLESS, "--run-dir", folder) as process:
        wait_for((folder / "config.json").exists, "the start")
        time.sleep(0.5)
        scenarios.ended(process, signal.SIGTERM)
    assert summary(folder)["status"] == "stopped"


def test_a_server_that_cannot_load_is_told_in_its_own_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_server_that(tmp_path, "raise ImportError('no emulator')", monkeypatch)
    ended = run(*ENDLESS, "--run-dir", tmp_path / "run")
    assert ended.returncode == 70
    assert ended.stderr.splitlines()[0] == (
        "galamp: learner 0 could not be started: the server that children are forked from could "
        "not load: ImportError: no emulator"
    )


def test_killed_server_brings_everyone_back(tmp_path: Path) -> None:
    scenarios.server_killed(tmp_path / "run")


@pytest.mark.slow  # the gate has its like with the seconds, in `test_timing.py`
@pytest.mark.parametrize("role", ["learner 0", also("simulator 1.0")])
def test_stopped_child_is_replaced(tmp_path: Path, role: str) -> None:
    scenarios.child_stopped(tmp_path / "run", role, HANG_S)


@pytest.mark.slow  # the gate has its like with the seconds, in `test_timing.py`
def test_learner_goes_on_with_its_other_simulators(tmp_path: Path) -> None:
    """The environments of a stopped simulator are left out, and taken in again once it wakes."""
    scenarios.simulator_stopped(tmp_path / "run")


def test_without_restarts_the_first_failure_ends_the_run(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with started(*ENDLESS, "--max-restarts", 0, "--run-dir", folder) as process:
        wait_for(lambda: training(folder), "training")
        [victim] = titled(process.pid, "learner 1")
        children = family(process.pid)
        os.kill(victim, signal.SIGKILL)
        _, complaint = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == 70
        gone(children)
    assert complaint.startswith("galamp: learner 1 was ended by SIGKILL")
    assert summary(folder)["failure"] == "learner 1 was ended by SIGKILL"
    assert checkpoint.load(checkpoint.find(folder).path).progress["agent_steps"] > 0


@pytest.mark.slow
def test_no_descriptor_and_no_process_is_left_by_restarts(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    flags = ["--max-restarts", 1000, "--checkpoint-every-s", 3600]  # that opens files, too
    with started(*ENDLESS, *flags, "--run-dir", folder) as process:
        wait_for(lambda: training(folder), "training")
        counts = []
        for _ in range(4):
            for role in ("learner 0", "simulator 0.0"):
                [victim] = titled(process.pid, role)
                os.kill(victim, signal.SIGKILL)
                successor(process.pid, role, victim)
            works_on(folder, "learner0/updates")
            files = len(list(Path(f"/proc/{process.pid}/fd").iterdir()))
            counts.append((files, len(family(process.pid))))
        assert len(set(counts)) == 1, counts
        stopped(process, folder)


@pytest.mark.parametrize("number", [also(signal.SIGINT), signal.SIGTERM])
@pytest.mark.counted
def test_signal_saves_and_stops(tmp_path: Path, number: int) -> None:
    scenarios.signalled(tmp_path / "run", number)


@pytest.mark.slow
@pytest.mark.parametrize("state", ["learner", also("simulator"), "restarting"])
def test_signal_in_any_state_ends_the_run(tmp_path: Path, state: str) -> None:
    scenarios.signalled_while(tmp_path / "run", state)


@pytest.mark.parametrize("times", [also(2), 3])
def test_second_and_third_signal_end_without_saving(tmp_path: Path, times: int) -> None:
    scenarios.signalled_again(tmp_path / "run", times)


@pytest.mark.parametrize("method", ["gossip", also("allreduce")])
@pytest.mark.counted
def test_in_lock_step_all_go_back_to_one_turn(tmp_path: Path, method: str) -> None:
    """States of different turns would make learners differ for good, or wait for each other."""
    folder = tmp_path / "run"
    with started(*ENDLESS, "--sync", "--method", method, "--run-dir", folder) as process:
        wait_for(lambda: training(folder), "training")
        for role in ("learner 0", "learner 1"):
            [victim] = titled(process.pid, role)
            os.kill(victim, signal.SIGKILL)
            successor(process.pid, role, victim)
            works_on(folder, "learner0/agent_steps", "learner1/agent_steps")
        stopped(process, folder)
    one, other = checkpoint.load(checkpoint.find(folder).path).learners
    assert one.counters["turns"] == other.counters["turns"] > 0
    if method == "allreduce":
        assert all(np.array_equal(one.parameters[n], other.parameters[n]) for n in one.parameters)


FAILURES = [
    also("raising", "raised ZeroDivisionError: the game divided by zero", "in _raise"),
    pytest.param("exiting", "called exit(1) from native code", "", marks=pytest.mark.slow),
    ("crashing", "was ended by SIGSEGV", "Segmentation fault"),
    pytest.param("hanging", "hung: no progress", "in <lambda>", marks=pytest.mark.slow),
    also("unmakeable", "no such file: level.dat", "in unmakeable"),
]


@pytest.mark.parametrize(("name", "cause", "details"), FAILURES)
def test_environment_that_always_fails_ends_the_run(
    tmp_path: Path, name: str, cause: str, details: str
) -> None:
    folder = tmp_path / "run"
    endless = [
        "--env-id",
        f"tests.support.crashing:{name}",
        "--total-steps",
        10**9,
        "--learners",
        1,
    ]
    endless += ["--simulator-workers", 1]
    ended = run(*endless, "--num-envs", 2, "--hang-after-s", HANG_S, "--quiet", "--run-dir", folder)
    assert ended.returncode == 70
    first, *rest = ended.stderr.splitlines()
    assert first.startswith("galamp: simulator 0.0 ")
    assert cause in first
    assert details in "\n".join(rest)
    if name == "raising":
        assert "incarnation 1 of simulator 0.0, environments with seeds [" in "\n".join(rest)
    if name == "unmakeable":  # it never did anything: trying again is no cure
        assert summary(folder)["restarts"] == 0
    else:
        assert (folder / "checkpoints" / "latest").exists()
        assert summary(folder)["given_up"] == ["simulator 0.0"]


def test_environments_that_always_fail_are_retired_and_the_others_go_on(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    flags = ["--env-id", "tests.support.crashing:picky", "--simulator-workers", 2]
    with started(*ENDLESS, *flags, "--run-dir", folder) as process:
        wait_for(lambda: training(folder), "training")
        reports = (folder / "logs").glob
        wait_for(lambda: len(list(reports("simulator-0.0.crash-*.json"))) == 2, "two failures")
        wait_for(lambda: rows(folder)[-1]["learner0/envs"] == 2, "two environments less")
        works_on(folder, "learner0/updates", "learner1/updates")
        told = stopped(process, folder)
    assert (told["given_up"], told["restarts"]) == (["simulator 0.0"], 1)


@pytest.fixture
def remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where environments that fail once remember that they did."""
    marker = tmp_path / "failed"
    monkeypatch.setenv("TEST_FAILED_ONCE", str(marker))
    return marker


def test_environment_that_fails_once_costs_an_episode(tmp_path: Path, remembered: Path) -> None:
    folder = tmp_path / "run"
    endless = ["--total-steps", 4000, "--learners", 1, "--num-envs", 4, "--quiet"]
    ended = run("--env-id", "tests.support.crashing:once", *endless, "--run-dir", folder)
    assert ended.returncode == 0, ended.stderr
    assert remembered.exists()
    told = summary(folder)
    assert (told["restarts"], told["given_up"]) == (1, [])
    assert told["agent_steps"] >= 4000


def test_what_is_no_number_stays_where_it_arose(tmp_path: Path, remembered: Path) -> None:
    """One learner diverges; it comes back with its peer's parameters, and nobody else noticed."""
    folder = tmp_path / "run"
    with started(
        *ENDLESS, "--env-id", "tests.support.crashing:overwhelming", "--run-dir", folder
    ) as process:
        wait_for(remembered.exists, "the poison")
        wait_for(lambda: rows(folder) and rows(folder)[-1]["charts/restarts"] == 1, "a restart")
        works_on(folder, "learner0/updates", "learner1/updates")
        told = stopped(process, folder)
    assert told["restarts"] == 1
    [report] = (folder / "logs").glob("learner-*.crash-*.json")
    assert "diverged" in report.read_text()


@pytest.mark.slow
def test_who_is_out_of_memory_is_named_and_replaced(tmp_path: Path, remembered: Path) -> None:
    folder = tmp_path / "run"
    flags = ["--env-id", "tests.support.crashing:glutton", "--run-dir", folder]
    with memory_group(1500 * 2**20) as within, started(*ENDLESS, *flags) as process:
        within(process.pid)
        wait_for(remembered.exists, "the hunger")
        wait_for(lambda: rows(folder) and rows(folder)[-1]["charts/restarts"] == 1, "a restart")
        works_on(folder, "learner0/updates", "learner1/updates")
        told = stopped(process, folder)
    assert told["restarts"] == 1


@contextlib.contextmanager
def memory_group(limit_bytes: int) -> Iterator[Callable[[int], None]]:
    """Make a control group of so much memory; gives what puts a process into it."""
    second = Path("/sys/fs/cgroup/cgroup.controllers").exists()
    parent = Path("/sys/fs/cgroup") if second else Path("/sys/fs/cgroup/memory")
    group = parent / f"galamp-test-{os.getpid()}"
    try:
        group.mkdir()
        limit = group / ("memory.max" if second else "memory.limit_in_bytes")
        limit.write_text(str(limit_bytes))
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    try:
        yield lambda pid: (group / "cgroup.procs").write_text(str(pid)) and None
    finally:
        wait_for(lambda: not (group / "cgroup.procs").read_text(), "an empty control group")
        group.rmdir()


@pytest.mark.slow
def test_on_one_core_nobody_is_taken_to_hang(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    flags = ["--env-id", "ALE/Breakout-v5", "--num-envs", 8, "--hang-after-s", 2]
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        with started(*ENDLESS, *flags, "--learners", 4, "--run-dir", folder) as process:
            wait_for(lambda: training(folder), "training")
            time.sleep(20)
            assert rows(folder)[-1]["charts/restarts"] == 0
            [victim] = titled(process.pid, "learner 3")
            os.kill(victim, signal.SIGKILL)
            successor(process.pid, "learner 3", victim)
            works_on(folder, *(f"learner{rank}/updates" for rank in range(4)))
            assert stopped(process, folder)["restarts"] == 1
    finally:
        os.sched_setaffinity(0, before)


@pytest.mark.slow
def test_as_first_process_of_a_container(tmp_path: Path) -> None:
    """As PID 1 it takes signals, and leaves no zombie, not even of orphans."""
    if subprocess.run(["unshare", "-pfm", "true"], capture_output=True).returncode:
        pytest.skip("no process namespace can be made here")
    folder = tmp_path / "run"
    words = ["unshare", "-pfm", "--mount-proc", *command(*ENDLESS, "--run-dir", folder)]
    with subprocess.Popen(words, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        try:
            wait_for(lambda: training(folder), "training")
            [first] = [pid for pid in family(process.pid) if "galamp" in words_of(pid)][:1]
            [server] = titled(process.pid, "server")
            os.kill(server, signal.SIGKILL)
            successor(process.pid, "server", server)
            works_on(folder, "learner0/updates", "learner1/updates")
            states = [Path(f"/proc/{pid}/stat").read_text() for pid in family(first)]
            assert not [state for state in states if state.rpartition(")")[2].split()[0] == "Z"]
            os.kill(first, signal.SIGTERM)
            assert process.wait(timeout=DEADLINE_S) == 143
        finally:
            for pid in [*family(process.pid), process.pid]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def words_of(pid: int) -> str:
    """The command line of a process."""
    return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")


def test_paused_tree_goes_on(tmp_path: Path) -> None:
    """A pause of everyone, as by Ctrl-Z or a sleeping laptop, is nobody's hang."""
    folder = tmp_path / "run"
    with started(*ENDLESS, "--run-dir", folder, "--hang-after-s", HANG_S) as process:
        wait_for(lambda: training(folder), "training")
        everyone = [process.pid, *family(process.pid)]
        for pid in everyone:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(HANG_S + 1.0)
        for pid in reversed(everyone):
            os.kill(pid, signal.SIGCONT)
        works_on(folder, "learner0/updates", "learner1/updates")
        told = stopped(process, folder)
    assert told["restarts"] == 0
