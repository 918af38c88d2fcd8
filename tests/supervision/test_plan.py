"""Plans for machines that are not there: who runs where, and what is refused."""

from __future__ import annotations

import math
import resource
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from galamp.core.config import RunConfig, from_dict
from galamp.core.errors import UserError
from galamp.core.machine.machine import Machine, plain_machine
from galamp.supervision.plan import Plan, make_plan, with_learners

PLENTY = 2**20


def machine(cores: int, gpus: int = 0, descriptors: int = PLENTY) -> Machine:
    """A machine whose cores do not count from 0, as under a batch system."""
    return plain_machine(range(3, 3 + cores), gpus, descriptors)


def config(num_envs: int = 16, learning_rate: float | None = None, **resources: Any) -> RunConfig:
    return from_dict(
        {
            "environment": {"num_envs": num_envs},
            "algorithm": {"learning_rate": learning_rate},
            "resources": resources,
        }
    )


def refused(on: Machine, asked: RunConfig) -> str:
    with pytest.raises(UserError) as caught:
        make_plan(asked, on)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def devices(plan: Plan) -> list[str]:
    return [learner.device for learner in plan.learners]


@pytest.fixture(autouse=True)
def limits(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Keep this process's own limit on open files; what was set is noted instead."""
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, PLENTY))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limit: asked.append(limit))
    return asked


# Learners and devices


@pytest.mark.parametrize(
    ("cores", "gpus", "learners"),
    [(1, 0, 1), (2, 0, 2), (3, 0, 3), (8, 0, 8), (64, 0, 8),
     (1, 1, 1), (2, 1, 1), (8, 1, 1), (4, 2, 2), (2, 2, 1), (16, 8, 8), (8, 8, 4), (256, 8, 8)],
)  # fmt: skip
def test_the_number_of_learners_that_a_machine_gets(cores: int, gpus: int, learners: int) -> None:
    plan = make_plan(config(), machine(cores, gpus))
    assert len(plan.learners) == plan.config.resources.learners == learners
    assert [learner.rank for learner in plan.learners] == list(range(learners))


def test_learners_go_round_the_gpus() -> None:
    assert devices(make_plan(config(learners=5), machine(8, gpus=2))) == [
        "cuda:0", "cuda:1", "cuda:0", "cuda:1", "cuda:0",
    ]  # fmt: skip
    named = make_plan(config(learners=3, device="cuda:2,cuda:0"), machine(8, gpus=3))
    assert devices(named) == ["cuda:2", "cuda:0", "cuda:2"]


@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_without_a_gpu_learners_compute_on_the_cpu(device: str) -> None:
    assert set(devices(make_plan(config(device=device), machine(4)))) == {"cpu"}


def test_the_cpu_can_be_chosen_though_there_are_gpus() -> None:
    plan = make_plan(config(device="cpu"), machine(4, gpus=2))
    assert devices(plan) == ["cpu"] * 4


def test_cuda_means_all_gpus() -> None:
    assert devices(make_plan(config(learners=4, device="cuda"), machine(8, gpus=2))) == [
        "cuda:0", "cuda:1", "cuda:0", "cuda:1",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "device",
    ["", "gpu", "CPU", "cuda:", "cuda:x", "cuda:-1", "cuda:0,", "cuda:0,cpu", "cuda:0 cuda:1",
     "cuda:00", "cuda:²", "cuda:" + "9" * 5000, "mps", "cpu,cpu"],
)  # fmt: skip
def test_a_bad_device_word_is_refused(device: str) -> None:
    assert "expected auto, cpu, cuda, or a list such as" in refused(
        machine(4, gpus=2), config(device=device)
    )


@pytest.mark.parametrize(
    ("device", "named"), [("cuda", "cuda:0"), ("cuda:0", "cuda:0"), ("cuda:0,cuda:7", "cuda:0")]
)
def test_a_missing_gpu_is_refused(device: str, named: str) -> None:
    told = refused(machine(4), config(device=device))
    assert told.startswith(f"--device {named}: this machine shows 0 GPUs to torch")
    assert "--device cpu" in told


def test_the_gpu_beyond_the_last_is_refused() -> None:
    make_plan(config(device="cuda:1"), machine(4, gpus=2))
    assert "--device cuda:2" in refused(machine(4, gpus=2), config(device="cuda:2"))


def test_more_wake_ups_than_one_task_may_hold_are_refused() -> None:
    told = refused(machine(64), config(num_envs=64, learners=200, simulator_workers=50))
    assert "--learners 200 with --simulator-workers 50: expected at most 240 together" in told
    make_plan(config(num_envs=64, learners=200, simulator_workers=40), machine(64))


def test_more_learners_than_the_cores_carry_are_refused() -> None:
    assert len(make_plan(config(learners=16), machine(2)).learners) == 16
    assert refused(machine(2), config(learners=17)) == (
        "--learners 17: 2 usable cores carry at most 16 (8 per core); use fewer learners"
    )


