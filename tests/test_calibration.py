"""`--learners auto`: what is tried, what is chosen, and what is remembered."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from galamp import calibration
from galamp.calibration import Stopwatch, candidates, quickest, with_quickest, workload
from galamp.config import RunConfig, from_dict
from galamp.errors import StoppedBySignal, UserError
from galamp.plan import Machine
from galamp.storage import rates
from galamp.storage.rates import RateCache, cache_folder

from . import engine

MACHINE = Machine(cores=(0, 1), gpus=0, descriptors=1024)
QUICK = ("--env-id", "CartPole-v1", "--num-envs", 2)


def config(**sections: dict[str, Any]) -> RunConfig:
    return from_dict({"environment": {"env_id": "CartPole-v1", "num_envs": 2}} | sections)


@pytest.fixture
def cache(tmp_path: Path) -> RateCache:
    return RateCache(tmp_path / "somewhere" / "learners.json")


@pytest.fixture(autouse=True)
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "inspect_machine", lambda device: MACHINE)


def measuring(
    monkeypatch: pytest.MonkeyPatch, answer: Callable[[int], float]
) -> tuple[list[int], list[str]]:
    """Have measurements answered; returns what is asked for, and what is told, as they come."""
    asked: list[int] = []

    def rate_of(config: RunConfig, learners: int, stopwatch: Stopwatch) -> float:
        asked.append(learners)
        return answer(learners)

    monkeypatch.setattr(calibration, "rate_of", rate_of)
    return asked, []


# What is tried, and what is chosen


@pytest.mark.parametrize(
    ("cores", "gpus", "device", "numbers"),
    [
        (1, 0, "auto", [1, 2]),
        (2, 0, "auto", [1, 2, 4]),
        (16, 0, "cpu", [1, 8, 16, 32]),
        (16, 1, "auto", [1, 2, 4]),
        (16, 1, "cpu", [1, 8, 16, 32]),
        (4, 1, "auto", [1, 2]),
        (2, 4, "auto", [4]),
        (64, 4, "cuda:0,cuda:2", [2, 4, 8]),
        (64, 4, "cuda", [4, 8, 16]),
    ],
)
def test_numbers_around_the_cores_or_gpus_are_tried(
    cores: int, gpus: int, device: str, numbers: list[int]
) -> None:
    machine = Machine(cores=tuple(range(cores)), gpus=gpus, descriptors=1024)
    assert candidates(config(resources={"device": device}), machine) == numbers


def test_fewer_learners_win_where_they_are_as_good() -> None:
    assert quickest({1: 2000.0, 2: 2990.0, 4: 3010.0}) == 2
    assert quickest({1: 2000.0, 2: 2500.0, 4: 3010.0}) == 4
    assert quickest({3: 1.0}) == 3


def test_the_quickest_is_measured_once_and_told(
    cache: RateCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, told = measuring(monkeypatch, {1: 1000.0, 2: 3000.4, 4: 2000.0}.__getitem__)
    settled = with_quickest(config(), told.append, cache)
    assert settled.resources.learners == 2
    assert asked == [1, 2, 4]
    assert told == [
        "--learners auto: trying 1, 2, 4, about 24 s, once for this machine and these settings",
        "--learners auto: 2 (agent steps/s by learners, measured now: 1: 1,000, 2: 3,000, "
        "4: 2,000)",
    ]
    again = with_quickest(config(), told.append, RateCache(cache.path))
    assert again == settled
    assert asked == [1, 2, 4]
    assert "as measured on 20" in told[-1]


def test_what_changes_the_cost_of_a_step_is_measured_anew() -> None:
    usual = workload(config(), MACHINE)
    same = config(
        seed=5, total_steps=7, algorithm={"learning_rate": 0.1, "gamma": 0.5},
        resources={"hang_after_s": 99.0}, report={"name": "other"},
    )  # fmt: skip
    assert workload(same, MACHINE) == usual
    others: list[dict[str, Any]] = [
        {"environment": {"env_id": "CartPole-v1", "num_envs": 3}},
        {"environment": {"env_id": "Acrobot-v1", "num_envs": 2}},
        {"algorithm": {"precision": "bf16"}},
        {"algorithm": {"num_steps": 20}},
        {"model": {"network": "mlp"}},
        {"gossip": {"topology": "complete"}},
        {"resources": {"simulator_workers": 2}},
    ]
    assert all(workload(config(**other), MACHINE) != usual for other in others)
    assert workload(config(), Machine((0, 1, 2), 0, 1024)) != usual


def test_numbers_that_do_not_fit_are_left_out(
    cache: RateCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def only_four(learners: int) -> float:
        if learners != 4:
            raise UserError(f"--topology torus: {learners} learners make no torus")
        return 10.0

    _, told = measuring(monkeypatch, only_four)
    assert with_quickest(config(), told.append, cache).resources.learners == 4


def test_if_none_fits_the_first_reason_is_told(
    cache: RateCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(learners: int) -> float:
        raise UserError(f"no {learners}")

    _, told = measuring(monkeypatch, none)
    with pytest.raises(UserError, match="no 1"):
        with_quickest(config(), told.append, cache)
    assert not cache.path.exists()


def test_the_method_with_one_learner_leaves_nothing_to_measure(
    cache: RateCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, told = measuring(monkeypatch, lambda learners: 1.0)
    alone = config(gossip={"method": "a2c"})
    assert with_quickest(alone, told.append, cache) == alone
    assert asked == []
    assert told == ["--learners auto: --method a2c has one learner, and nothing to choose"]


def test_a_cache_that_cannot_be_written_is_only_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    _, told = measuring(monkeypatch, float)
    cache = RateCache(tmp_path / "file" / "learners.json")
    assert with_quickest(config(), told.append, cache).resources.learners == 4
    assert "will be measured again next time" in capsys.readouterr().err


# What is remembered


def test_rates_come_back_under_their_key(cache: RateCache) -> None:
    assert cache.find({"a": 1}) is None
    cache.keep({"a": 1, "b": [2]}, {1: 5.0, 2: 7.5})
    cache.keep({"a": 2}, {4: 1.0})
    found = cache.find({"b": [2], "a": 1})
    assert found is not None
    assert found.by_learners == {1: 5.0, 2: 7.5}
    assert cache.find({"a": 3}) is None


@pytest.mark.parametrize(
    "content",
    [
        b"", b"null", b"[]", b"{", b"\xff\xfe", b"[" * 100_000, b'{"KEY": 5}', b'{"KEY": {}}',
        b'{"KEY": {"measured": "today", "rates": {"1": 2.0}}}',
        b'{"KEY": {"measured": "2026-01-01", "rates": {}}}',
        b'{"KEY": {"measured": "2026-01-01", "rates": {"0": 2.0}}}',
        b'{"KEY": {"measured": "2026-01-01", "rates": {"1": -2.0}}}',
        b'{"KEY": {"measured": "2026-01-01", "rates": {"1": Infinity}}}',
        b'{"KEY": {"measured": "2026-01-01", "rates": [1]}}',
    ],
)  # fmt: skip
def test_a_damaged_cache_is_an_empty_one(cache: RateCache, content: bytes) -> None:
    cache.path.parent.mkdir()
    cache.path.write_bytes(content.replace(b"KEY", rates._digest({"a": 1}).encode()))
    assert cache.find({"a": 1}) is None
    cache.keep({"a": 1}, {2: 3.0})
    assert cache.find({"a": 1}) is not None


def test_the_oldest_go_first(cache: RateCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "MOST_ENTRIES", 2)
    for number in (0, 1, 0, 2):
        cache.keep({"number": number}, {1: 1.0})
    assert [cache.find({"number": n}) is not None for n in range(3)] == [True, False, True]


def test_the_cache_lies_where_the_user_keeps_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_folder() == Path("/home/someone/.cache/galamp")
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert cache_folder() == Path("/caches/galamp")


# Real runs


TRIAL = """
from galamp.calibration import Stopwatch, rate_of
from galamp.config import from_dict
config = from_dict({"environment": {"env_id": "CartPole-v1", "num_envs": 2}})
print([rate_of(config, learners, Stopwatch(0.2, 0.5)) > 0 for learners in (1, 2)])
"""


def test_short_runs_are_timed_and_leave_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", TRIAL],
        cwd=engine.ROOT,
        env=os.environ | {"TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=engine.DEADLINE_S,
    )
    assert done.stdout == "[True, True]\n", done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_stopped_trial_ends_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(learners: int) -> float:
        raise StoppedBySignal(143)

    _, told = measuring(monkeypatch, stopped)
    with pytest.raises(StoppedBySignal) as stop:
        with_quickest(config(), told.append, RateCache(Path("/nowhere/learners.json")))
    assert stop.value.exit_code == 143


@pytest.mark.slow
def test_auto_measures_then_remembers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    length = ("--total-steps", 2000)
    first = engine.run(*QUICK, *length, "--learners", "auto", "--run-dir", tmp_path / "first")
    assert first.returncode == 0, first.stderr
    assert "--learners auto: trying 1, " in first.stderr
    second = engine.run(*QUICK, *length, "--learners", "auto", "--run-dir", tmp_path / "second")
    assert second.returncode == 0, second.stderr
    assert "trying" not in second.stderr
    assert "as measured on" in second.stderr
    counts = [len(engine.summary(tmp_path / n)["updates_per_learner"]) for n in ("first", "second")]
    assert counts[0] == counts[1]


@pytest.mark.slow
def test_a_signal_while_measuring_ends_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with engine.started(*QUICK, "--learners", "auto", "--run-dir", tmp_path / "run") as process:
        assert process.stderr is not None
        assert "trying" in process.stderr.readline()
        engine.wait_for(lambda: len(engine.family(process.pid)) > 2, "processes")
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=engine.DEADLINE_S)
    assert process.returncode == 130
    assert err.endswith("galamp: stopped; no run was begun\n"), err
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "galamp").exists()
