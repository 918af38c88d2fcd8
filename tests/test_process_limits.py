"""Room for more processes: of control groups on trees of files, and of `ulimit -u`."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

from galamp import plan
from galamp.config import ResourceConfig, RunConfig
from galamp.errors import UserError
from galamp.machine import plain_machine
from galamp.process_limits import Room, least_room


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


@pytest.mark.parametrize(
    ("user", "capabilities", "room"),
    [(1000, 0, Room(30, "ulimit -u is 100")), (0, 0, None), (1000, 1 << 24, None)],
)
def test_a_users_threads_count(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    user: int,
    capabilities: int,
    room: Room | None,
) -> None:
    proc = tree(tmp_path, 2)
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
    needed = len(made.learners) + made.simulators
    monkeypatch.setattr(plan, "least_room", lambda: Room(needed, "x"))
    plan.check_processes(made)
    monkeypatch.setattr(plan, "least_room", lambda: Room(needed - 1, "ulimit -u is 100"))
    with pytest.raises(UserError, match=f"^{needed} processes are needed, .* {needed - 1} .ulimit"):
        plan.check_processes(made)


@pytest.mark.parametrize(("running", "room", "more"), [(9, 0, 0), (8, 0, 0), (5, 2, 3), (0, 7, 8)])
def test_a_run_that_is_scaled_needs_room_for_what_comes_on_top(
    running: int, room: int, more: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = plain_machine(range(4), 0, 4096)
    wanted = RunConfig(resources=ResourceConfig(learners=4, simulator_workers=1))
    made = plan.make_plan(wanted, machine)
    monkeypatch.setattr(plan, "least_room", lambda: Room(room, "pids.max is 9"))
    if not more:
        plan.check_processes(made, running)
        return
    with pytest.raises(UserError, match=f"^{more} .*processes are needed, .* room for {room} "):
        plan.check_processes(made, running)
