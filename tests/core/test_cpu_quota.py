"""Processor time that control groups allow: on trees of files like those of the kernel."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from galamp.cli.dry_run import facts
from galamp.core.machine.cpu_quota import allowed_processors
from galamp.core.machine.machine import Machine, inspect_machine, plain_machine
from galamp.core.machine.memory import control_groups
from galamp.supervision.devices import CPU
from galamp.supervision.plan import make_plan, with_learners
from galamp.training.autotune import candidates
from galamp.training.start_events import log_choices
from galamp.training.workload import workload
from tests.cli.test_dry_run import surveyed
from tests.core.test_memory import GARBAGE, Tree
from tests.supervision.test_plan import config, limits, rescaled
from tests.support.engine import DEADLINE_S, ROOT
from tests.support.real_groups import real_group
from tests.support.told import Told

__all__ = ["limits"]


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def second(folder: Path, text: str) -> None:
    """Limit a group as version 2 does."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cpu.max").write_text(f"{text}\n")


def first(folder: Path, quota: object, period: object = 100_000) -> None:
    """Limit a group as version 1 does."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cpu.cfs_quota_us").write_text(f"{quota}\n")
    (folder / "cpu.cfs_period_us").write_text(f"{period}\n")


# What control groups tell


@pytest.mark.parametrize(
    ("text", "allowed"),
    [
        ("200000 100000", 2.0),
        ("150000 100000", 1.5),
        ("5000 10000", 0.5),
        ("6400000 100000", 64.0),
        ("max 100000", None),
        ("max", None),
    ],
)
def test_a_container_is_told_what_it_may_use(tree: Tree, text: str, allowed: float | None) -> None:
    tree.belongs_to("0::/")
    second(tree.mount("cg", "cgroup2"), text)
    assert allowed_processors(tree.proc) == allowed


@pytest.mark.parametrize(
    ("quota", "period", "allowed"),
    [(200_000, 100_000, 2.0), (30_000, 20_000, 1.5), (-1, 100_000, None), (5, 0, None)],
)
def test_version_1_tells_it_in_two_files(
    tree: Tree, quota: int, period: int, allowed: float | None
) -> None:
    tree.belongs_to("4:memory:/elsewhere", "3:cpu,cpuacct:/slurm/job_7", "0::/")
    mounted = tree.mount("cpu,cpuacct", "cgroup", "rw,cpu,cpuacct")
    tree.mount("memory", "cgroup", "rw,memory")
    first(mounted, -1)
    first(mounted / "slurm/job_7", quota, period)
    assert allowed_processors(tree.proc) == allowed


@pytest.mark.parametrize("tight", ["job", "job/step", "job/step/task"])
@pytest.mark.parametrize("version", [1, 2])
def test_the_least_of_the_own_group_and_all_above_it_counts(
    tree: Tree, tight: str, version: int
) -> None:
    tree.belongs_to("0::/job/step/task" if version == 2 else "7:cpu:/job/step/task")
    mounted = tree.mount("cg", *(("cgroup2",) if version == 2 else ("cgroup", "rw,cpu")))
    for name in ("job", "job/step", "job/step/task"):
        quota = 300_000 if name == tight else 900_000
        if version == 2:
            second(mounted / name, f"{quota} 100000")
        else:
            first(mounted / name, quota)
    second(mounted / "job/step/other", "1000 100000")
    first(mounted / "job/step/other", 1000)
    assert allowed_processors(tree.proc) == 3.0


def test_on_a_hybrid_system_each_hierarchy_counts(tree: Tree) -> None:
    tree.belongs_to("4:cpu,cpuacct:/a", "0::/b")
    first(tree.mount("cpu", "cgroup", "rw,cpu,cpuacct") / "a", 700_000)
    unified = tree.mount("unified", "cgroup2")
    (unified / "b").mkdir()
    assert allowed_processors(tree.proc) == 7.0
    second(unified / "b", "200000 100000")
    assert allowed_processors(tree.proc) == 2.0


ODD = [text for text in GARBAGE if text != "1 2"]
ODD += ["0 100000", "100000 0", "-1 100000", "1 2 3", "1 x"]


@pytest.mark.parametrize("text", ODD)
def test_what_is_odd_allows_everything(tree: Tree, text: str) -> None:
    tree.belongs_to("0::/a", "3:cpu:/b")
    second(tree.mount("cg", "cgroup2") / "a", text)
    first(tree.mount("cpu", "cgroup", "rw,cpu") / "b", text)
    assert allowed_processors(tree.proc) is None
    first(tree.proc.parent / "cpu" / "b", 5000, text)
    assert allowed_processors(tree.proc) is None


def test_where_nothing_can_be_read_everything_is_allowed(tmp_path: Path) -> None:
    assert allowed_processors(tmp_path) is None


IN_GROUP = """
import sys
open(sys.argv[1] + "/cgroup.procs", "w").write("0")
from galamp.core.machine.machine import inspect_machine
print(inspect_machine("cpu").quota)
"""


@pytest.mark.real
def test_a_real_group_is_seen() -> None:
    old = any(chain[0].kind == "cgroup" for chain in control_groups(controller="cpu"))
    limits = {"cfs_quota_us": "150000"} if old else {"max": "150000 100000"}
    with real_group("cpu", **limits) as group:
        words = [sys.executable, "-c", IN_GROUP, str(group)]
        ended = subprocess.run(words, cwd=ROOT, text=True, capture_output=True, timeout=DEADLINE_S)
    assert ended.stdout == "1.5\n", ended.stderr


def test_this_machine_is_looked_at() -> None:
    found = inspect_machine("cpu")
    assert found.quota == allowed_processors()
    assert 1 <= found.usable <= len(found.cpus)


# What follows from it


def box(cores: int, quota: float | None, gpus: int = 0) -> Machine:
    return replace(plain_machine(range(cores), gpus, 2**20), quota=quota)


@pytest.mark.parametrize(
    ("quota", "usable", "throttled"),
    [(None, 64, False), (0.1, 1, True), (1.0, 1, True), (1.5, 2, True), (2.0, 2, True),
     (63.5, 64, True), (64.0, 64, False), (1e9, 64, False)],
)  # fmt: skip
def test_so_many_processors_count(quota: float | None, usable: int, *, throttled: bool) -> None:
    assert (box(64, quota).usable, box(64, quota).throttled) == (usable, throttled)


@pytest.mark.parametrize(
    ("cores", "quota", "learners", "workers", "threads"),
    [
        (64, None, 8, 8, 8),
        (64, 2.0, 2, 1, 1),
        (64, 1.2, 2, 1, 1),
        (64, 0.5, 1, 1, 1),
        (64, 16.0, 8, 2, 2),
        (64, 64.0, 8, 8, 8),
        (2, 64.0, 2, 1, 1),
    ],
)
def test_learners_threads_and_simulators_are_for_the_time_that_is_allowed(
    cores: int, quota: float | None, learners: int, workers: int, threads: int
) -> None:
    plan = make_plan(config(device="cpu"), box(cores, quota))
    made = plan.config.resources
    assert (made.learners, made.simulator_workers, made.threads) == (learners, workers, threads)
    used = {core for each in plan.learners for core in each.cpus.cores}
    assert used == set(range(cores)), "the kernel sees best which are free"


@pytest.mark.parametrize(
    ("quota", "learners", "workers"), [(None, 2, 16), (8.0, 2, 3), (2.0, 1, 1), (1.0, 1, 1)]
)
def test_a_learner_on_a_gpu_has_one_for_itself(
    quota: float | None, learners: int, workers: int
) -> None:
    made = make_plan(config(), box(64, quota, gpus=2)).config.resources
    assert (made.learners, made.simulator_workers, made.threads) == (learners, workers, 1)


def test_what_is_asked_for_is_had() -> None:
    asked = config(learners=4, simulator_workers=4, threads=3, env_splits=2, device="cpu")
    assert make_plan(asked, box(64, 2.0)).config.resources == asked.resources


def test_another_number_of_learners_is_planned_for_the_same_time() -> None:
    on = box(64, 8.0)
    for before, after in ((2, 4), (4, 1), (8, 2)):
        found = rescaled(config(learners=before, device=CPU), after, on).resources
        assert found == make_plan(config(learners=after, device=CPU), on).config.resources
        assert found.threads == 8 // after
    made = make_plan(config(), on)
    assert with_learners(made.asked, 2, on, made.learners).resources.threads == 0, "open"


@pytest.mark.parametrize(
    ("quota", "gpus", "numbers"),
    [(None, 0, [1, 32, 64, 128]), (4.0, 0, [1, 2, 4, 8]), (0.5, 0, [1, 2]), (4.0, 1, [1, 2])],
)
def test_numbers_around_what_is_allowed_are_tried(
    quota: float | None, gpus: int, numbers: list[int]
) -> None:
    assert candidates(config(), box(64, quota, gpus)) == numbers


def test_rates_hold_for_one_quota() -> None:
    keys = [workload(config(), box(64, quota)) for quota in (None, 64.0, 100.0, 1.5, 2.0)]
    assert keys[0] == keys[1] == keys[2]
    assert keys[0] != keys[3] != keys[4] != keys[0]


@pytest.mark.parametrize("quota", [None, 1.5, 64.0])
def test_it_is_told_in_one_line(quota: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told()
    on = box(64, quota)
    recorder = SimpleNamespace(log_event=told.log_event)
    log_choices(make_plan(config(device="cpu"), on), on, cast(Any, recorder), first=True)
    words = "a control group allows 1.5 of 64 processors' time"
    lines = [line for line in told if "control group" in line]
    assert lines == ([f"{words}: what is not set is chosen for 2"] if quota == 1.5 else [])
    shown = dict(facts(*surveyed(monkeypatch, on, device="cpu")))
    assert shown.get("processors") == (words if quota == 1.5 else None)
