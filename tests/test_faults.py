"""Real processes, real signals: what a run survives, what ends it, and what is left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from galamp.storage import checkpoint
from galamp.storage.runlogs import read_metrics
from tests.engine import (
    ROOT,
    command,
    family,
    run,
    running,
    started,
    summary,
    titled,
    training,
    wait_for,
)

ENDLESS = ["--total-steps", 10**9, "--learners", 2, "--num-envs", 4, "--quiet"]
ENDLESS += ["--log-every-s", 0.1, "--env-id", "tests.crashing:healthy"]


def gone(children: list[int], deadline_s: float = 2.0) -> None:
    """Wait for the end of `children`, the last of which is Python's own resource tracker."""
    wait_for(lambda: not any(map(running, children)), "the end of all children", deadline_s)


def shared_names() -> set[str]:
    return set(os.listdir("/dev/shm"))


def test_killed_supervisor_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = shared_names()
    long = tmp_path / ("long" * 20)
    long.mkdir()
    monkeypatch.setenv("TMPDIR", str(long))  # too long for a socket
    with started(*ENDLESS, "--run-dir", tmp_path / "run") as process:
        wait_for(lambda: training(tmp_path / "run"), "training")
        children = family(process.pid)
        assert len(children) >= 5
        socket = socket_folder(*titled(process.pid, "server"))
        assert socket.is_dir()
        process.kill()
        gone(children)
    assert shared_names() == before
    wait_for(lambda: not socket.exists(), "the end of the server's socket", 2.0)


def socket_folder(server: int) -> Path:
    """Return where the server of a run listens."""
    files = [os.readlink(file) for file in Path(f"/proc/{server}/fd").iterdir()]
    for line in Path("/proc/net/unix").read_text().splitlines():
        *_, inode, path = line.split(maxsplit=7) if line.count(" ") >= 7 else ("", "")
        if f"socket:[{inode}]" in files and path.startswith("/"):
            return Path(path).parent
    raise AssertionError("the server listens nowhere")


@pytest.mark.parametrize("when", ["server", "learner"])
def test_supervisor_killed_while_others_start(tmp_path: Path, when: str) -> None:
    with started(*ENDLESS, "--run-dir", tmp_path / "run") as process:
        wait_for(lambda: titled(process.pid, when), f"the first {when}")
        children = family(process.pid)
        process.kill()
        gone(children)


def rows(folder: Path) -> list[dict[str, Any]]:
    """The whole rows of a run's metrics."""
    return [row for row in read_metrics(folder / "metrics.jsonl") if "charts/SPS" in row]


def works_on(folder: Path, *counters: str, deadline_s: float = 30.0) -> None:
    """Wait until the counters have grown from what they are now."""
    before = rows(folder)[-1]
    wait_for(
        lambda: all(rows(folder)[-1][name] > before[name] for name in counters),
        f"progress of {', '.join(counters)}",
        deadline_s,
    )


def successor(pid: int, title: str, victim: int, deadline_s: float = 20.0) -> int:
    """Wait for the process that takes the place of `victim`; returns its id."""
    others = wait_for(
        lambda: [each for each in titled(pid, title) if each != victim],
        f"another {title}",
        deadline_s,
    )
    return int(others[0])


def stopped(process: subprocess.Popen[str], folder: Path) -> dict[str, Any]:
    """Stop a run; returns its summary, after a look at whether anything was lost."""
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode == 130
    steps = [row["global_step"] for row in rows(folder)]
    assert steps == sorted(steps)
    told = summary(folder)
    saved = checkpoint.load(checkpoint.find(folder).path)
    assert saved.progress["agent_steps"] == told["agent_steps"]
    for learner in saved.learners:
        assert all(np.isfinite(values).all() for values in learner.parameters.values())
    return told


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
@pytest.mark.parametrize("role", ["learner 1", "simulator 0.0"])
def test_killed_child_comes_back_and_the_others_go_on(
    tmp_path: Path, role: str, number: int
) -> None:
    folder = tmp_path / "run"
    with started(*ENDLESS, "--run-dir", folder) as process:
        wait_for(lambda: training(folder), "training")
        [victim] = titled(process.pid, role)
        os.kill(victim, number)
        successor(process.pid, role, victim)
        works_on(folder, "learner0/updates", "learner1/updates", "learner0/agent_steps")
        assert not running(victim)
        told = stopped(process, folder)
    assert told["restarts"] == 1
    assert told["failure"] is None


def test_stopped_server_is_woken(tmp_path: Path) -> None:
    """It tells of every end and starts everyone: nobody may wait for it in vain."""
    folder = tmp_path / "run"
    with started(*ENDLESS, "--hang-after-s", 1.5, "--run-dir", folder) as process:
        wait_for(lambda: training(folder), "training")
        [server] = titled(process.pid, "server")
        [victim] = titled(process.pid, "simulator 0.0")
        os.kill(server, signal.SIGSTOP)
        os.kill(victim, signal.SIGKILL)
        successor(process.pid, "simulator 0.0", victim)
        works_on(folder, "learner0/updates", "learner1/updates")
        assert stopped(process, folder)["restarts"] == 1


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


