"""`--learners auto`: what is tried, what is chosen, and what is remembered."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from galamp.cli.main import build_parser
from galamp.cli.run import calibrated
from galamp.cli.run_config import config_from
from galamp.core.config import RunConfig, from_dict
from galamp.core.errors import GalampError, RunFailed, StoppedBySignal, UserError
from galamp.core.machine.load import Usage, others_share, read_usage
from galamp.core.machine.machine import inspect_machine, machine_id, plain_machine
from galamp.core.stop_config import StopConfig
from galamp.storage import rate_cache
from galamp.storage.rate_cache import RateCache, cache_folder
from galamp.storage.run_folder import StoredChoices
from galamp.supervision.child_failure import ChildFailure
from galamp.supervision.signals import Signals
from galamp.training import autotune
from galamp.training.autotune import (
    ThroughputProbe,
    candidates,
    check_result,
    quickest,
    with_quickest,
)
from galamp.training.supervisor import RunResult
from galamp.training.workload import workload
from tests.support import engine

MACHINE = plain_machine((0, 1), 0, 1024)
QUICK = ("--env-id", "CartPole-v1", "--num-envs", 2)


def config(**sections: dict[str, Any]) -> RunConfig:
    return from_dict({"environment": {"env_id": "CartPole-v1", "num_envs": 2}} | sections)


@pytest.fixture
def cache(tmp_path: Path) -> RateCache:
    return RateCache(tmp_path / "somewhere" / "learners.json")


@pytest.fixture(autouse=True)
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autotune, "inspect_machine", lambda device: MACHINE)


def measuring(
    monkeypatch: pytest.MonkeyPatch, answer: Callable[[int], float]
) -> tuple[list[int], list[str]]:
    """Have measurements answered; returns what is asked for, and what is told, as they come."""
    asked: list[int] = []

    def rate_of(
        config: RunConfig, learners: int, stopwatch: ThroughputProbe, signals: Signals
    ) -> float:
        asked.append(learners)
        return answer(learners)

    monkeypatch.setattr(autotune, "rate_of", rate_of)
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
    machine = plain_machine(range(cores), gpus, 1024)
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


def test_a_trial_ends_by_no_stop_condition(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[RunConfig] = []

    def train(config: RunConfig, **_: object) -> Any:
        asked.append(config)
        return SimpleNamespace(result=RunResult("finished", 0))

    monkeypatch.setattr(autotune, "train", train)
    with Signals(detach=True) as signals, contextlib.suppress(GalampError):
        autotune.rate_of(config(stop={"stop_score": 1.0}), 2, ThroughputProbe(), signals)
    assert asked[0].stop == StopConfig()
    assert asked[0].resources.learners == 2


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
    assert workload(config(), plain_machine((0, 1, 2), 0, 1024)) != usual


def test_a_container_of_another_name_is_the_same_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = workload(config(), MACHINE)
    monkeypatch.setattr(platform, "node", lambda: "4f5e1c9a7b21")
    assert workload(config(), MACHINE) == usual


@pytest.mark.parametrize(
    ("content", "known"),
    [("0123456789abcdef" * 2 + "\n", True), ("uninitialized\n", False), ("", False)],
)
def test_a_machine_is_known_by_its_id(tmp_path: Path, content: str, *, known: bool) -> None:
    assert machine_id(tmp_path) == ""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "machine-id").write_text(content)
    assert machine_id(tmp_path) == (content.strip() if known else "")


@pytest.mark.parametrize("kind", [UserError, RunFailed])
def test_numbers_that_cannot_be_run_are_left_out(
    cache: RateCache, monkeypatch: pytest.MonkeyPatch, kind: type[GalampError]
) -> None:
    def only_four(learners: int) -> float:
        if learners != 4:
            raise kind(f"{learners} learners make no torus")
        return 10.0

    _, told = measuring(monkeypatch, only_four)
    assert with_quickest(config(), told.append, cache).resources.learners == 4
    assert "--learners auto: 2 is left out: 2 learners make no torus" in told


def test_what_was_measured_outlives_failures_that_are_alike(
    cache: RateCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def only_one(learners: int) -> float:
        if learners > 1:
            raise RunFailed("learner 1 was killed: out of memory")
        return 10.0

    asked, told = measuring(monkeypatch, only_one)
    assert with_quickest(config(), told.append, cache).resources.learners == 1
    assert asked == [1, 2, 4]


def test_if_none_can_be_run_the_first_reason_is_told(
    cache: RateCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(learners: int) -> float:
        raise UserError(f"no {learners}")

    _, told = measuring(monkeypatch, none)
    with pytest.raises(UserError, match="no 1"):
        with_quickest(config(), told.append, cache)
    assert not cache.path.exists()


def test_what_is_wrong_with_any_number_is_told_at_once(
    cache: RateCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(learners: int) -> float:
        raise UserError("no such environment")

    asked, told = measuring(monkeypatch, wrong)
    with pytest.raises(UserError, match="no such environment"):
        with_quickest(config(), told.append, cache)
    assert asked == [1, 2]


@pytest.mark.parametrize(
    ("sections", "told"),
    [
        (
            {"gossip": {"method": "single"}},
            "--method single is one learner with everyone's environments",
        ),
        ({"gossip": {"topology": "file:links.txt"}}, "the graph of --topology file:links.txt is"),
        ({"resources": {"device": "cuda"}}, "this machine shows 0 GPUs"),
        ({"report": {"run_dir": "FULL"}}, "not empty; choose another --run-dir"),
    ],
)
def test_mistakes_are_told_before_anything_is_measured(
    sections: dict[str, Any],
    told: str,
    cache: RateCache,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked, _ = measuring(monkeypatch, lambda learners: 1.0)
    (tmp_path / "FULL").mkdir()
    (tmp_path / "FULL" / "something").write_text("")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=re.escape(told)):
        with_quickest(config(**sections), [].append, cache)
    assert asked == []


def test_looking_at_the_run_folder_leaves_nothing(
    cache: RateCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, told = measuring(monkeypatch, float)
    with_quickest(config(report={"run_dir": str(tmp_path / "run")}), told.append, cache)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("result", "pending", "kind"),
    [
        (RunResult("stopped", 143), (), StoppedBySignal),
        (RunResult("finished", 0), (signal.SIGTERM,), StoppedBySignal),
        (RunResult("failed", 70, ChildFailure("learner 1", "was killed")), (), RunFailed),
    ],
)
def test_a_short_run_that_ended_otherwise_counts_for_nothing(
    result: RunResult, pending: tuple[int, ...], kind: type[GalampError]
) -> None:
    signals = Signals(detach=True)
    for number in pending:
        signals._note(number, None)
    with pytest.raises(kind) as raised:
        check_result(result, signals)
    if kind is StoppedBySignal:
        assert raised.value.exit_code == 143


def test_long_rollouts_are_timed_from_one_change_to_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now_s, finished = [0.0], list[bool]()
    monkeypatch.setattr(autotune.time, "monotonic", lambda: now_s[0])
    status_board = SimpleNamespace(agent_steps=lambda: int(now_s[0] / 0.8) * 800)
    supervisor = SimpleNamespace(
        children=SimpleNamespace(learners=[SimpleNamespace(has_worked=True)]),
        run_layout=SimpleNamespace(status_board=status_board),
        finish=lambda: finished.append(True),
    )
    stopwatch = ThroughputProbe(warm_up_s=2.0, measure_s=4.0)
    while not finished and now_s[0] < 60.0:
        now_s[0] += 0.05
        stopwatch.tick(cast(Any, supervisor))
    assert stopwatch.rate == pytest.approx(1000.0, rel=0.01)
    assert 15.0 <= now_s[0] < 20.0


def test_a_cache_that_cannot_be_written_is_only_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    _, told = measuring(monkeypatch, float)
    cache = RateCache(tmp_path / "file" / "learners.json")
    assert with_quickest(config(), told.append, cache).resources.learners == 4
    assert "will be measured again next time" in capsys.readouterr().err


# What is remembered


def busy(monkeypatch: pytest.MonkeyPatch, shares: dict[int, float]) -> tuple[list[int], list[str]]:
    """Have measurements answered, each with the share of the processors that others took."""
    asked: list[int] = []

    def rate_of(
        config: RunConfig, learners: int, stopwatch: ThroughputProbe, signals: Signals
    ) -> float:
        asked.append(learners)
        stopwatch.others = shares[learners]
        return 100.0 * learners

    monkeypatch.setattr(autotune, "rate_of", rate_of)
    return asked, []


@pytest.mark.parametrize(
    ("shares", "kept"),
    [
        ({1: 0.0, 2: 0.0, 4: 0.0}, True),
        ({1: 0.1, 2: 0.05, 4: 0.1}, True),
        ({1: 0.0, 2: 0.0, 4: 0.34}, False),
        ({1: 0.11, 2: 0.0, 4: 0.0}, False),
    ],
)
def test_what_a_busy_machine_gave_is_used_and_not_remembered(
    cache: RateCache, monkeypatch: pytest.MonkeyPatch, shares: dict[int, float], *, kept: bool
) -> None:
    asked, told = busy(monkeypatch, shares)
    for _ in range(2):
        assert with_quickest(config(), told.append, cache).resources.learners == 4
    assert asked == [1, 2, 4] * (1 if kept else 2)
    said = [line for line in told if "other programs took up to" in line]
    assert len(said) == (0 if kept else 2)
    if said:
        assert f"took up to {max(shares.values()):.0%} of the processors" in said[0]


@pytest.mark.parametrize(
    ("remembered", "learners", "asked"),
    [
        ({1_000_000: 5.0}, 4, [1, 2, 4]),
        ({3: 9.0, 5: 7.0}, 4, [1, 2, 4]),
        ({1_000_000: 5.0, 2: 1.0}, 2, []),
        ({1: 3.0, 2: 1.0, 4: 2.0}, 1, []),
    ],
)
def test_only_what_would_be_tried_is_taken_from_the_cache(
    cache: RateCache,
    monkeypatch: pytest.MonkeyPatch,
    remembered: dict[int, float],
    learners: int,
    asked: list[int],
) -> None:
    tried, told = measuring(monkeypatch, float)
    cache.save(workload(config(), MACHINE), remembered)
    assert with_quickest(config(), told.append, cache).resources.learners == learners
    assert tried == asked
    assert "1000000" not in told[-1]


def usages(*readings: tuple[int, int, int] | None) -> Callable[[], Usage | None]:
    found = iter(readings)
    return lambda: Usage(*reading) if (reading := next(found)) else None


@pytest.mark.parametrize(
    ("first", "last", "share"),
    [
        ((1000, 500, 300), (1800, 1300, 1100), 0.0),  # all that was busy is our own
        ((1000, 500, 300), (1800, 1300, 1020), 0.1),
        ((1000, 500, 300), (1800, 1300, 300), 1.0),
        ((1000, 500, 300), (1800, 600, 1100), 0.0),  # counted in ticks: it may come out below
        ((1000, 500, 300), (1000, 500, 300), 0.0),
        (None, (1800, 1300, 1020), 0.0),
        ((1000, 500, 300), None, 0.0),
    ],
)
def test_what_others_take_is_read_while_the_rate_is(
    monkeypatch: pytest.MonkeyPatch,
    first: tuple[int, int, int] | None,
    last: tuple[int, int, int] | None,
    share: float,
) -> None:
    now_s = [0.0]
    monkeypatch.setattr(autotune.time, "monotonic", lambda: now_s[0])
    supervisor = SimpleNamespace(
        children=SimpleNamespace(learners=[SimpleNamespace(has_worked=True)]),
        run_layout=SimpleNamespace(
            status_board=SimpleNamespace(agent_steps=lambda: int(now_s[0] * 100))
        ),
        finish=lambda: None,
    )
    stopwatch = ThroughputProbe(1.0, 2.0, usages(first, last))
    while not stopwatch.rate:
        now_s[0] += 0.05
        stopwatch.tick(cast(Any, supervisor))
    assert stopwatch.others == pytest.approx(share)


STAT = """cpu  9999 0 0 0 0 0 0 0 0 0
cpu0 100 1 10 500 50 2 3 4 100 0
cpu1 200 0 20 300 0 0 0 0 0 0
cpu2 9999 0 0 0 0 0 0 0 0 0
intr 5
"""


def test_the_time_of_this_process_and_all_below_is_its_own(tmp_path: Path) -> None:
    (tmp_path / "stat").write_text(STAT)
    times = {  # parent; own time, user and system; that of children that were waited for
        10: (1, 1, 2, 3, 4),
        11: (10, 10, 20, 0, 0),
        12: (11, 100, 0, 0, 0),
        13: (1, 5000, 0, 0, 0),
    }
    for pid, (parent, *ticks) in times.items():
        (tmp_path / str(pid)).mkdir()
        rest = " ".join(["S", str(parent), *["7"] * 9, *map(str, ticks), "7"])
        (tmp_path / str(pid) / "stat").write_text(f"{pid} (a) b (c) {rest}\n")
    (tmp_path / "14").mkdir()  # it has ended
    total, busy = 670 + 520, 120 + 220
    assert read_usage([0, 1], 10, tmp_path) == Usage(total, busy, 10 + 30 + 100)
    assert read_usage([7], 10, tmp_path) is None
    assert read_usage([0], 10, tmp_path / "none") is None


@pytest.mark.real
def test_a_busy_process_below_is_seen_in_the_real_figures() -> None:
    before = read_usage()
    assert before is not None
    spent = "import time\nwhile time.process_time() < 0.2: pass"
    subprocess.run([sys.executable, "-S", "-c", spent], check=True)
    after = read_usage()
    assert after is not None
    assert after.own - before.own >= 15
    assert 0.0 <= others_share(before, after) <= 1.0


# Two starts at once


def test_two_starts_do_not_measure_each_other(
    cache: RateCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside, waits = threading.Event(), threading.Event()
    told: list[str] = []
    measured: list[str] = []

    def measure(*arguments: Any) -> autotune.Measured:
        measured.append(threading.current_thread().name)
        inside.set()
        assert waits.wait(engine.DEADLINE_S)
        return autotune.Measured({1: 1.0, 2: 5.0}, 0.0)

    def on_progress(line: str) -> None:
        told.append(line)
        if "waiting for another start that measures" in line:
            waits.set()

    monkeypatch.setattr(autotune, "measured", measure)
    first = threading.Thread(target=with_quickest, args=(config(), on_progress, cache))
    first.start()
    assert inside.wait(engine.DEADLINE_S)
    second = with_quickest(config(), on_progress, RateCache(cache.path))
    first.join(engine.DEADLINE_S)
    assert second.resources.learners == 2
    assert len(measured) == 1
    assert "as measured on" in told[-1] or "as measured on" in told[-2]


def test_who_measures_is_not_waited_for_for_ever(
    cache: RateCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, told = measuring(monkeypatch, float)
    monkeypatch.setattr(autotune, "LOCK_TIMEOUT_S", 0.0)
    with RateCache(cache.path).measuring(workload(config(), MACHINE)["machine"], 0.0, lambda: None):
        assert with_quickest(config(), told.append, cache).resources.learners == 4
    assert asked == [1, 2, 4]


def test_entries_of_two_who_write_at_once_are_both_kept(
    cache: RateCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = RateCache._read
    other = RateCache(cache.path)
    second = threading.Thread(target=other.save, args=({"b": 2}, {2: 2.0}))

    def slow(self: RateCache) -> dict[str, Any]:
        found = read(self)
        if self is cache:
            second.start()
            second.join(0.3)  # what was read is old now, unless the other waits
        return found

    monkeypatch.setattr(RateCache, "_read", slow)
    cache.save({"a": 1}, {1: 1.0})
    second.join(engine.DEADLINE_S)
    monkeypatch.undo()
    assert cache.find({"a": 1}) is not None
    assert cache.find({"b": 2}) is not None


def test_rates_come_back_under_their_key(cache: RateCache) -> None:
    assert cache.find({"a": 1}) is None
    cache.save({"a": 1, "b": [2]}, {1: 5.0, 2: 7.5})
    cache.save({"a": 2}, {4: 1.0})
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
    cache.path.write_bytes(content.replace(b"KEY", rate_cache._digest({"a": 1}).encode()))
    assert cache.find({"a": 1}) is None
    cache.save({"a": 1}, {2: 3.0})
    assert cache.find({"a": 1}) is not None


def test_the_oldest_go_first(cache: RateCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_cache, "MAX_ENTRIES", 2)
    for number in (0, 1, 0, 2):
        cache.save({"number": number}, {1: 1.0})
    assert [cache.find({"number": n}) is not None for n in range(3)] == [True, False, True]


def test_the_cache_lies_where_the_user_keeps_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_folder() == Path("/home/someone/.cache/galamp")
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert cache_folder() == Path("/caches/galamp")


# Real runs


TRIAL = """
import gc, os
from galamp.training.autotune import ThroughputProbe, rate_of
from galamp.core.config import from_dict
from galamp.supervision.signals import Signals

