"""What happens to real runs in tests: every scenario checks that it happened, and says how soon.

Tests of the gate only want it to happen, on however busy a machine; those in `test_timing.py` hold
the seconds that are returned against what is promised.
"""

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

from galamp.core.config import RunConfig
from galamp.storage import checkpoint
from galamp.storage.run_logs import read_metrics
from tests.support.engine import (
    DEADLINE_S,
    family,
    running,
    started,
    summary,
    titled,
    titles,
    training,
    wait_for,
)

ENDLESS = ["--total-steps", 10**9, "--learners", 2, "--num-envs", 4, "--quiet"]
ENDLESS += ["--log-every-s", 0.1, "--env-id", "tests.support.crashing:unhurried"]
OF_TWO_LEARNERS = (
    "supervisor", "server", "learner 0", "learner 1", "simulator 0.0", "simulator 1.0",
)  # fmt: skip
"""Titles of the processes of a run of two learners with a simulator each."""
HANG_S = 4.0
"""A limit on hangs that no healthy process comes near, however busy the machine is."""


def gone(children: list[int]) -> None:
    """Wait for the end of `children`, the last of which is Python's own resource tracker."""
    wait_for(lambda: not any(map(running, children)), "the end of all children")


def rows(folder: Path) -> list[dict[str, Any]]:
    """The whole rows of a run's metrics."""
    return [row for row in read_metrics(folder / "metrics.jsonl") if "charts/SPS" in row]


def works_on(folder: Path, *counters: str) -> None:
    """Wait until the counters have grown from what they are now."""
    before = rows(folder)[-1]
    wait_for(
        lambda: all(rows(folder)[-1][name] > before[name] for name in counters),
        f"progress of {', '.join(counters)}",
    )


def successor(pid: int, title: str, victim: int) -> int:
    """Wait for the process that takes the place of `victim`; returns its id."""
    others = wait_for(
        lambda: [each for each in titled(pid, title) if each != victim], f"another {title}"
    )
    return int(others[0])


def stopped(process: subprocess.Popen[str], folder: Path) -> dict[str, Any]:
    """Stop a run; returns its summary, after a look at whether anything was lost."""
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 130
    steps = [row["global_step"] for row in rows(folder)]
    assert steps == sorted(steps)
    told = summary(folder)
    saved = checkpoint.load(checkpoint.find(folder).path)
    assert saved.progress["agent_steps"] == told["agent_steps"]
    for learner in saved.learners:
        assert all(np.isfinite(values).all() for values in learner.parameters.values())
    return told


def shared_names() -> set[str]:
    return set(os.listdir("/dev/shm"))


def socket_folder(server: int) -> Path:
    """Return where the server of a run listens."""
    files = [os.readlink(file) for file in Path(f"/proc/{server}/fd").iterdir()]
    for line in Path("/proc/net/unix").read_text().splitlines():
        *_, inode, path = line.split(maxsplit=7) if line.count(" ") >= 7 else ("", "")
        if f"socket:[{inode}]" in files and path.startswith("/"):
            return Path(path).parent
    raise AssertionError("the server listens nowhere")


@contextlib.contextmanager
def accompanied(folder: Path) -> Iterator[tuple[list[object], Callable[[], list[int]]]]:
    """Yield flags with which every environment starts a helper, and the pids of helpers that run.

    All must be gone at the end.
    """
    told = folder.with_name(f"{folder.name}-helpers")
    told.unlink(missing_ok=True)
    os.environ["TEST_HELPER"] = str(told)

    def living() -> list[int]:
        return [int(pid) for pid in told.read_text().split() if running(int(pid))]

    try:
        yield ["--env-id", "tests.support.crashing:accompanied"], living
        wait_for(lambda: not living(), "the end of what the environments had started")
    finally:
        del os.environ["TEST_HELPER"]


