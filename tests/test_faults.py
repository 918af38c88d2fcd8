"""Real processes, real signals: what ends a run, how fast, and what is left behind."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from galamp.storage import checkpoint
from tests.engine import family, run, running, started, summary, titled, training, wait_for

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


def test_killed_server_ends_the_run(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with started(*ENDLESS, "--run-dir", folder) as process:
        wait_for(lambda: training(folder), "training")
        children = family(process.pid)
        (server,) = titled(process.pid, "server")
        os.kill(server, signal.SIGKILL)
        _, told = process.communicate(timeout=20)
        gone(children)
    assert process.returncode == 70
    assert "ended with the server that it was forked from" in told.splitlines()[0]
    assert len(checkpoint.load(checkpoint.find(folder).path).learners) == 2


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


def handled(pid: int, number: int) -> bool:
    """Whether a signal that was sent to `pid` is no longer pending."""
    status = Path(f"/proc/{pid}/status").read_text()
    pending = next(line for line in status.splitlines() if line.startswith("ShdPnd"))
    return not int(pending.split()[1], 16) & (1 << (number - 1))


@pytest.mark.parametrize("role", ["learner 1", "simulator 0.0"])
def test_killed_child_ends_the_run(tmp_path: Path, role: str) -> None:
    folder = tmp_path / "run"
    with started(*ENDLESS, "--run-dir", folder) as process:
        wait_for(lambda: training(folder), "training")
        [victim] = titled(process.pid, role)
        children = family(process.pid)
        began = time.monotonic()
        os.kill(victim, signal.SIGKILL)
        _, complaint = process.communicate(timeout=20)
        assert time.monotonic() - began < 5.0
        assert process.returncode == 70
        gone(children)
    assert complaint.startswith(f"galamp: {role} was ended by SIGKILL")
    assert summary(folder)["failure"] == f"{role} was ended by SIGKILL"
    assert checkpoint.load(checkpoint.find(folder).path).progress["agent_steps"] > 0


def test_killed_in_lock_step_leaves_checkpoints_of_one_turn(tmp_path: Path) -> None:
    """One that mixed turns would make learners differ for good, or wait for each other."""
    folder = tmp_path / "run"
    flags = ["--method", "data-parallel", "--checkpoint-every-s", 0.5]
    with started(*ENDLESS, *flags, "--run-dir", folder) as process:
        wait_for(lambda: (folder / "checkpoints" / "latest").exists(), "a checkpoint")
        [victim] = titled(process.pid, "learner 0")
        os.kill(victim, signal.SIGKILL)
        process.communicate(timeout=20)
        assert process.returncode == 70
    one, other = checkpoint.load(checkpoint.find(folder).path).learners
    assert one.counters["turns"] == other.counters["turns"] > 0
    assert all(np.array_equal(one.parameters[n], other.parameters[n]) for n in one.parameters)


def test_stopped_simulator_is_noticed(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with started(*ENDLESS, "--run-dir", folder, "--hang-after-s", 1.5) as process:
        wait_for(lambda: training(folder), "training")
        os.kill(titled(process.pid, "simulator 1.0")[0], signal.SIGSTOP)
        _, complaint = process.communicate(timeout=20)
        assert process.returncode == 70
    assert complaint.startswith("galamp: simulator 1.0 hung: no progress for 2 s in phase")


FAILURES = [
    ("raising", "raised ZeroDivisionError: the game divided by zero", "in _raise"),
    pytest.param("exiting", "called exit(1) from native code", "", marks=pytest.mark.slow),
    ("crashing", "was ended by SIGSEGV", "Segmentation fault"),
    ("hanging", "hung: no progress", "in <lambda>"),
    ("unmakeable", "no such file: level.dat", "in unmakeable"),
]


@pytest.mark.parametrize(("name", "cause", "details"), FAILURES)
def test_failing_environment(tmp_path: Path, name: str, cause: str, details: str) -> None:
    folder = tmp_path / "run"
    endless = ["--env-id", f"tests.crashing:{name}", "--total-steps", 10**9, "--learners", 1]
    endless += ["--simulator-workers", 1]
    ended = run(*endless, "--num-envs", 2, "--hang-after-s", 1.5, "--quiet", "--run-dir", folder)
    assert ended.returncode == 70
    first, *rest = ended.stderr.splitlines()
    assert first.startswith("galamp: simulator 0.0 ")
    assert cause in first
    assert details in "\n".join(rest)
    if name != "unmakeable":  # whose simulator may be gone before the learner is there
        assert (folder / "checkpoints" / "latest").exists()


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
