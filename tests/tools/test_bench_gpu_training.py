"""What `bin/bench gpu` concludes of runs: of one learner, a killed one, faults, Pong, the rates.

Each is tried with findings that are right, and with each kind of wrong one.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from galamp.core.errors import RunFailed
from galamp.memory.arrays import SharedArrays
from galamp.memory.status import StatusBoard
from galamp.telemetry.notices import Notices
from galamp.tools.bench.gpu import chaos, learners, pong, rates, training
from galamp.tools.bench.gpu.steps import LOG_LINES, Deadline, Job, Late, Report
from galamp.tools.bench.limit import Limit
from galamp.tools.bench.nvml import COUNTED, GpuUse
from galamp.tools.bench.runs import Measurement, System, Workload
from tests.support.told import Told

pytestmark = [pytest.mark.real, pytest.mark.counted]  # for they start processes

JOB = Job(
    Workload("ALE/Breakout-v5", "breakout", 1, 1, "gala"),
    device="cuda:0",
    learners=(1, 2, 4),
    total_envs=(64, 256),
    precisions=("float32",),
    seconds=6.0,
    warm_up_s=2.0,
)


# Runs


def rows(*steps: int, **more: Any) -> list[training.Row]:
    """Rows a second apart."""
    losses = {f"losses/{name}": 1.0 for name in training.LOSSES}
    return [
        {"wall_s": float(second), "global_step": step} | losses | more
        for second, step in enumerate(steps)
    ]


def test_rates_begin_with_the_first_agent_steps() -> None:
    assert training.rate_of(rows(0, 0, 100, 400, 1100)) == 500.0
    assert training.span_s(rows(0, 0, 100, 400, 1100)) == 2.0
    assert training.rate_of(rows(0, 0)) == training.rate_of([]) == 0.0
    assert training.rate_of(rows(0, 100)) == 0.0


def test_a_run_learns_once_all_learners_do() -> None:
    assert not training.learns([])
    assert not training.learns(rows(0, 5))
    assert not training.learns(rows(5, **{"learner0/updates": 3, "learner1/updates": 0}))
    assert training.learns(rows(5, **{"learner0/updates": 3, "learner1/updates": 1}))


SUMMARY: training.Row = {
    "status": "stopped",
    "restarts": 0,
    "given_up": [],
    "agent_steps": 100,
    "overflowed_updates": 0,
}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({}, ""),
        ({"status": "failed"}, "status is failed, expected stopped"),
        ({"restarts": 2}, "restarts is 2, expected 0"),
        ({"given_up": ["learner 0"]}, "given_up is ['learner 0']"),
        ({"agent_steps": 0}, "no agent steps"),
        ({"overflowed_updates": 3}, "3 updates overflowed"),
    ],
)
def test_a_run_that_did_not_end_well_is_told(change: dict[str, Any], says: str) -> None:
    told = list(training.wrong_end(SUMMARY | change, status="stopped", restarts=0))
    assert len(told) == bool(says)
    assert says in "".join(told)


def test_losses_that_are_no_numbers_are_told() -> None:
    assert list(training.wrong_losses(rows(1, 2))) == []
    assert list(training.wrong_losses([])) == ["it wrote no metrics"]
    broken = rows(1, **{"losses/value_loss": None})
    assert list(training.wrong_losses(broken)) == ["value_loss is not finite at the end"]


def test_remarks_on_memory_that_is_not_locked_are_found(tmp_path: Path) -> None:
    run = training.Training(["run"], tmp_path / "run", Deadline(1.0))
    assert run.remarks() == []
    run.folder.mkdir()
    told = "page-locked memory is refused (cudaErrorNotSupported)"
    lines = [json.dumps({"text": "all learners run"}), json.dumps({"text": told}), '{"text": "page']
    (run.folder / training.EVENTS).write_text("\n".join(lines))
    assert run.remarks() == [told]


def test_a_refusal_of_graphs_is_found_with_the_end_of_the_log(tmp_path: Path) -> None:
    run = training.Training(["run"], tmp_path / "run", Deadline(1.0))
    assert run.graph_refusals() == run.log_end(0) == []
    (run.folder / "logs").mkdir(parents=True)
    told = Told()
    arrays = SharedArrays.create(StatusBoard.specs(1, 1))
    row = StatusBoard(arrays, 1).learner(0)
    row["graph_refusal"] = row.metrics["page_lock_refusal"] = 1
    Notices(told.log_event).observe([row])
    events = "".join(json.dumps({"text": text}) + "\n" for text in ["all learners run", *told])
    (run.folder / training.EVENTS).write_text(events)
    (run.folder / "logs" / "learner-0.log").write_text("\n".join(map(str, range(1000))))
    (refusal,) = run.graph_refusals()
    assert "cannot be recorded as CUDA graphs" in refusal
    assert run.log_end(0) == [str(number) for number in range(1000 - LOG_LINES, 1000)]


def test_a_killed_learner_is_back_when_it_learns() -> None:
    def row(incarnation: int, updates: int) -> training.Row:
        return {"learner1/incarnation": incarnation, "learner1/updates": updates}

    before = row(0, 10)
    assert not learners.is_back(before, [before, row(0, 12)])
    assert not learners.is_back(before, [before, row(1, 12)])
    assert not learners.is_back(before, [before, row(1, 12), row(1, 12)])
    assert learners.is_back(before, [before, row(0, 11), row(1, 12), row(1, 13)])


def test_a_learner_that_stands_still_beside_the_killed_one_is_told() -> None:
    before = {f"learner{rank}/updates": 5 for rank in range(4)}
    after = before | {"learner0/updates": 9, "learner1/updates": 6, "learner3/updates": 8}
    assert learners.updates_of_others(before, after) == [4, 0, 3]
    assert len(list(learners.wrong_others([4, 0, 3]))) == 1
    assert list(learners.wrong_others([4, 1, 3])) == []


def test_the_one_process_to_kill() -> None:
    assert learners.victim_of([7]) == 7
    for pids in ([], [7, 8]):
        with pytest.raises(RunFailed, match=f"found {len(pids)}"):
            learners.victim_of(pids)


def test_starts_that_do_not_go_on_are_told() -> None:
    each = learners.STEPS_PER_START
    good = [
        SUMMARY | {"status": "finished", "start": number, "agent_steps": number * each + 5}
        for number in (1, 2, 3)
    ]
    assert list(learners.wrong_starts(good)) == []
    anew = [*good[:1], good[1] | {"start": 1}, good[2] | {"agent_steps": each}]
    told = list(learners.wrong_starts(anew))
    assert told[0] == "start 2 calls itself start 1"
    assert told[1].startswith("start 3 ended at 20,000 agent steps, expected 60,000")
    assert len(told) == 2


# Chaos


FOUND: dict[str, Any] = {
    "held": True,
    "complete": True,
    "broken": None,
    "faults": [{}, {}, {}],
    "kinds": [{"kind": "all", "works_s": {"count": 3, "p50": 4.0, "max": 6.5}}],
    "throughput": {"share": 0.9, "within_s": 10.0, "kept": 2, "faults": 3},
    "summary": {"restarts": 2, "agent_steps": 1234},
}


def test_what_held_under_faults_is_shown() -> None:
    assert list(chaos.problems(FOUND, 0)) == []
    assert list(chaos.lines(FOUND)) == [
        "3 faults, 2 restarts, 1,234 agent steps",
        "works again after 4.0 s (median), 6.5 s (greatest)",
        "throughput back at 90% within 10 s after 2 of 3 faults",
    ]


@pytest.mark.parametrize(
    ("change", "code", "says"),
    [
        ({"broken": {"name": "turns", "expected": "on", "found": "off"}}, 1, "broken: turns"),
        ({"complete": False}, 0, "ended early"),
        ({}, 70, "ended with code 70"),
        ({"faults": []}, 0, "no fault"),
    ],
)
def test_what_did_not_hold_is_told(change: dict[str, Any], code: int, says: str) -> None:
    (told,) = chaos.problems(FOUND | change, code)
    assert says in told


def test_a_run_that_failed_before_any_fault_says_why() -> None:
    assert chaos.record_of(json.dumps(FOUND)) == FOUND
    for text in ("galamp: learner 1 raised RuntimeError", '"held"', "{}"):
        with pytest.raises(RunFailed, match=text.split(":")[0]):
            chaos.record_of(text)


# Pong


def noisy(mean: float, count: int = 40) -> list[training.Row]:
    """Rows whose losses vary by a tenth around a mean."""
    found = rows(*range(1000, 1000 * (count + 1), 1000))
    for number, row in enumerate(found):
        row |= {f"losses/{name}": mean * (1 + 0.1 * (-1) ** number) for name in training.LOSSES}
    return found


def test_losses_are_compared_over_the_common_agent_steps() -> None:
    found = noisy(0.5)
    for row in found[30:]:
        row |= {f"losses/{name}": 1e6 for name in training.LOSSES}
    (estimate, *_) = pong.estimates(found, until=30_000).values()
    assert estimate is not None
    assert estimate.mean == pytest.approx(0.5, rel=0.01)
    assert estimate.error == pytest.approx(0.05 / math.sqrt(28), rel=0.05)
    assert set(pong.estimates(found[:4], until=30_000).values()) == {None}


def test_losses_that_are_alike_pass() -> None:
    on_gpu, on_cpu = (pong.estimates(noisy(mean), 40_000) for mean in (0.5, 0.51))
    assert list(pong.problems(on_gpu, on_cpu)) == []


@pytest.mark.parametrize("mean", [0.2, 1.0, -0.5])
def test_losses_that_are_not_alike_are_told(mean: float) -> None:
    on_gpu, on_cpu = (pong.estimates(noisy(each), 40_000) for each in (mean, 0.5))
    told = list(pong.problems(on_gpu, on_cpu))
    assert [line.split(":")[0] for line in told] == list(training.LOSSES)


def test_too_few_rows_are_no_agreement() -> None:
    few, many = pong.estimates(noisy(0.5, 3), 40_000), pong.estimates(noisy(0.5), 40_000)
    assert all("too few" in line for line in pong.problems(few, many))
    assert len(list(pong.problems(few, many))) == len(training.LOSSES)


# Rates


def test_learners_are_compared_at_the_same_number_of_environments() -> None:
    job = replace(JOB, precisions=("float32", "bf16"))
    *systems, limit = rates.systems_of(job, 64, {"cuda:1": "a", "cuda:3": "b"})
    assert [system.name for system in systems] == [
        *("1 learner", "2 learners", "4 learners"),
        *("1 learner, bf16", "2 learners, bf16", "4 learners, bf16"),
    ]
    for system in systems:
        assert isinstance(system, System)
        words = list(system.command)
        values = {name: words[words.index(name) + 1] for name in ("--learners", "--num-envs")}
        assert int(values["--learners"]) * int(values["--num-envs"]) == 64
        assert words[words.index("--device") + 1] == "cuda:1,cuda:3"
        assert ("bf16" in words) == ("bf16" in system.name)
    assert isinstance(limit, Limit)
    assert (limit.device, limit.workload.learners, limit.workload.num_envs) == ("cuda:0", 1, 64)


def test_only_the_gpus_that_learners_are_dealt_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[tuple[str, ...]] = []
    monkeypatch.setattr(rates, "Gauge", lambda known: read.append(tuple(known)))
    list(rates.systems_of(JOB, 64, {"cuda:0": "a", "cuda:2": "b", "cuda:3": "c"}))
    assert read == [("a",), ("a", "b"), ("a", "b", "c")]


def made(name: str, speed: float, gpu: GpuUse | None = None) -> Measurement:
    return Measurement(name, 1, speed, 4 * speed, 6.0, 500.0, 6, 0.9, 0.0, gpu)


def test_a_rate_in_words() -> None:
    used = GpuUse(0.254, 301.0, 13.29, COUNTED)
    assert rates.in_words(made("x", 1000.0, used)) == (
        "1,000 agent steps/s, 4,000 frames/s, CPU 90%, GPU 25%, 301 W, 13.3 frames/J"
    )
    assert rates.in_words(made("x", 1.0, GpuUse(None, None, None))).endswith(
        "GPU -, - W, - frames/J"
    )
    assert "GPU" not in rates.in_words(made("x", 1.0))


class FakeSystem:
    """Measures what it is told to, or fails."""

    def __init__(self, name: str, speed: float) -> None:
        self.name, self.speed = name, speed

    def measure(
        self, number: int, *, seconds: float, warm_up_s: float, timeout_s: float | None = None
    ) -> Measurement:
        assert timeout_s is not None
        if not self.speed:
            raise RunFailed(f"{self.name}: out of GPU memory")
        return made(self.name, self.speed)


def test_a_rate_that_fails_does_not_stop_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    systems = [FakeSystem(name, speed) for name, speed in (("one", 100.0), ("two", 0.0))]
    systems.append(FakeSystem("four", 200.0))
    monkeypatch.setattr(rates, "uuids", dict)
    monkeypatch.setattr(rates, "systems_of", lambda job, total_envs, known: systems)
    shown: list[str] = []
    report = Report(shown.append)
    rates.step(replace(JOB, total_envs=(64,)), report, Deadline(1e9))
    assert report.problems == ["64 environments: two: out of GPU memory"]
    measured = report.values["measurements"]
    assert [(one["total_envs"], one["system"]) for one in measured] == [(64, "one"), (64, "four")]
    assert any("four" in line and "0.50 (0.50 - 0.50)" in line for line in shown)


def test_rates_that_the_time_does_not_reach_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 0.0

    class SlowSystem(FakeSystem):
        def measure(self, number: int, **times: Any) -> Measurement:
            nonlocal now_s
            now_s += 20.0
            return super().measure(number, **times)

    systems = [SlowSystem("one", 100.0), SlowSystem("two", 100.0)]
    monkeypatch.setattr(rates, "uuids", dict)
    monkeypatch.setattr(rates, "systems_of", lambda job, total_envs, known: systems)
    report = Report(lambda line: None)
    with pytest.raises(Late, match="not measured: one with 256, two with 256"):
        rates.step(JOB, report, Deadline(58.0, lambda: now_s))
    assert len(report.values["measurements"]) == 2
