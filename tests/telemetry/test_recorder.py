"""From the metrics board to snapshots, rows and files: rows, rings of episodes, the recorder."""

from __future__ import annotations

import csv
import dataclasses
import itertools
import json
import math
import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from galamp.algorithms.a2c_config import A2CConfig
from galamp.core.action_spec import DiscreteActions
from galamp.core.config import from_dict
from galamp.core.machine.machine import plain_machine
from galamp.environments.base import EnvironmentSpec
from galamp.gossip.consensus.distances import DistanceMeter
from galamp.gossip.topologies import make_topology
from galamp.gossip.transport.parameter_slots import ParameterSlots
from galamp.gossip.transport.publication import Publication
from galamp.gossip.transport.publication_ring import PublicationRing
from galamp.memory import metrics, status
from galamp.memory.arrays import SharedArrays
from galamp.memory.metrics import EPISODE_CAPACITY, METRICS, EpisodeRing
from galamp.memory.status import STATUS, Phase, StatusBoard
from galamp.storage.event_log import EventLog
from galamp.storage.gossip_log import GOSSIP, GossipLog, Start
from galamp.storage.learning_curve import MAX_CURVE_POINTS, Curve, thinned
from galamp.storage.run_folder import RunFolder
from galamp.storage.run_logs import read_metrics
from galamp.supervision.layout import ModelSketch, RunLayout
from galamp.supervision.plan import make_plan
from galamp.telemetry import learner_reading, recorder
from galamp.telemetry.bottleneck import LEAST_UPDATES
from galamp.telemetry.consensus import ConsensusMonitor, History
from galamp.telemetry.learner_reading import RATE_WINDOW_S, LearnerReading
from galamp.telemetry.metrics_row import metrics_row
from galamp.telemetry.recorder import Recorder, mean_of
from galamp.telemetry.sinks import open_sinks
from galamp.telemetry.sinks.base import SinkContext
from galamp.telemetry.snapshot import (
    EPISODES_IN_MEAN,
    LEARNER_PHASES,
    Event,
    SystemReading,
    WorkerState,
)
from tests.support.snapshots import EMPTY, busy

WALL_S = 1_700_000_000.0
COUNTERS = [*STATUS, *METRICS]
LEARNERS, WORKERS = 2, 2