# Cores


@given(st.integers(1, 40), st.integers(1, 40))
def test_shares_cover_the_cores_and_overlap_only_where_they_must(cores: int, count: int) -> None:
    on = machine(cores)
    if count > 8 * cores:
        return
    shares = [learner.cpus.cores for learner in make_plan(config(learners=count), on).learners]
    assert all(shares)
    assert {core for share in shares for core in share} == set(on.cores)
    sizes = [len(share) for share in shares]
    if count <= cores:
        assert sum(sizes) == cores, "shares overlap"
        assert max(sizes) - min(sizes) <= 1
    else:
        assert set(sizes) == {1}
        users = [sum(core in share for share in shares) for core in on.cores]
        assert max(users) - min(users) <= 1


# Simulators, splits, threads, learning rate


@given(
    cores=st.integers(1, 70),
    gpus=st.integers(0, 9),
    num_envs=st.integers(1, 64),
    learners=st.none() | st.integers(1, 16),
)
def test_every_plan_leaves_no_choice_open(
    cores: int, gpus: int, num_envs: int, learners: int | None
) -> None:
    if learners is not None and learners > 8 * cores:
        return
    plan = make_plan(config(num_envs, learners=learners or "auto"), machine(cores, gpus))
    made = plan.config.resources
    share = min(len(learner.cpus.simulators) for learner in plan.learners)
    assert 1 <= made.env_splits <= made.simulator_workers <= num_envs
    assert made.simulator_workers <= share
    assert 1 <= made.threads <= share
    assert made.learners == len(plan.learners)
    assert plan.simulators == len(plan.learners) * made.simulator_workers
    assert plan.agent_steps_per_update == num_envs * plan.config.algorithm.num_steps
    assert plan.config.algorithm.learning_rate == 7e-4 * math.sqrt(made.learners)


def test_a_plan_of_a_resolved_config_is_the_same_plan() -> None:
    # What a resumed run starts from is the stored, resolved config.
    on = machine(32, gpus=12)
    for asked in (config(), config(learners=12), config(learners=3, device="cuda:10,cuda:2")):
        plan = make_plan(asked, on)
        assert make_plan(plan.asked, on) == plan


def test_what_the_user_chose_stays() -> None:
    asked = config(
        8,
        learning_rate=0.01,
        learners=2,
        simulator_workers=4,
        env_splits=1,
        threads=3,
        device="cpu",
    )
    made = make_plan(asked, machine(2)).config
    assert made == asked


@pytest.mark.parametrize(("learners", "rate"), [(1, 7e-4), (4, 1.4e-3), (9, 2.1e-3)])
def test_the_learning_rate_grows_with_the_square_root_of_the_learners(
    learners: int, rate: float
) -> None:
    made = make_plan(config(learners=learners), machine(16)).config.algorithm.learning_rate
    assert made == pytest.approx(rate, rel=1e-12)


def test_only_learners_on_cpus_compute_with_their_whole_share() -> None:
    assert make_plan(config(learners=2), machine(8)).config.resources.threads == 4
    assert make_plan(config(learners=2), machine(8, gpus=1)).config.resources.threads == 1


def test_a_simulator_needs_an_environment_and_a_split_a_simulator() -> None:
    assert refused(machine(8), config(4, simulator_workers=5)) == (
        "--simulator-workers 5: more than the 4 environments of --num-envs; "
        "use at most one simulator per environment"
    )
    assert refused(machine(8), config(4, simulator_workers=2, env_splits=3)) == (
        "--env-splits 3: more than the 2 of --simulator-workers; "
        "each part needs a simulator of its own"
    )
    make_plan(config(4, simulator_workers=4, env_splits=4), machine(8))


# Open files


def test_more_processes_than_files_can_be_opened_for_are_refused() -> None:
    asked = config(learners=4, simulator_workers=2, device="cpu")
    needed = 64 + 4 * (4 + 8)
    make_plan(asked, machine(4, descriptors=needed))
    told = refused(machine(4, descriptors=needed - 1), asked)
    assert told.startswith(f"12 processes need {needed} open files, the limit is {needed - 1}")
    assert "ulimit -Hn" in told


def test_the_soft_limit_is_raised_only_where_it_is_too_low(limits: list[tuple[int, int]]) -> None:
    make_plan(config(learners=1, simulator_workers=1), machine(4))
    assert limits == []
    make_plan(config(learners=16, simulator_workers=16), machine(4))
    assert limits == [(64 + 4 * (16 + 256), PLENTY)]


def test_a_plan_does_not_change_the_config_it_came_from() -> None:
    asked = config()
    before = replace(asked)
    make_plan(asked, machine(4))
    assert asked == before


# Ways to work together


def working(method: str, learners: int = 4, **gossip: Any) -> RunConfig:
    return from_dict(
        {
            "environment": {"num_envs": 8},
            "gossip": {"method": method, **gossip},
            "resources": {"learners": learners, "device": "cpu"},
        }
    )