def supervisor_killed(folder: Path) -> float:
    """Seconds from the supervisor's death until nothing of the run is left."""
    before = shared_names()
    with accompanied(folder) as (more, _), started(*ENDLESS, *more, "--run-dir", folder) as process:
        wait_for(lambda: training(folder), "training")
        children = family(process.pid)
        assert len(children) >= 5 + 8
        socket = socket_folder(*titled(process.pid, "server"))
        assert socket.is_dir()
        began_s = time.monotonic()
        process.kill()
        gone(children)
        wait_for(lambda: not socket.exists(), "the end of the server's socket")
        passed_s = time.monotonic() - began_s
    # Other programs make and remove names of their own.
    wait_for(lambda: shared_names() <= before, "the end of all shared memory")
    return passed_s


def supervisor_killed_while_starting(folder: Path, when: str) -> float:
    """Seconds from its death, as soon as there is a first `when`, until nobody is left."""
    with started(*ENDLESS, "--run-dir", folder) as process:
        wait_for(lambda: titled(process.pid, when), f"the first {when}")
        children = family(process.pid)
        began_s = time.monotonic()
        process.kill()
        gone(children)
        return time.monotonic() - began_s


def child_killed(folder: Path, role: str, number: int) -> float:
    """Seconds until a killed child has a successor; it and the others then go on."""
    with (
        accompanied(folder) as (more, living),
        started(*ENDLESS, *more, "--run-dir", folder) as process,
    ):
        wait_for(lambda: training(folder), "training")
        [victim] = titled(process.pid, role)
        began_s = time.monotonic()
        os.kill(victim, number)
        successor(process.pid, role, victim)
        passed_s = time.monotonic() - began_s
        works_on(folder, "learner0/updates", "learner1/updates", "learner0/agent_steps")
        assert not running(victim)
        own = os.getpriority(os.PRIO_PROCESS, process.pid)
        gentle = {
            os.getpriority(os.PRIO_PROCESS, pid) for pid in titled(process.pid, role.split()[0])
        }
        assert gentle == {min(19, own + RunConfig().resources.nice)}
        wait_for(
            lambda: len(living()) == 8, "a helper per environment, and none of earlier incarnations"
        )
        told = stopped(process, folder)
    assert told["restarts"] == 1
    assert told["failure"] is None
    return passed_s


def server_killed(folder: Path) -> float:
    """Seconds until all that were forked from a killed server are gone; all come back."""
    with (
        accompanied(folder) as (more, living),
        started(*ENDLESS, *more, "--run-dir", folder) as process,
    ):
        wait_for(lambda: training(folder), "training")
        [server] = titled(process.pid, "server")
        children = titled(process.pid, "learner") + titled(process.pid, "simulator")
        assert len(children) == 4
        named = {f"galamp[{folder.name}]: {each}" for each in OF_TWO_LEARNERS}
        assert titles(process.pid) == {*named, f"galamp: resource tracker of {process.pid}"}
        began_s = time.monotonic()
        os.kill(server, signal.SIGKILL)
        gone([server, *children])
        passed_s = time.monotonic() - began_s
        successor(process.pid, "server", server)
        # Not all are missed at once, and rows may still tell of what was done before.
        wait_for(lambda: rows(folder)[-1]["charts/restarts"] >= 4, "four restarts")
        works_on(folder, "learner0/updates", "learner1/updates")
        wait_for(
            lambda: len(living()) == 8, "a helper per environment, and none of earlier incarnations"
        )
        assert named <= titles(process.pid), "those that came back are named, too"
        told = stopped(process, folder)
    # A start that meets the old server as it ends counts as one more loss, and is made again.
    assert 4 <= told["restarts"] <= 8, told
    assert told["given_up"] == []
    return passed_s