def test_killed_server_brings_everyone_back(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with started(*ENDLESS, "--run-dir", folder) as process:
        wait_for(lambda: training(folder), "training")
        [server] = titled(process.pid, "server")
        children = [pid for pid in family(process.pid) if titled_any(pid)]
        os.kill(server, signal.SIGKILL)
        gone([server, *(pid for pid in children if pid != process.pid)], 5.0)
        successor(process.pid, "server", server)
        works_on(folder, "learner0/updates", "learner1/updates")
        told = stopped(process, folder)
    assert told["restarts"] == 4


def titled_any(pid: int) -> bool:
    """Whether a process is a learner or a simulator."""
    return words_of(pid).startswith(("galamp: learner", "galamp: simulator"))


@pytest.mark.parametrize("role", ["learner 0", "simulator 1.0"])
def test_stopped_child_is_replaced(tmp_path: Path, role: str) -> None:
    folder = tmp_path / "run"
    flags = ["--hang-after-s", 1.5, "--simulator-workers", 2]
    with started(*ENDLESS, *flags, "--run-dir", folder) as process:
        wait_for(lambda: training(folder), "training")
        [victim] = titled(process.pid, role)
        os.kill(victim, signal.SIGSTOP)
        other = "learner1" if role == "learner 0" else "learner0"
        works_on(folder, f"{other}/updates")
        successor(process.pid, role, victim)
        works_on(folder, "learner0/updates", "learner1/updates")
        told = stopped(process, folder)
    assert told["restarts"] == 1


def test_learner_goes_on_with_its_other_simulators(tmp_path: Path) -> None:
    """The lanes of a stopped simulator are left out, and taken in again once it wakes."""
    folder = tmp_path / "run"
    flags = ["--hang-after-s", 60, "--simulator-workers", 2]
    with started(*ENDLESS, *flags, "--run-dir", folder) as process:
        wait_for(lambda: training(folder), "training")
        [victim] = titled(process.pid, "simulator 0.1")
        os.kill(victim, signal.SIGSTOP)
        wait_for(lambda: rows(folder)[-1]["learner0/lanes"] == 2, "two lanes less")
        works_on(folder, "learner0/updates", "learner0/agent_steps")
        os.kill(victim, signal.SIGCONT)
        wait_for(lambda: rows(folder)[-1]["learner0/lanes"] == 4, "all lanes again")
        works_on(folder, "learner0/updates")
        told = stopped(process, folder)
    assert told["restarts"] == 0


def test_without_restarts_the_first_failure_ends_the_run(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with started(*ENDLESS, "--max-restarts", 0, "--run-dir", folder) as process:
        wait_for(lambda: training(folder), "training")
        [victim] = titled(process.pid, "learner 1")
        children = family(process.pid)
        os.kill(victim, signal.SIGKILL)
        _, complaint = process.communicate(timeout=20)
        assert process.returncode == 70
        gone(children)
    assert complaint.startswith("galamp: learner 1 was ended by SIGKILL")
    assert summary(folder)["failure"] == "learner 1 was ended by SIGKILL"
    assert checkpoint.load(checkpoint.find(folder).path).progress["agent_steps"] > 0


def test_no_descriptor_and_no_process_is_left_by_restarts(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with started(*ENDLESS, "--max-restarts", 1000, "--run-dir", folder) as process:
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


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_saves_and_stops(tmp_path: Path, number: int, code: int) -> None:
    folder = tmp_path / "run"
    with started(*ENDLESS, "--run-dir", folder) as process:
        wait_for(lambda: training(folder), "training")
        children = family(process.pid)
        began = time.monotonic()
        process.send_signal(number)
        assert process.wait(timeout=20) == code
        assert time.monotonic() - began < 5.0
        gone(children)
    told = summary(folder)
    assert told["status"] == "stopped"
    saved = checkpoint.load(checkpoint.find(folder).path)
    assert saved.progress["agent_steps"] == told["agent_steps"] > 0


def test_second_signal_ends_at_once(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with started(*ENDLESS, "--run-dir", folder) as process:
        wait_for(lambda: training(folder), "training")
        children = family(process.pid)
        for child in titled(process.pid, "learner"):
            os.kill(child, signal.SIGSTOP)  # the first signal alone would now take seconds
        process.send_signal(signal.SIGINT)
        wait_for(lambda: handled(process.pid, signal.SIGINT), "the first signal", 2.0)
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 130
        assert time.monotonic() - began < 2.0
        gone(children)


@pytest.mark.parametrize("state", ["learner", "simulator", "restarting"])
def test_signal_in_any_state_ends_the_run(tmp_path: Path, state: str) -> None:
    folder = tmp_path / "run"
    with started(*ENDLESS, "--run-dir", folder) as process:
        if state == "restarting":
            wait_for(lambda: training(folder), "training")
            for child in titled(process.pid, "learner"):
                os.kill(child, signal.SIGKILL)
        else:
            wait_for(lambda: titled(process.pid, state), f"the first {state}")
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        children = family(process.pid)
        assert process.wait(timeout=20) == 143
        assert time.monotonic() - began < 5.0
        gone(children)
    assert summary(folder)["status"] == "stopped"
    if state == "restarting":
        assert len(checkpoint.load(checkpoint.find(folder).path).learners) == 2


def test_third_signal_ends_everything_on_the_spot(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with started(*ENDLESS, "--run-dir", folder) as process:
        wait_for(lambda: training(folder), "training")
        children = family(process.pid)
        for child in titled(process.pid, "learner"):
            os.kill(child, signal.SIGSTOP)
        began = time.monotonic()
        for _ in range(3):
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(AssertionError):
                wait_for(lambda: handled(process.pid, signal.SIGINT), "the signal", 0.3)
        assert process.wait(timeout=20) == 130
        assert time.monotonic() - began < 2.0
        gone(children)


def handled(pid: int, number: int) -> bool:
    """Whether a signal that was sent to `pid` is no longer pending."""
    status = Path(f"/proc/{pid}/status").read_text()
    pending = next(line for line in status.splitlines() if line.startswith("ShdPnd"))
    return not int(pending.split()[1], 16) & (1 << (number - 1))


@pytest.mark.parametrize("method", ["gala", "data-parallel"])
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
    if method == "data-parallel":
        assert all(np.array_equal(one.parameters[n], other.parameters[n]) for n in one.parameters)


FAILURES = [
    ("raising", "raised ZeroDivisionError: the game divided by zero", "in _raise"),
    pytest.param("exiting", "called exit(1) from native code", "", marks=pytest.mark.slow),
    ("crashing", "was ended by SIGSEGV", "Segmentation fault"),
    pytest.param("hanging", "hung: no progress", "in <lambda>", marks=pytest.mark.slow),
    ("unmakeable", "no such file: level.dat", "in unmakeable"),
]


@pytest.mark.parametrize(("name", "cause", "details"), FAILURES)
def test_environment_that_always_fails_ends_the_run(
    tmp_path: Path, name: str, cause: str, details: str
) -> None:
    folder = tmp_path / "run"
    endless = ["--env-id", f"tests.crashing:{name}", "--total-steps", 10**9, "--learners", 1]
    endless += ["--simulator-workers", 1]
    ended = run(*endless, "--num-envs", 2, "--hang-after-s", 1.5, "--quiet", "--run-dir", folder)
    assert ended.returncode == 70
    first, *rest = ended.stderr.splitlines()
    assert first.startswith("galamp: simulator 0.0 ")
    assert cause in first
    assert details in "\n".join(rest)
    if name == "raising":
        assert "life 1 of simulator 0.0, lanes of seeds [" in "\n".join(rest)
    if name == "unmakeable":  # it never did anything: trying again is no cure
        assert summary(folder)["restarts"] == 0
    else:
        assert (folder / "checkpoints" / "latest").exists()
        assert summary(folder)["given_up"] == ["simulator 0.0"]


def test_lanes_that_always_fail_are_retired_and_the_others_go_on(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    flags = ["--env-id", "tests.crashing:picky", "--simulator-workers", 2]
    with started(*ENDLESS, *flags, "--run-dir", folder) as process:
        wait_for(lambda: training(folder), "training")
        reports = (folder / "logs").glob
        wait_for(lambda: len(list(reports("simulator-0.0.crash-*.json"))) == 2, "two failures")
        wait_for(lambda: rows(folder)[-1]["learner0/lanes"] == 2, "two lanes less")
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
    endless = ["--total-steps", 20_000, "--learners", 1, "--num-envs", 4, "--quiet"]
    ended = run("--env-id", "tests.crashing:once", *endless, "--run-dir", folder)
    assert ended.returncode == 0, ended.stderr
    assert remembered.exists()
    told = summary(folder)
    assert (told["restarts"], told["given_up"]) == (1, [])
    assert told["agent_steps"] >= 20_000


def test_what_is_no_number_stays_where_it_arose(tmp_path: Path, remembered: Path) -> None:
    """One learner diverges; it comes back with its peer's parameters, and nobody else noticed."""
    folder = tmp_path / "run"
    with started(
        *ENDLESS, "--env-id", "tests.crashing:overwhelming", "--run-dir", folder
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
    flags = ["--env-id", "tests.crashing:glutton", "--run-dir", folder]
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
        wait_for(lambda: not (group / "cgroup.procs").read_text(), "an empty control group", 10.0)
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
            began = time.monotonic()
            os.kill(first, signal.SIGTERM)
            assert process.wait(timeout=20) == 143
            assert time.monotonic() - began < 10.0
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
    with started(*ENDLESS, "--run-dir", folder, "--hang-after-s", 1.0) as process:
        wait_for(lambda: training(folder), "training")
        everyone = [process.pid, *family(process.pid)]
        for pid in everyone:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(3.0)
        for pid in reversed(everyone):
            os.kill(pid, signal.SIGCONT)
        rows = len((folder / "metrics.jsonl").read_text().splitlines())
        wait_for(
            lambda: len((folder / "metrics.jsonl").read_text().splitlines()) > rows + 5,
            "more training",
            20.0,
        )
        assert process.poll() is None