class Clock:
    """A `time` module that stands still until it is told otherwise."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def monotonic(self) -> float:
        return self.now_s

    def monotonic_ns(self) -> int:
        return round(self.now_s * 1e9)

    def time(self) -> float:
        return WALL_S + self.now_s


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(status, "time", clock)
    monkeypatch.setattr(metrics, "time", clock)
    monkeypatch.setattr(recorder, "time", clock)
    monkeypatch.setattr(learner_reading, "time", clock)
    return clock


@pytest.fixture
def arrays() -> SharedArrays:
    return SharedArrays.create(StatusBoard.specs(LEARNERS, 3, A2CConfig.gauges))


# Rows


def test_a_row_charges_each_phase_with_the_time_spent_in_it(
    arrays: SharedArrays, clock: Clock
) -> None:
    row = StatusBoard(arrays, LEARNERS).learner(1)
    row.reset()
    spent = dict.fromkeys(Phase, 0.0)
    for step, phase in enumerate([*Phase, Phase.UPDATE, Phase.UPDATE, Phase.COLLECT], start=1):
        before = row.phase
        clock.now_s += 0.25 * step
        spent[before] += 0.25 * step
        row.enter(phase)
        assert row.phase is phase
    assert row.phase_s().tolist() == [spent[phase] for phase in Phase]
    assert row.phase_s().sum() == clock.now_s - 1000.0


def test_rows_are_apart_and_seen_by_every_reader(arrays: SharedArrays) -> None:
    status_board, other = StatusBoard(arrays, LEARNERS), StatusBoard(arrays, LEARNERS)
    rows = [
        status_board.learner(0),
        status_board.learner(1),
        status_board.simulator(0),
        status_board.simulator(2),
    ]
    for number, row in enumerate(rows, start=1):
        for index, name in enumerate(COUNTERS):
            row.set_counter(name, 100 * number + index)
        row.metrics.report({"entropy": float(number)})
        row.enter(Phase(number))
    seen = [other.learner(0), other.learner(1), other.simulator(0), other.simulator(2)]
    for number, row in enumerate(seen, start=1):
        for index, name in enumerate(COUNTERS):
            # Entering a phase is a beat.
            assert row.counter(name) == 100 * number + index + (name == "beat")
        assert row.metrics.gauges() == {"entropy": float(number)}
        assert row.phase is Phase(number)
    assert other.simulator(1)["updates"] == 0


def test_no_word_is_both_status_and_metric(arrays: SharedArrays) -> None:
    """`row["rounds"]`, for which peers wait, is status; what is only shown is not found there."""
    row = StatusBoard(arrays, LEARNERS).learner(0)
    assert not set(STATUS) & set(METRICS)
    for name in METRICS:
        with pytest.raises(KeyError):
            row[name]
    for name in STATUS:
        with pytest.raises(KeyError):
            row.metrics[name]


def test_agent_steps_are_those_of_learners(arrays: SharedArrays) -> None:
    status_board = StatusBoard(arrays, LEARNERS)
    status_board.learner(0)["agent_steps"] = 30
    status_board.learner(1)["agent_steps"] = 12
    status_board.simulator(0)["agent_steps"] = 1000
    assert status_board.agent_steps() == 42
    assert [row["agent_steps"] for row in status_board.learners()] == [30, 12]


def test_a_new_process_keeps_the_running_counts_of_its_row(
    arrays: SharedArrays, clock: Clock
) -> None:
    row = StatusBoard(arrays, LEARNERS).learner(0)
    row["agent_steps"], row["done"], row["pid"] = 80, 1, 1
    row.enter(Phase.UPDATE)
    clock.now_s += 100.0
    again = StatusBoard(arrays, LEARNERS).learner(0)
    again.reset()
    assert (again["agent_steps"], again["done"], again["pid"]) == (80, 0, os.getpid())
    assert again.phase is Phase.BOOT
    clock.now_s += 2.0
    again.enter(Phase.COLLECT)
    assert again.phase_s()[Phase.BOOT] == 2.0, "time between two incarnations is no phase's"


def test_a_beat_shows_progress(arrays: SharedArrays) -> None:
    row = StatusBoard(arrays, LEARNERS).learner(0)
    row.heartbeat()
    row.heartbeat()
    assert row["beat"] == 2


def test_gauges_that_were_never_reported_are_missing(arrays: SharedArrays) -> None:
    row = StatusBoard(arrays, LEARNERS).learner(0)
    assert row.metrics.gauges() == {}
    row.metrics.report({"entropy": 0.0, "value_loss": -2.5})
    row.metrics.report({"value_loss": 3.5, "grad_norm": math.inf})
    assert row.metrics.gauges() == {"entropy": 0.0, "value_loss": 3.5, "grad_norm": math.inf}
    with pytest.raises(KeyError):
        row.metrics.report({"entropie": 0.0})
    with pytest.raises(KeyError):
        row["agent_stepz"] += 1


# Episodes


def filled(ring: EpisodeRing, first: int, number: int) -> None:
    for i in range(first, first + number):
        ring.append(float(i), 10 * i, i % 7)


def test_a_ring_gives_each_episode_once_and_in_order(arrays: SharedArrays, clock: Clock) -> None:
    writer, reader = EpisodeRing(arrays, 1), EpisodeRing(arrays, 1)
    entries, tail = reader.drain(0)
    assert entries.shape == (0, 4)
    filled(writer, 0, 3)
    entries, tail = reader.drain(tail)
    ended = WALL_S + clock.now_s
    assert entries.tolist() == [[0, 0, 0, ended], [1, 10, 1, ended], [2, 20, 2, ended]]
    assert reader.drain(tail)[0].shape == (0, 4)
    filled(writer, 3, 1)
    assert reader.drain(tail)[0][:, 0].tolist() == [3.0]
    assert EpisodeRing(arrays, 0).drain(0)[0].shape == (0, 4), "rings are apart"


def test_a_ring_goes_on_past_its_end(arrays: SharedArrays) -> None:
    ring = EpisodeRing(arrays, 0)
    tail, seen, written = 0, [], 0
    for number in (EPISODE_CAPACITY - 5, 3, 10, EPISODE_CAPACITY // 2, 1):
        filled(ring, written, number)
        written += number
        entries, tail = ring.drain(tail)
        seen += entries[:, 0].tolist()
    assert seen == list(range(written))
    assert written > EPISODE_CAPACITY


def test_a_ring_that_is_overrun_keeps_the_newest_whole_ones(arrays: SharedArrays) -> None:
    ring = EpisodeRing(arrays, 0)
    written = EPISODE_CAPACITY + 100
    filled(ring, 0, written)
    entries, tail = ring.drain(0)
    # One less than there is room for: the oldest may be overwritten at this moment.
    assert entries[:, 0].tolist() == list(range(written - EPISODE_CAPACITY + 1, written))
    assert ring.drain(tail)[0].shape == (0, 4)


def test_what_is_overwritten_while_it_is_drained_is_left_out(
    arrays: SharedArrays, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring = EpisodeRing(arrays, 0)
    filled(ring, 0, EPISODE_CAPACITY)
    late = iter([10, 0])

    def meanwhile() -> None:
        """The simulator appends ten episodes after the head was read, before the copy."""
        number = next(late, 0)
        filled(ring, EPISODE_CAPACITY, number)

    monkeypatch.setattr("galamp.memory.metrics.memory_fence", meanwhile)
    entries, tail = ring.drain(0)
    assert entries[:, 0].tolist() == list(range(11, EPISODE_CAPACITY))
    assert ring.drain(tail)[0][:, 0].tolist() == list(
        range(EPISODE_CAPACITY, EPISODE_CAPACITY + 10)
    )


# Rates


def test_rates_and_shares_are_those_of_the_window(arrays: SharedArrays, clock: Clock) -> None:
    row = StatusBoard(arrays, LEARNERS).learner(0)
    row.reset()
    row.enter(Phase.COLLECT)
    reading = LearnerReading(row)
    reading.sample(clock.now_s)
    assert reading.rate() == 0.0
    assert reading.phase_shares() == {}
    for second in range(60):
        clock.now_s += 1.0
        # Slow at first; only the last `RATE_WINDOW_S` count.
        row["agent_steps"] += 10 if second < 40 else 500
        row.enter(Phase.UPDATE if second % 4 == 3 else Phase.COLLECT)
        reading.sample(clock.now_s)
    assert RATE_WINDOW_S < 20
    assert reading.rate() == pytest.approx(500)
    shares = reading.phase_shares()
    assert tuple(shares) == LEARNER_PHASES
    assert sum(shares.values()) == pytest.approx(1.0)
    assert shares["update"] == pytest.approx(0.25, abs=0.06)
    assert shares["gossip"] == 0.0


def test_a_gap_longer_than_the_window_still_has_a_rate(arrays: SharedArrays, clock: Clock) -> None:
    row = StatusBoard(arrays, LEARNERS).learner(0)
    reading = LearnerReading(row)
    reading.sample(clock.now_s)
    row["agent_steps"] = 3000
    clock.now_s += 100.0
    reading.sample(clock.now_s)
    assert reading.rate() == 30.0


# Curves and means


@given(st.integers(0, 2000) | st.integers(0, 20_000))
def test_a_thinned_curve_is_short_even_and_ends_where_the_curve_ends(number: int) -> None:
    curve = [(10 * i, float(i)) for i in range(number)]
    points = thinned(curve)
    assert len(points) <= MAX_CURVE_POINTS
    assert set(points) <= set(curve)
    if curve:
        assert points[-1] == curve[-1]
        steps = {later[0] - earlier[0] for earlier, later in itertools.pairwise(points)}
        assert len(steps) <= 1
        assert points[0][0] < 10 * (number // len(points) + 1)
    if number <= MAX_CURVE_POINTS:
        assert points == tuple(curve)
    else:
        assert len(points) >= MAX_CURVE_POINTS // 2


def test_gauges_are_averaged_over_those_that_have_them() -> None:
    assert mean_of([]) == {}
    assert mean_of([{}, {}]) == {}
    assert mean_of([{"a": 1.0, "b": 5.0}, {"a": 2.0}, {"c": -1.0}]) == {"a": 1.5, "b": 5.0, "c": -1}


# Names of metrics


def test_the_names_that_users_know() -> None:
    row = metrics_row(busy(3), former_s=100.0)
    shared = {name for name in row if not name.startswith("learner")}
    assert shared == {
        "global_step",
        "emulator_frames",
        "wall_s",
        *(f"charts/{name}" for name in ("episodic_return", "episodic_length", "episodes", "SPS")),
        "charts/restarts",
        "charts/learning_rate",
        *(f"gossip/{name}" for name in ("consensus_distance", "pairwise_distance", "staleness")),
        *(f"gossip/{name}" for name in ("certificate", "certificate_ratio", "radius")),
        "gossip/gradient_correlation",
        *(f"gossip/{name}" for name in ("sent", "received", "overwritten")),
        *(f"system/{name}" for name in ("cpu", "cpu_others", "memory", "gpu", "gpu_memory")),
        *(f"system/{name}" for name in ("watts", "joules_per_frame")),
        *(f"losses/{name}" for name in A2CConfig.gauges),
        *(f"perf/{name}_share" for name in ("collect", "infer", "update", "gossip", "other")),
    }  # fmt: skip
    names = ("agent_steps", "updates", "SPS", "episodic_return", "staleness", "distance", "envs")
    names += ("incarnation",)
    assert set(row) - shared == {f"learner{rank}/{name}" for rank in range(3) for name in names}


def test_a_row_holds_what_the_snapshot_holds() -> None:
    snapshot = busy(3)
    row = metrics_row(snapshot, former_s=100.0)
    assert row["global_step"] == 1_240_000
    assert row["emulator_frames"] == 4 * 1_240_000
    assert row["wall_s"] == 4100.0
    assert row["charts/episodic_return"] == 34.2
    assert row["charts/episodic_length"] == 812.4
    assert row["charts/SPS"] == 2310.0
    assert row["gossip/consensus_distance"] == 0.42
    assert row["gossip/pairwise_distance"] == 0.81
    assert row["gossip/certificate"] == 2.7
    assert row["gossip/certificate_ratio"] == 0.3
    assert row["gossip/radius"] == 4.5
    assert row["gossip/gradient_correlation"] == 0.07
    assert row["gossip/staleness"] == 2
    assert row["gossip/sent"] == 2000 + 2001 + 2002
    assert row["gossip/received"] == 3000 + 3001 + 3002
    assert row["gossip/overwritten"] == 40 + 41 + 42
    assert row["losses/entropy"] == 1.213
    assert row["perf/collect_share"] == pytest.approx(0.41)
    assert row["learner2/SPS"] == 1113.0
    assert row["learner1/episodic_return"] == 21.5


def test_a_run_without_learners_yet_has_a_row() -> None:
    row = metrics_row(EMPTY, former_s=0.0)
    assert row["gossip/staleness"] == 0
    assert row["charts/episodic_return"] is None


# The recorder

ENVIRONMENT = EnvironmentSpec(
    "ALE/Pong-v5", (4,), "float32", DiscreteActions(2), ("l", "r"), 4, True, "classic"
)


class Run:
    """A recorder over a run layout in which only the test works."""

    def __init__(self, folder: RunFolder) -> None:
        config = from_dict(
            {
                "total_steps": 5000,
                "environment": {"num_envs": 4},
                "resources": {"learners": LEARNERS, "simulator_workers": WORKERS, "device": "cpu"},
            }
        )
        plan = make_plan(config, plain_machine(range(4), 0, 2**20))
        sketch = ModelSketch("mlp", (), {"parameters": 3})
        ring = make_topology("ring", LEARNERS)
        self.run_layout = RunLayout(plan, ring, ENVIRONMENT, sketch, folder.logs, 1)
        self.folder = folder
        log = GossipLog(folder.path / GOSSIP, print)
        history = History(self.run_layout.arrays, ring, log, print, with_radius=False)
        history.start(Start(1, LEARNERS, "ring", False, 0.0, ((0.0, 7.0), (7.0, 0.0))))
        told = SinkContext(
            folder.path, "ALE/Pong-v5", LEARNERS, 1, 0, print, t_start=recorder.time.time()
        )
        sinks = open_sinks("jsonl,monitor", told)
        consensus = ConsensusMonitor(self.run_layout, history)
        self.recorder = Recorder(self.run_layout, folder, sinks, consensus)

    def finish(self, rank: int, worker: int, *scores: float) -> None:
        ring = EpisodeRing(self.run_layout.arrays, rank * WORKERS + worker)
        for score in scores:
            ring.append(score, 50, 0)

    def publish(self, rank: int, *values: float) -> None:
        slots, vector = ParameterSlots(self.run_layout.arrays, rank), torch.tensor(values)
        header = slots.write(
            lambda slot: slots.payload[slot].copy_(vector), incarnation=0, round_=0, version=0
        )
        length = float(vector.norm())
        publication = Publication(rank, header.number, 0, 0, 0, length, 1.0, ())
        PublicationRing(self.run_layout.arrays, rank).append(publication)

    def monitor(self, rank: int) -> list[list[str]]:
        with open(self.folder.monitor_path(rank)) as file:
            return list(csv.reader(file))[2:]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    folder = RunFolder.create(tmp_path, "", "Pong", "test", 1, datetime(2026, 1, 1))
    yield Run(folder)
    folder.close()


def test_a_snapshot_is_the_run_as_it_is(run: Run, clock: Clock) -> None:
    recorder = run.recorder
    recorder.read()
    row = run.run_layout.status_board.learner(1)
    row["agent_steps"], row["updates"], row["rounds"] = 800, 40, 39
    row["staleness"], row.metrics["sent"], row.metrics["received"], row.metrics["dropped"] = (
        3,
        39,
        30,
        2,
    )
    row.metrics.report({"entropy": 1.5, "learning_rate": 1e-3})
    run.run_layout.status_board.learner(0).metrics.report({"entropy": 0.5, "learning_rate": 3e-3})
    run.run_layout.control.set_incarnation(1, 2)
    recorder.learners[1].state = WorkerState.RUNNING
    run.finish(1, 0, 4.0, 8.0)
    clock.now_s += 2.0
    recorder.read()
    seen = recorder.snapshot()
    assert (seen.env_id, seen.protocol) == ("ALE/Pong-v5", "classic")
    assert (seen.agent_steps, seen.total_steps, seen.frames_per_step) == (800, 5000, 4)
    assert seen.learning_rate == pytest.approx(2e-3)
    assert "learning_rate" not in seen.losses
    assert seen.elapsed_s == 2.0
    assert seen.agent_steps_per_s == 400.0
    assert (seen.episodes, seen.mean_return, seen.mean_length) == (2, 6.0, 50.0)
    assert seen.best_mean_return is None, "a best mean needs 100 episodes"
    assert seen.losses == {"entropy": 1.0}
    one = seen.learners[1]
    assert (one.rank, one.state, one.incarnation) == (1, WorkerState.RUNNING, 2)
    assert (one.agent_steps, one.updates, one.rounds) == (800, 40, 39)
    assert (one.staleness, one.sent, one.received, one.overwritten) == (3, 39, 30, 2)
    assert (one.mean_return, one.episodes, one.out_peers) == (6.0, 2, (0,))
    assert (one.agent_steps_per_s, one.device) == (400.0, "cpu")
    assert seen.learners[0].mean_return is None


def test_episodes_of_every_worker_count_for_their_learner(run: Run) -> None:
    for rank in range(LEARNERS):
        for worker in range(WORKERS):
            run.finish(rank, worker, 10.0 * rank + worker)
    run.recorder.read()
    run.recorder.read()
    assert run.recorder.episodes.count == 4
    means = [learner.mean_return for learner in run.recorder.snapshot().learners]
    assert means == [0.5, 10.5]
    assert run.recorder.episodes.mean_return == 5.5


def test_the_best_mean_is_one_over_100_episodes(run: Run) -> None:
    recorder = run.recorder
    run.finish(0, 0, *[9.0] * (EPISODES_IN_MEAN - 1))
    recorder.read()
    assert recorder.episodes.best is None
    run.finish(0, 0, 9.0)
    recorder.read()
    assert recorder.episodes.best == 9.0
    run.finish(0, 0, *[1.0] * EPISODES_IN_MEAN)
    recorder.read()
    assert recorder.episodes.mean_return == 1.0
    assert recorder.episodes.best == 9.0


def test_it_is_known_how_old_the_best_mean_is(run: Run, tmp_path: Path) -> None:
    recorder, row = run.recorder, run.run_layout.status_board.learner(0)
    assert recorder.episodes.full_mean_return is None
    for steps, score, age in ((100, 2.0, 0), (300, 1.0, 200), (400, 5.0, 0), (600, 5.0, 200)):
        row["agent_steps"] = steps
        run.finish(0, 0, *[score] * EPISODES_IN_MEAN)
        recorder.read()
        assert recorder.episodes.full_mean_return == score
        assert recorder.steps_since_best == age
    folder = RunFolder.create(tmp_path, "", "Pong", "again", 1, datetime(2026, 1, 1))
    try:
        again = Run(folder)
        again.run_layout.status_board.learner(0)["agent_steps"] = 600
        again.recorder.resume_from(recorder.progress(), Curve())
        assert again.recorder.steps_since_best == 200
        assert again.recorder.episodes.full_mean_return == 5.0
    finally:
        folder.close()


def test_monitor_files_hold_every_episode_of_their_learner(run: Run, clock: Clock) -> None:
    run.finish(0, 0, -21.0)
    clock.now_s += 5.0
    run.finish(0, 1, 3.5)
    run.finish(1, 0, 7.0)
    run.recorder.read()
    run.recorder.log()
    assert run.monitor(0) == [["-21", "50", "0.0"], ["3.5", "50", "5.0"]]
    assert run.monitor(1) == [["7", "50", "5.0"]]


@pytest.mark.parametrize("unknown", [True, False])
def test_the_last_two_vectors_are_compared_only_to_locate_an_unknown_one(
    run: Run, clock: Clock, unknown: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are twice as many; mostly there is no bound only as an entry is not there yet."""
    calls, recent = list[int](), DistanceMeter.recent
    monkeypatch.setattr(DistanceMeter, "recent", lambda meter: calls.append(1) or recent(meter))
    for rank in range(LEARNERS):
        run.publish(rank, 3.0, 4.0, 0.0)
    run.recorder.log()
    assert not calls
    slots = ParameterSlots(run.run_layout.arrays, 1)
    header = slots.write(lambda slot: None, incarnation=int(unknown), round_=1, version=1)
    if unknown:  # a process that begins with a vector of its own
        entry = Publication(1, header.number, 1, 1, 1, 0.0, 1.0, ())
        PublicationRing(run.run_layout.arrays, 1).append(entry)
    run.recorder.log()
    assert len(calls) == unknown
    assert run.recorder.snapshot().consensus.certificate is None