def child_stopped(folder: Path, role: str, hang_after_s: float) -> float:
    """Seconds until a stopped child is taken to hang and has a successor."""
    flags = ["--hang-after-s", hang_after_s, "--simulator-workers", 2]
    with (
        accompanied(folder) as (more, living),
        started(*ENDLESS, *flags, *more, "--run-dir", folder) as process,
    ):
        wait_for(lambda: training(folder), "training")
        [victim] = titled(process.pid, role)
        began_s = time.monotonic()
        os.kill(victim, signal.SIGSTOP)
        other = "learner1" if role == "learner 0" else "learner0"
        works_on(folder, f"{other}/updates")
        successor(process.pid, role, victim)
        passed_s = time.monotonic() - began_s
        works_on(folder, "learner0/updates", "learner1/updates")
        wait_for(
            lambda: len(living()) == 8, "a helper per environment, and none of earlier incarnations"
        )
        told = stopped(process, folder)
    assert told["restarts"] == 1
    return passed_s


def simulator_stopped(folder: Path) -> float:
    """Seconds until a stopped simulator is left out; once it wakes it takes part again."""
    flags = ["--hang-after-s", 60, "--simulator-workers", 2]
    with started(*ENDLESS, *flags, "--run-dir", folder) as process:
        wait_for(lambda: training(folder), "training")
        [victim] = titled(process.pid, "simulator 0.1")
        began_s = time.monotonic()
        os.kill(victim, signal.SIGSTOP)
        wait_for(lambda: rows(folder)[-1]["learner0/envs"] == 2, "two environments less")
        passed_s = time.monotonic() - began_s
        works_on(folder, "learner0/updates", "learner0/agent_steps")
        os.kill(victim, signal.SIGCONT)
        wait_for(lambda: rows(folder)[-1]["learner0/envs"] == 4, "all environments again")
        works_on(folder, "learner0/updates")
        told = stopped(process, folder)
    assert told["restarts"] == 0
    return passed_s


def signalled(folder: Path, number: int) -> float:
    """Seconds until a run that got its first signal has saved and ended."""
    with started(*ENDLESS, "--run-dir", folder) as process:
        wait_for(lambda: training(folder), "training")
        passed_s = ended(process, number)
    told = summary(folder)
    assert told["status"] == "stopped"
    saved = checkpoint.load(checkpoint.find(folder).path)
    assert saved.progress["agent_steps"] == told["agent_steps"] > 0
    return passed_s


def signalled_while(folder: Path, state: str) -> float:
    """Seconds until a run ends that gets a signal while it starts, or starts children anew."""
    with started(*ENDLESS, "--run-dir", folder) as process:
        if state == "restarting":
            wait_for(lambda: training(folder), "training")
            for child in titled(process.pid, "learner"):
                os.kill(child, signal.SIGKILL)
        else:
            wait_for(lambda: titled(process.pid, state), f"the first {state}")
        passed_s = ended(process, signal.SIGTERM)
    assert summary(folder)["status"] == "stopped"
    if state == "restarting":
        assert len(checkpoint.load(checkpoint.find(folder).path).learners) == 2
    return passed_s


def signalled_again(folder: Path, times: int) -> float:
    """Seconds from the last of two or three signals until a run has ended that saving holds up."""
    with started(*ENDLESS, "--run-dir", folder) as process:
        wait_for(lambda: training(folder), "training")
        for child in titled(process.pid, "learner"):
            os.kill(child, signal.SIGSTOP)  # the first signal alone would now take seconds
        for _ in range(times - 1):
            process.send_signal(signal.SIGINT)
            wait_for(lambda: handled(process, signal.SIGINT), "the signal")
        return ended(process, signal.SIGINT)


def ended(process: subprocess.Popen[str], number: int) -> float:
    """Send a signal; returns how many seconds later the run has ended, with nobody left of it."""
    began_s = time.monotonic()
    process.send_signal(number)
    children = family(process.pid)
    assert process.wait(timeout=DEADLINE_S) == 128 + number
    passed_s = time.monotonic() - began_s
    gone(children)
    return passed_s


def handled(process: subprocess.Popen[str], number: int) -> bool:
    """Whether a signal that was sent is no longer pending, or nobody is left to get it."""
    if process.poll() is not None:
        return True
    status = Path(f"/proc/{process.pid}/status").read_text()
    pending = next((line for line in status.splitlines() if line.startswith("ShdPnd")), "- 0")
    return not int(pending.split()[1], 16) & (1 << (number - 1))
