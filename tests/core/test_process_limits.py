"""Room for more processes: of control groups on trees of files, and of `ulimit -u`."""

from __future__ import annotations

import json
import os
import resource
import signal
from pathlib import Path

import pytest

from galamp.core.config import EnvironmentConfig, ResourceConfig, RunConfig, from_dict
from galamp.core.errors import UserError
from galamp.core.machine.machine import plain_machine
from galamp.core.machine.process_limits import Room, least_room
from galamp.supervision import plan
from tests.support.engine import DEADLINE_S, started, titled, training, wait_for


@pytest.fixture
def unlimited(monkeypatch: pytest.MonkeyPatch) -> None:
    """The user has no limit."""
    nothing = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    monkeypatch.setattr(resource, "getrlimit", lambda kind: nothing)


def tree(folder: Path, version: int, **limits: tuple[object, int]) -> Path:
    """A /proc of a process in the group /a/b; limits by group: most, now."""
    proc = folder / "proc"
    (proc / "self").mkdir(parents=True)
    kind, options = ("cgroup2", "rw") if version == 2 else ("cgroup", "rw,pids")
    memory = "" if version == 2 else "4:memory:/elsewhere\n"
    own = "0::/a/b\n" if version == 2 else f"{memory}7:pids:/a/b\n"
    (proc / "self" / "cgroup").write_text(own)
    line = f"31 23 0:28 / {folder}/groups rw shared:4 - {kind} {kind} {options}\n"
    (proc / "self" / "mountinfo").write_text(line)
    for name, (most, now) in limits.items():
        group = folder / "groups" / name.replace("_", "/").removeprefix("root")
        group.mkdir(parents=True, exist_ok=True)
        (group / "pids.max").write_text(f"{most}\n")
        (group / "pids.current").write_text(f"{now}\n")
    return proc


@pytest.mark.parametrize("version", [1, 2])
def test_the_tightest_group_counts(tmp_path: Path, unlimited: None, version: int) -> None:
    proc = tree(tmp_path, version, root=("max", 900), a=(100, 90), a_b=(50, 20))
    assert least_room(proc) == Room(10, f"{tmp_path}/groups/a/pids.max is 100")


@pytest.mark.parametrize("most", ["max", "", "many", "-1"])
def test_no_limit_is_none(tmp_path: Path, unlimited: None, most: str) -> None:
    assert least_room(tree(tmp_path, 2, a_b=(most, 20))) is None
    assert least_room(tmp_path / "none") is None


BOUND, ROOT_BOUND = Room(30, "ulimit -u is 100"), Room(0, "ulimit -u is 100")
ALL = (1 << 40) - 1
MACHINE, ROOTLESS, OWN = "0 0 4294967295", "0 1000 1\n1 100000 65536", "1000 1000 1"


@pytest.mark.parametrize(
    ("user", "capabilities", "users", "room"),
    [
        (1000, 0, MACHINE, BOUND),
        (1000, 0, None, BOUND),
        (0, 0, MACHINE, None),
        (0, 0, None, None),
        (1000, 1 << 24, MACHINE, None),
        (1000, 1 << 21, None, None),
        # In a namespace of users anybody may be root, and have all capabilities.
        (0, ALL, ROOTLESS, ROOT_BOUND),
        (0, ALL, "0 0 65536", ROOT_BOUND),
        (1000, ALL, OWN, BOUND),
        (1000, 1 << 24, "", BOUND),
    ],
)
def test_a_users_threads_count(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    user: int,
    capabilities: int,
    users: str | None,
    room: Room | None,
) -> None:
    proc = tree(tmp_path, 2)
    if users is not None:
        (proc / "self" / "uid_map").write_text(f"{users}\n")
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (100, 200))
    monkeypatch.setattr(os, "getuid", lambda: user)
    (proc / "self" / "status").write_text(f"Name:\tx\nCapEff:\t{capabilities:016x}\n")
    for pid, (owner, threads) in {7: (1000, 60), 8: (1000, 10), 9: (0, 500), 10: (33, 5)}.items():
        (proc / str(pid)).mkdir()
        told = f"Name:\tx\nUid:\t{owner}\t0\t0\t0\nThreads:\t{threads}\nSeccomp:\t0\n"
        (proc / str(pid) / "status").write_text(told)
    (proc / "11").mkdir()  # it has ended meanwhile
    assert least_room(proc) == room