def test_distances_are_measured_from_whole_vectors_of_all(run: Run) -> None:
    recorder = run.recorder
    recorder.read()
    run.publish(0, 0.0, 0.0, 0.0)
    recorder.log()
    assert recorder.snapshot().consensus.rms is None, "the other has published nothing"
    run.publish(1, 6.0, 0.0, 8.0)
    recorder.log()
    seen = recorder.snapshot()
    assert [learner.distance for learner in seen.learners] == [5.0, 5.0]
    assert (seen.consensus.rms, seen.consensus.pairwise) == (5.0, 10.0)
    assert seen.consensus.certificate == pytest.approx(7.0 + 10.0), "their start, and an update"
    assert seen.consensus.ratio == pytest.approx(10 / 17)


def test_rows_of_metrics_follow_the_learning_curve(run: Run, clock: Clock) -> None:
    recorder = run.recorder
    for steps, score in ((100, 1.0), (200, 3.0)):
        run.run_layout.status_board.learner(0)["agent_steps"] = steps
        run.finish(0, 0, score)
        clock.now_s += 1.0
        recorder.read()
        recorder.log()
    assert recorder.snapshot().curve == ((100, 1.0), (200, 2.0))
    rows = [row for row in read_metrics(run.folder.metrics) if "charts/episodes" in row]
    assert [row["global_step"] for row in rows] == [100, 200]
    assert [row["charts/episodic_return"] for row in rows] == [1.0, 2.0]
    assert [row["wall_s"] for row in rows] == [1.0, 2.0]