def held():
    mapped = open("/proc/self/maps").read().count("memfd:")
    return mapped, len(os.listdir("/proc/self/fd"))

config = from_dict({"environment": {"env_id": "CartPole-v1", "num_envs": 2}})
with Signals(detach=True) as signals:
    found = []
    for learners in (2, 2):
        assert rate_of(config, learners, ThroughputProbe(0.1, 0.2), signals) > 0
        found.append(held())
print(found[0] == found[1], found)
"""


@pytest.mark.slow
def test_short_runs_are_timed_and_leave_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", TRIAL],
        cwd=engine.ROOT,
        env=os.environ | {"TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=2 * engine.DEADLINE_S,
    )
    assert done.stdout.startswith("True "), done.stdout + done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("words", "number"), [(["--learners", "auto"], 7), ([], 0)])
def test_only_the_word_auto_has_something_measured(
    words: list[str], number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def seven(
        config: RunConfig, on_progress: Callable[[str], object], *, new: bool, kept: StoredChoices
    ) -> RunConfig:
        assert new
        assert kept == StoredChoices()
        return replace(config, resources=replace(config.resources, learners=7))

    monkeypatch.setattr(autotune, "with_quickest", seven)
    args = build_parser().parse_args(["run", *words])
    assert calibrated(args, config_from(args)).resources.learners == number


@pytest.mark.slow
def test_auto_measures_and_then_goes_by_what_is_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    words = [*map(str, QUICK), "--total-steps", "2000", "--learners", "auto"]
    first = engine.run(*words, "--run-dir", tmp_path / "first")
    assert first.returncode == 0, first.stderr
    assert "--learners auto: trying 1, " in first.stderr
    cache = RateCache()
    asked = config_from(build_parser().parse_args(["run", *words]))
    key = workload(asked, inspect_machine(asked.resources.device))
    busy = "other programs took up to" in first.stderr
    assert (cache.find(key) is None) == busy
    cache.save(key, {1: 5.0, 2: 1.0})
    second = engine.run(*words, "--run-dir", tmp_path / "second")
    assert second.returncode == 0, second.stderr
    assert "auto: trying" not in second.stderr
    assert "--learners auto: 1 (agent steps/s by learners, as measured on" in second.stderr
    assert len(engine.summary(tmp_path / "second")["updates_per_learner"]) == 1


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
    assert not (tmp_path / "galamp" / "learners.json").exists()