@pytest.mark.parametrize("method", ["gossip", "allreduce", "independent"])
def test_methods_differ_in_nothing_but_how_learners_work_together(method: str) -> None:
    plan, usual = (make_plan(working(each), machine(4)) for each in (method, "gossip"))
    assert plan.learners == usual.learners
    assert replace(plan.config, gossip=usual.config.gossip) == usual.config
    assert plan.config.gossip.topology == ("ring" if method == "gossip" else "none")
    assert plan.config.gossip.synchronous == (method == "allreduce")
    assert plan.config.gossip.certificate == (method != "allreduce")


def test_single_is_one_learner_with_the_environments_and_the_learning_rate_of_all() -> None:
    plan = make_plan(working("single"), machine(4))
    assert len(plan.learners) == plan.config.resources.learners == 1
    assert plan.learners[0].cpus.cores == machine(4).cores
    assert plan.config.environment.num_envs == 4 * 8
    assert plan.config.algorithm.learning_rate == 7e-4 * 2
    assert not plan.config.gossip.certificate


@pytest.mark.parametrize("method", ["gossip", "single", "allreduce", "independent"])
def test_a_method_is_applied_once(method: str) -> None:
    # A resumed run starts from what was made of it.
    plan = make_plan(working(method), machine(4))
    assert make_plan(plan.config, machine(4)) == plan


def test_as_many_simulators_as_all_learners_have_are_no_reason_to_refuse_one() -> None:
    asked = from_dict(
        {
            "environment": {"num_envs": 1},
            "gossip": {"method": "single"},
            "resources": {"learners": 4, "simulator_workers": 4, "device": "cpu"},
        }
    )
    assert make_plan(asked, machine(4)).config.resources.simulator_workers == 4


@pytest.mark.parametrize("method", ["single", "allreduce", "independent"])
def test_who_does_not_gossip_needs_no_graph(method: str) -> None:
    told = refused(machine(4), working(method, topology="star"))
    assert told.startswith(f"--method {method}: learners do not gossip, so --topology star")
    for topology in ("ring", "none"):
        make_plan(working(method, topology=topology), machine(4))


@pytest.mark.parametrize("settings", [{"sync": True}, {"max_staleness": 0}])
def test_a_target_needs_learners_on_their_own_time(settings: dict[str, Any]) -> None:
    assert refused(machine(4), working("gossip", target_ball=1.0, **settings)).startswith(
        "--target-ball: in lock-step"
    )
    make_plan(working("gossip", target_ball=1.0), machine(4))


# Another number of learners


def rescaled(before: RunConfig, learners: int, on: Machine) -> RunConfig:
    """Return what becomes of a run that was planned, once so many `learners` are asked for."""
    plan = make_plan(before, on)
    return make_plan(with_learners(plan.asked, learners, on, plan.learners), on).config


def test_what_was_chosen_is_chosen_anew() -> None:
    for before, after in ((2, 4), (4, 1), (1, 0)):
        asked = config(learners=before, device="cpu")
        new = make_plan(config(learners=after, device="cpu"), machine(8)).config
        assert rescaled(asked, after, machine(8)) == new


def test_what_was_asked_for_stays() -> None:
    wishes = {"threads": 3, "simulator_workers": 5, "env_splits": 4}
    found = rescaled(config(learning_rate=0.5, learners=2, **wishes), 4, machine(4))
    assert found.algorithm.learning_rate == 0.5
    assert {name: getattr(found.resources, name) for name in wishes} == wishes


def test_more_learners_find_the_other_gpus() -> None:
    box = machine(16, gpus=4)
    for asked, devices in (
        ("auto", "cuda:0,cuda:1,cuda:2,cuda:3"),
        ("cuda:1,cuda:3", "cuda:1,cuda:3"),
        ("cpu", "cpu"),
    ):
        before = config(learners=2, device=asked)
        assert rescaled(before, 4, box).resources.device == devices


# Another machine


@pytest.mark.parametrize(
    ("device", "gpus", "then"),
    [
        ("cpu", 0, "cpu"),
        ("cpu", 4, "cpu"),
        ("auto", 0, "cpu"),
        ("auto", 1, "cuda:0"),
        ("cuda", 0, "cpu"),
        ("cuda:0,cuda:1", 2, "cuda:0,cuda:1"),
        ("cuda:1", 4, "cuda:1"),
        ("cuda:0,cuda:1", 0, "cpu"),
        ("cuda:0,cuda:1,cuda:2,cuda:3", 2, "cuda:0,cuda:1"),
        ("cuda:3", 1, "cuda:0"),
    ],
)
def test_devices_that_are_missing_here_are_chosen_anew(device: str, gpus: int, then: str) -> None:
    """For now: back on a machine that has them, the run takes them again."""
    asked = config(device=device, learners=2)
    plan = make_plan(asked, machine(8, gpus), resumed=True)
    assert plan.config.resources.device == then
    assert plan.asked.resources.device == device