def test_too_little_room_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = plain_machine(range(4), 0, 4096)
    wanted = RunConfig()
    monkeypatch.setattr(plan, "least_room", lambda: Room(10**6, "x"))
    made = plan.make_plan(wanted, machine)
    needed = made.tasks
    monkeypatch.setattr(plan, "least_room", lambda: Room(needed, "x"))
    plan.check_processes(made)
    monkeypatch.setattr(plan, "least_room", lambda: Room(needed - 1, "ulimit -u is 100"))
    told = f"^{needed} processes and threads are needed, .* {needed - 1} .ulimit"
    with pytest.raises(UserError, match=told):
        plan.check_processes(made)


@pytest.mark.parametrize(
    ("env_id", "device", "resources", "tasks"),
    [
        ("CartPole-v1", "cpu", {}, 1 + 2 * (1 + 3)),
        ("ALE/Pong-v5", "cpu", {}, 1 + 2 * (1 + 3 * 2)),
        ("ALE/Pong-v5", "cpu", {"threads": 4}, 1 + 2 * (1 + 2 * 3 + 3 * 2)),
        ("CartPole-v1", "cuda", {}, 1 + 2 * (1 + plan.THREADS_OF_CUDA + 3)),
    ],
)
def test_threads_count_as_processes_do(
    env_id: str, device: str, resources: dict[str, int], tasks: int
) -> None:
    """Of torch's two pools, of the emulator, of the driver, and of who saves."""
    wanted = RunConfig(
        environment=EnvironmentConfig(env_id=env_id),
        resources=ResourceConfig(
            learners=2, device=device, **{"simulator_workers": 3, "threads": 1} | resources
        ),
    )
    assert plan.make_plan(wanted, plain_machine(range(8), 1, 4096)).tasks == tasks


def threads(pid: int) -> int:
    try:
        return len(os.listdir(f"/proc/{pid}/task"))
    except OSError:
        return 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("env_id", "more"), [("Breakout", []), ("Breakout", ["--threads", 3]), ("CartPole-v1", [])]
)
def test_a_run_has_no_more_threads_than_are_counted(
    tmp_path: Path, env_id: str, more: list[object]
) -> None:
    folder = tmp_path / "run"
    flags = ["--learners", 2, "--num-envs", 4, "--simulator-workers", 2, "--device", "cpu", *more]
    often = ["--checkpoint-every-s", 0.5, "--log-every-s", 0.1, "--total-steps", 10**9]
    flags += ["--game" if env_id == "Breakout" else "--env-id", env_id, "--run-dir", folder]
    with started(*flags, *often, "--quiet") as process:
        wait_for(lambda: training(folder), "training")
        wait_for((folder / "checkpoints" / "latest").exists, "a checkpoint")
        children = titled(process.pid, "learner") + titled(process.pid, "simulator")
        assert len(children) == 2 + 4
        used = sum(map(threads, children))
        written = json.loads((folder / "config.json").read_text())
        stored = from_dict({name: part for name, part in written.items() if name != "resolved"})
        process.send_signal(signal.SIGINT)
        assert process.wait(DEADLINE_S) == 130
    counted = plan.make_plan(stored, plain_machine(range(2), 0, 4096)).tasks
    assert counted - 1 - 2 * 2 * (int(stored.resources.threads) - 1) <= used <= counted - 1


@pytest.mark.parametrize(("running", "room", "more"), [(10, 0, 0), (9, 0, 0), (5, 3, 4), (0, 8, 9)])
def test_a_run_that_is_scaled_needs_room_for_what_comes_on_top(
    running: int, room: int, more: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = plain_machine(range(4), 0, 4096)
    wanted = RunConfig(
        environment=EnvironmentConfig(env_id="CartPole-v1"),
        resources=ResourceConfig(learners=4, simulator_workers=1, threads=1),
    )
    made = plan.make_plan(wanted, machine)
    monkeypatch.setattr(plan, "least_room", lambda: Room(room, "pids.max is 9"))
    if not more:
        plan.check_processes(made, running)
        return
    told = f"^{more} .*processes and threads are needed, .* room for {room} "
    with pytest.raises(UserError, match=told):
        plan.check_processes(made, running)