def test_the_overall_rate_is_that_of_the_time_all_learners_ran(run: Run, clock: Clock) -> None:
    recorder, row = run.recorder, run.run_layout.status_board.learner(0)
    assert recorder.overall_rate() == 0.0
    clock.now_s += 50.0
    row["agent_steps"] = 100
    recorder.mark_running()
    assert recorder.status == "running"
    clock.now_s += 10.0
    row["agent_steps"] = 1100
    recorder.mark_ended()
    clock.now_s += 50.0
    assert recorder.overall_rate() == 100.0


def test_a_resumed_run_goes_on_from_its_progress(run: Run, tmp_path: Path, clock: Clock) -> None:
    run.finish(0, 0, *[2.0] * EPISODES_IN_MEAN, 4.0)
    clock.now_s += 30.0
    run.recorder.read()
    progress = run.recorder.progress()
    assert progress["wall_s"] == 30.0
    folder = RunFolder.create(tmp_path, "", "Pong", "again", 1, datetime(2026, 1, 1))
    try:
        again = Run(folder)
        again.run_layout.status_board.learner(0)["agent_steps"] = 100
        curve = Curve()
        curve.add(100, 2.0)
        log = EventLog(folder.events, 0, print)
        log.append(WALL_S, 20.0, "learner 1 was lost", wall_s=20.0, kind="restart")
        log.append(WALL_S, 30.5, "stopped", wall_s=30.5, kind="end")
        again.recorder.resume_from(progress, curve, [{"global_step": 50, "charts/SPS": 9.0}])
        seen = again.recorder.snapshot()
        assert seen.total_s == pytest.approx(30.0), "one clock over all starts"
        lost, stopped = seen.events
        assert lost == Event(-10.0, "learner 1 was lost", "restart")
        assert stopped.elapsed_s < 0, "no event of this start, though told after the last save"
        assert seen.history is not None
        assert (seen.history.steps, seen.history.columns["charts/SPS"]) == ((50,), (9.0,))
        clock.now_s += 1.0
        again.recorder.read()
        assert again.recorder.snapshot().agent_steps_per_s == 0, "those were another start's"
        assert again.recorder.progress() == progress | {"wall_s": 31.0, "agent_steps": 100}
        again.run_layout.status_board.learner(0)["agent_steps"] = 200
        again.recorder.log()
        assert again.recorder.snapshot().curve == ((100, 2.0), (200, 2.02))
    finally:
        folder.close()


class Machinery:
    """What samples a machine whose cores are full."""

    reading = SystemReading(
        cores=(0, 1), loads=(1.0, 1.0), run_share=0.95, others_share=0.0, watts=100.0
    )

    def sample(self) -> None:
        pass


def test_the_limit_is_named_once_every_learner_has_made_updates(run: Run, clock: Clock) -> None:
    run.recorder._system = cast(Any, Machinery())
    rows = list(run.run_layout.status_board.learners())
    run.recorder.mark_running()
    told = []
    for updates in (LEAST_UPDATES - 1, LEAST_UPDATES):
        for row in rows:
            row.enter(Phase.INFER)
        clock.now_s += 3.0
        for row in rows:
            row.enter(Phase.UPDATE)
            row["updates"], row["agent_steps"] = updates, 30 * updates
        run.recorder.read()
        told.append(run.recorder.snapshot().bottleneck)
    assert told == ["", "infer 100%, batches of 2: --num-envs 8, at most +100%"]
    seen = run.recorder.snapshot()
    frames = 4 * seen.agent_steps_per_s
    assert seen.system.joules_per_frame == pytest.approx(100.0 / frames)
    assert metrics_row(seen, 0.0)["system/cpu"] == 0.95


def test_energy_is_that_of_this_machine_per_frame_of_its_own_learners(
    run: Run, clock: Clock
) -> None:
    recorder = run.recorder
    recorder._system = cast(Any, Machinery())
    recorder.learners, recorder._elsewhere = recorder.learners[:1], recorder.learners[1:]
    recorder.read()
    for row, steps in zip(run.run_layout.status_board.learners(), (100, 300), strict=True):
        row["agent_steps"] = steps
    clock.now_s += 1.0
    recorder.read()
    seen = recorder.snapshot()
    assert seen.agent_steps_per_s == 400.0
    assert seen.system.joules_per_frame == pytest.approx(100.0 / (4 * 100.0))


def test_events_are_told_with_their_time_and_the_oldest_are_forgotten(
    run: Run, clock: Clock
) -> None:
    run.recorder.read()
    for number in range(recorder.MAX_EVENTS + 5):
        clock.now_s += 1.0
        run.recorder.log_event(f"event {number}")
    events = run.recorder.snapshot().events
    assert len(events) == recorder.MAX_EVENTS
    assert events[-1].text == f"event {recorder.MAX_EVENTS + 4}"
    assert events[-1].elapsed_s == recorder.MAX_EVENTS + 5
    assert events[0].text == "event 5"


def test_events_are_kept_in_the_run_folder(run: Run, clock: Clock) -> None:
    clock.now_s += 1.5
    run.recorder.log_event("one")
    run.recorder.log_event("two\nlines")
    rows = [json.loads(line) for line in run.folder.events.read_text().splitlines()]
    assert [(row["start"], row["elapsed_s"], row["text"]) for row in rows] == [
        (1, 1.5, "one"),
        (1, 1.5, "two\nlines"),
    ]
    assert datetime.fromisoformat(rows[0]["time"]).tzinfo is not None


def test_a_disk_that_refuses_events_is_told_of_once(run: Run) -> None:
    run.folder.events.mkdir()
    run.recorder.log_event("one")
    run.recorder.log_event("two")
    told = [event.text for event in run.recorder.snapshot().events]
    assert (told[0], told[2]) == ("one", "two")
    assert "events.jsonl" in told[1]
    assert len(told) == 3


def test_episodes_are_counted_in_the_order_of_time(
    run: Run, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Simulators that end games in turns: the last 100 are the newest, whichever ring is read."""
    now = {"s": 0.0}
    monkeypatch.setattr("galamp.memory.metrics.time.time", lambda: now["s"])
    for number in range(150):
        now["s"] += 1.0
        run.finish(number % LEARNERS, number // LEARNERS % WORKERS, float(number))
    run.recorder.read()
    assert list(run.recorder.progress()["last_returns"]) == [float(n) for n in range(50, 150)]


def test_overflowed_updates_are_told_of_once(run: Run) -> None:
    run.recorder.read()
    run.run_layout.status_board.learner(1).metrics["overflows"] = 3
    run.recorder.read()
    run.run_layout.status_board.learner(0).metrics["overflows"] = 1
    run.recorder.read()
    (told,) = [event.text for event in run.recorder.snapshot().events]
    assert told.startswith("learner 1: the gradient is too large for float32")


@pytest.mark.parametrize(
    ("code", "name"),
    [
        (801, "cudaErrorNotSupported"),
        (712, "cudaErrorHostMemoryAlreadyRegistered"),
        (2, "cudaErrorMemoryAllocation"),
        (999, "CUDA error 999"),
    ],
)
def test_memory_that_is_not_page_locked_is_told_of_once(run: Run, code: int, name: str) -> None:
    for rank in (1, 0):
        run.run_layout.status_board.learner(rank).metrics["page_lock_refusal"] = code
        run.recorder.read()
    (told,) = [event.text for event in run.recorder.snapshot().events]
    assert told.startswith(f"learner 1: the driver does not page-lock shared memory ({name})")


def test_graphs_that_cannot_be_recorded_are_told_of_once(run: Run) -> None:
    for rank in (1, 0):
        run.run_layout.status_board.learner(rank)["graph_refusal"] = 1
        run.recorder.read()
    (told,) = [event.text for event in run.recorder.snapshot().events]
    assert told.startswith("learner 1: what its GPU does cannot be recorded as CUDA graphs")


def test_a_snapshot_is_made_of_plain_values(run: Run) -> None:
    run.recorder.read()
    values = dataclasses.asdict(run.recorder.snapshot())
    assert not any(isinstance(value, np.generic | np.ndarray) for value in values.values())
