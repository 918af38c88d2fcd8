"""The audit against literal gossip: real vectors, and the coefficients of the whole history."""

from __future__ import annotations

import argparse
import copy
import io
import json
import math
import random
import shutil
import struct
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from galamp.core.errors import UserError
from galamp.gossip.transport.publication import Publication
from galamp.storage.gossip_log import GOSSIP, Entry, GossipLog, Lost, Measurement, Rebase, Start
from galamp.tools.audit import audit as audit_module
from galamp.tools.audit import command as audit_command
from galamp.tools.audit.audit import Audit, Point, Series, audit
from galamp.tools.audit.figure import draw
from galamp.tools.audit.replay import Replay
from galamp.tools.audit.report import lines, summary
from tests.support.engine import also

SIZE = 5
Key = tuple[int, int]


class World:
    """Learners with real vectors in R^5 that keep every coefficient of their whole history."""

    def __init__(self, seed: int, learners: int, apart: float = 0.0, drift: bool = False) -> None:
        self.random = random.Random(seed)
        self.learners, self.drift, self.starts = learners, drift, 0
        self.entries: list[Entry] = []
        self.truths: list[tuple[list[float], float] | None] = []
        """The full history's bounds at each measurement: to the mean, and pairwise."""
        self.start(apart)

    def gauss(self, scale: float) -> np.ndarray:
        return np.array([self.random.gauss(0, scale) for _ in range(SIZE)])

    def start(self, apart: float) -> None:
        self.x0 = [self.gauss(apart) for _ in range(self.learners)]
        self.vectors: dict[Key, np.ndarray] = {}
        self.a: dict[Key, dict[int, float]] = {}
        self.c: dict[Key, dict[int, float]] = {}  # unknown vectors have none
        self.updates: list[float] = []
        self.newest = [0] * self.learners
        self.starts += 1
        for rank, x in enumerate(self.x0):
            self.vectors[rank, 0], self.a[rank, 0], self.c[rank, 0] = x, {rank: 1.0}, {}
        self.between = tuple(tuple(float(np.linalg.norm(x - y)) for y in self.x0) for x in self.x0)
        self.entries.append(Start(self.starts, self.learners, "literal", False, 0.0, self.between))

    def publish(self, rank: int, mixed: list[Key], weights: list[float], scale: float) -> None:
        number = self.newest[rank] + 1
        parts = list(zip([(rank, number - 1), *mixed], weights, strict=True))
        u = self.gauss(scale) + (scale if self.drift else 0.0)
        length = float(np.linalg.norm(u)) * (1.0 if self.drift else self.random.uniform(1, 1.1))
        key = (rank, number)
        self.vectors[key] = sum(w * self.vectors[part] for part, w in parts) + u
        if all(part in self.c for part, _ in parts):
            self.a[key] = self.combined(self.a, parts)
            self.c[key] = self.combined(self.c, parts) | {len(self.updates): 1.0}
            self.updates.append(length)
        self.newest[rank] = number
        messages = tuple((p, k, w) for (p, k), w in zip(mixed, weights[1:], strict=True))
        self.entries.append(
            Publication(rank, number, number - 1, number, 0, length, weights[0], messages)
        )

    @staticmethod
    def combined(of: dict[Key, dict[int, float]], parts: list[tuple[Key, float]]) -> Any:
        names = {name for part, _ in parts for name in of[part]}
        return {name: sum(w * of[part].get(name, 0.0) for part, w in parts) for name in names}

    def lose(self, rank: int) -> None:
        number = self.newest[rank] + self.random.randint(1, 5)
        self.newest[rank] = number
        self.vectors[rank, number] = self.gauss(3.0)
        self.entries.append(Lost(rank, number))

    def rebase(self, rank: int) -> None:
        key = (rank, self.newest[rank])
        anchors = [(r, k) for r, k in enumerate(self.newest) if (r, k) in self.c]
        if key in self.c or not anchors:
            return
        anchor = self.random.choice(anchors)
        distance = float(np.linalg.norm(self.vectors[key] - self.vectors[anchor]))
        self.a[key] = self.a[anchor]
        self.c[key] = self.c[anchor] | {len(self.updates): 1.0}
        self.updates.append(distance)
        self.entries.append(Rebase(rank, key[1], anchor, distance))

    def measure(self, wall_s: float = 0.0) -> None:
        keys = [(r, self.newest[r] - self.random.randint(0, 1)) for r in range(self.learners)]
        keys = [key if key in self.vectors else (key[0], self.newest[key[0]]) for key in keys]
        vectors = np.array([self.vectors[key] for key in keys])
        distances = np.linalg.norm(vectors - vectors.mean(axis=0), axis=1)
        greatest = max(float(np.linalg.norm(v - w)) for v in vectors for w in vectors)
        truth = self.truth(keys)
        self.truths.append(truth)
        self.entries.append(
            Measurement(
                wall_s,
                sum(self.newest) * 80,
                tuple(number for _, number in keys),
                tuple(map(float, distances)),
                greatest,
                float(np.linalg.norm(vectors.mean(axis=0))),
                None if truth is None else tuple(truth[0]),
                None if truth is None else truth[1],
                None,
            )
        )

    def truth(self, keys: list[Key]) -> tuple[list[float], float] | None:
        if not all(key in self.c for key in keys):
            return None
        each = [(key, 1 / len(keys)) for key in keys]
        mean = self.combined(self.a, each), self.combined(self.c, each)
        of = [(self.a[key], self.c[key]) for key in keys]
        return [self.apart(v, mean) for v in of], max(self.apart(v, w) for v in of for w in of)

    def apart(self, v: tuple[Any, Any], w: tuple[Any, Any]) -> float:
        bound = sum(
            abs(v[1].get(e, 0.0) - w[1].get(e, 0.0)) * length
            for e, length in enumerate(self.updates)
        )
        more = {i: v[0].get(i, 0.0) - w[0].get(i, 0.0) for i in range(self.learners)}
        mass = sum(max(d, 0.0) for d in more.values())
        if mass > 0:
            for i, surplus in more.items():
                for j, shortage in more.items():
                    if surplus > 0 > shortage:
                        bound += surplus * -shortage / mass * self.between[i][j]
        return bound

    def random_round(self, rank: int, delay: int = 8) -> None:
        """Publish after mixing with some peers' newest or older vectors."""
        peers = [p for p in range(self.learners) if p != rank and self.random.random() < 0.6]
        mixed = []
        for peer in peers:
            known = [(peer, self.newest[peer] - d) for d in range(delay)]
            mixed.append(self.random.choice([key for key in known if key in self.vectors]))
        weights = [self.random.random() + 0.05 for _ in range(1 + len(mixed))]
        self.publish(rank, mixed, [w / sum(weights) for w in weights], self.random.random())

    def live(self, rounds: int, faults: bool = False) -> None:
        """Let random things happen."""
        dead = -1
        for index in range(rounds):
            rank = self.random.randrange(self.learners)
            if faults and self.random.random() < 0.03:
                dead = rank
            if faults and self.random.random() < 0.03:
                self.lose(rank)
            if faults and self.random.random() < 0.1:
                self.rebase(rank)
            if faults and self.random.random() < 0.01:
                self.start(self.random.choice([0.0, 0.5]))
            if rank != dead or self.random.random() < 0.1:
                self.random_round(rank)
            if index % 7 == 0:
                self.measure(index / 10)
        self.measure(rounds / 10)

    def save(self, folder: Path) -> Path:
        assert GossipLog(folder / GOSSIP, pytest.fail).append([e.as_dict() for e in self.entries])
        return folder


def audited(world: World, **limits: int) -> Audit:
    found = Audit(Replay(**limits))
    for line, entry in enumerate(world.entries, 1):
        found.check(line, entry)
    return found


def ring(seed: int, rounds: int, learners: int = 4, every: int = 5) -> World:
    world = World(seed, learners)
    for round_ in range(rounds):
        for rank in range(learners):
            peer = (rank - 1) % learners
            late = max(0, world.newest[peer] - world.random.randint(0, 2))
            world.publish(rank, [(peer, late)], [0.5, 0.5], 0.1)
        if round_ % every == every - 1:
            world.measure(round_)
    return world


# What is proven


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    learners=st.integers(1, 6),
    apart=st.sampled_from([0.0, 0.7]),
    faults=st.booleans(),
)
def test_equals_the_full_history_and_never_falls_below_the_truth(
    seed: int, learners: int, apart: float, faults: bool
) -> None:
    world = World(seed, learners, apart)
    world.live(120, faults)
    found = audited(world)
    assert found.passed, (found.faults, found.violations)
    bounds = found.series.column("pairwise_bound"), found.series.column("to_mean_bound")
    for truth, pair, mean in zip(world.truths, *bounds, strict=True):
        assert (truth is None) == math.isnan(pair)
        if truth is not None:
            assert pair == pytest.approx(truth[1], rel=1e-6, abs=1e-12)
            rms = float(np.sqrt(np.mean(np.square(truth[0]))))
            assert mean == pytest.approx(rms, rel=1e-6, abs=1e-12)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32), learners=st.integers(2, 5), faults=st.booleans())
def test_small_memory_stays_sound(seed: int, learners: int, faults: bool) -> None:
    world = World(seed, learners, 0.5)
    world.live(200, faults)
    # Columns for 2 n + 16 updates; a few rows.
    found = audited(world, kept=10, limit_bytes=1)
    assert found.passed, (found.faults, found.violations)
    assert found.replay.forced > 0 or faults
    for truth, pair in zip(world.truths, found.series.column("pairwise_bound"), strict=True):
        assert truth is None or pair >= truth[1] * (1 - 1e-9)


def test_drifting_learners_come_close_to_the_bound() -> None:
    """All updates point one way, and one learner is ahead: the bound is nearly reached."""
    world = World(1, 2, drift=True)
    for _ in range(50):
        world.publish(0, [], [1.0], 0.001)
        world.publish(1, [(0, world.newest[0])], [0.5, 0.5], 1e-9)
        world.measure()
    ratio = audited(world).series.column("pairwise_ratio")
    assert 0.9 < ratio.max() <= 1.0


def test_negligible_drops_change_nothing_and_happen() -> None:
    world = ring(2, 160, every=80)
    found = audited(world, kept=8)
    columns = found.replay._columns
    assert found.passed
    assert columns.tail.bound > 0
    assert found.replay.forced == 0
    assert columns.used < 600 < len(world.updates) == 640
    bounds = found.series.column("pairwise_bound")
    for truth, pair in zip(world.truths, bounds, strict=True):
        assert truth is not None
        assert pair == pytest.approx(truth[1], rel=1e-9)


def test_wide_window_grows_before_anything_counts_is_dropped() -> None:
    world = World(3, 3)
    for index in range(700):
        rank = index % 3
        mixed = [((rank - 1) % 3, world.newest[(rank - 1) % 3])] if index % 50 < 3 else []
        world.publish(rank, mixed, [0.5, 0.5] if mixed else [1.0], 0.1)
        if index % 100 == 0:
            world.measure()
    found = audited(world, kept=40)
    assert found.passed
    assert found.replay.forced == 0
    assert found.replay._columns.matrix.shape[1] > 3 + 4 * 120
    last = world.truths[-1]
    assert last is not None
    assert found.series.column("pairwise_bound")[-1] == pytest.approx(last[1], rel=1e-9)


def test_what_was_dropped_for_lack_of_memory_fades() -> None:
    """Of 600 updates 40 are held: what the others could once do would add up to a hundred."""
    world = ring(18, 200, learners=3, every=50)
    found = audited(world, kept=4, limit_bytes=8 * 12 * 43)
    assert found.passed
    assert found.replay.forced > 500
    bounds = found.series.column("pairwise_bound")
    for truth, bound in zip(world.truths, bounds, strict=True):
        assert truth is not None
        assert truth[1] * (1 - 1e-9) <= bound < 3 * truth[1]
    assert found.replay._columns.tail.bound < 3


def test_starting_vectors_that_are_apart_come_together() -> None:
    world = World(4, 3, apart=2.0)
    world.measure()
    for _ in range(60):
        for rank in range(3):
            world.publish(rank, [((rank + 1) % 3, world.newest[(rank + 1) % 3])], [0.5, 0.5], 0.0)
    world.measure()
    bounds = audited(world).series.column("pairwise_bound")
    measured = audited(world).series.column("pairwise")
    assert bounds[0] == pytest.approx(measured[0])
    assert bounds[1] < 1e-6


def test_a_lost_learner_is_uncertified_until_it_is_found_again() -> None:
    world = ring(5, 20)
    world.lose(2)
    world.measure()
    world.random_round(2)
    world.rebase(2)
    world.random_round(2)
    before = len(world.truths)
    world.measure()
    found = audited(world)
    assert found.passed
    assert found.lost == found.rebased == 1
    certified = ~np.isnan(found.series.column("pairwise_bound"))
    assert certified[: before - 1].all()
    assert not certified[before - 1]


def test_a_vector_taken_over_whole_from_a_known_one_is_known() -> None:
    world = ring(6, 10)
    world.lose(1)
    world.publish(1, [(0, world.newest[0])], [0.0, 1.0], 0.1)
    world.c.pop((1, world.newest[1]), None)
    entry = Measurement(0, 0, tuple(world.newest), (0.0,) * 4, 0.0, 1.0, None, None, None)
    world.entries.append(entry)
    found = audited(world)
    assert found.passed
    assert found.certified == len(found.series)


# What is found


def replaced(world: World, which: type, change: Callable[[Any], Entry], skip: int = 0) -> World:
    """A world like this whose record has another first entry of a kind after `skip` of them."""
    changed, at = copy.copy(world), place(world, which, skip)
    changed.entries = [*world.entries[:at], change(world.entries[at]), *world.entries[at + 1 :]]
    return changed


def removed(world: World, which: type, skip: int = 0) -> World:
    changed, at = copy.copy(world), place(world, which, skip)
    changed.entries = [*world.entries[:at], *world.entries[at + 1 :]]
    return changed


def place(world: World, which: type, skip: int) -> int:
    return [i for i, entry in enumerate(world.entries) if isinstance(entry, which)][skip]


def test_a_distance_above_the_certificate_is_found_to_its_line() -> None:
    world = ring(7, 50)
    found = audited(world)
    assert found.passed
    limit = found.series.column("pairwise_bound")[3]
    norm = next(e for i, e in enumerate(x for x in world.entries if isinstance(x, Measurement)) if
                i == 3).norm  # fmt: skip
    edge = limit * (1 + 1e-5) + 1e-6 * norm

    def violations(pairwise_: float) -> list[Any]:
        changed = replaced(
            world,
            Measurement,
            lambda m: m._replace(pairwise=pairwise_, certificate=None, certificate_pairwise=None),
            skip=3,
        )
        return audited(changed).violations

    assert violations(edge * (1 - 1e-9)) == []
    (violation,) = violations(edge * (1 + 1e-9))
    assert (violation.learner, violation.wall_s, violation.by) == (None, 19, "recomputed")
    assert world.entries[violation.line - 1].wall_s == 19  # type: ignore[union-attr]


def test_one_learner_too_far_from_the_mean_is_found() -> None:
    far = replaced(ring(8, 50), Measurement, lambda m: m._replace(distances=(*m[3][:2], 9.0, 0.0)))
    (violation,) = audited(far).violations
    assert (violation.learner, violation.by, violation.measured) == (2, "both", 9.0)


def test_the_certificate_of_the_run_itself_is_checked() -> None:
    low = replaced(
        ring(9, 50), Measurement, lambda m: m._replace(certificate_pairwise=m.pairwise * 0.99)
    )
    (violation,) = audited(low).violations
    assert violation.by == "recorded"


def test_a_length_that_was_shrunk_is_found_where_the_bound_is_tight() -> None:
    world = World(10, 2, drift=True)
    for _ in range(3):
        world.publish(0, [], [1.0], 0.1)
    world.measure()
    assert audited(world).passed
    shrunk = replaced(world, Publication, lambda p: p._replace(length=p.length * 0.2), skip=1)
    assert {v.by for v in audited(shrunk).violations} == {"recomputed"}


@pytest.fixture(scope="module")
def sound() -> World:
    """Nobody changes it: `replaced` makes another one."""
    return ring(11, 100)


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        (lambda p: p._replace(own=0.6), "sum to 1.1"),
        (lambda p: p._replace(own=0.4), "sum to 0.9"),
        (lambda p: p._replace(own=0.5 + 2e-6), "sum to 1.000002"),
        (lambda p: p._replace(number=p.number + 1), "without"),
        (lambda p: p._replace(number=p.number - 1), "after"),
        (lambda p: p._replace(learner=9), "learner 9 of 4"),
        (lambda p: p._replace(mixed=((9, 1, 0.5),)), "learner 9 of 4"),
        (lambda p: p._replace(mixed=((1, 2**40, 0.5),)), "never recorded"),
        (lambda p: p._replace(mixed=((p.learner, p.number, 0.5),)), "never recorded"),
        (lambda p: p._replace(mixed=((1, 0, 0.5),)), "too old"),
    ],
)
def test_a_publication_that_contradicts_the_record_is_found(
    sound: World, change: Callable[[Any], Entry], wrong: str
) -> None:
    found = audited(replaced(sound, Publication, change, skip=330))
    assert wrong in found.faults[0].wrong
    # What is told once is not told again of every later vector.
    assert found.fault_count == 1 or "sum" not in wrong
    assert not found.passed
    assert not found.violation_count
    assert found.certified < len(found.series) or "after" in wrong


@pytest.mark.parametrize("skip", [0, 17, 150])
def test_a_removed_line_is_found(skip: int) -> None:
    found = audited(removed(ring(12, 50), Publication, skip))
    assert found.fault_count
    assert not found.violation_count


def test_a_removed_start_is_found() -> None:
    for skip in (0, 1):
        world = ring(13, 10)
        world.start(0.0)
        world.live(20)
        assert audited(removed(world, Start, skip)).fault_count


@pytest.mark.parametrize(
    ("entry", "wrong"),
    [
        (Lost(0, 3), "lost 3 after 10"),
        (Lost(7, 3), "learner 7 of 4"),
        (Rebase(0, 11, (1, 10), 0.1), "(0, 11), never recorded"),
        (Rebase(0, 10, (1, 99), 0.1), "(1, 99), never recorded"),
        (Measurement(0, 0, (10, 10), (0, 0), 0, 1, None, None, None), "measured 2 vectors of 4"),
        (Measurement(0, 0, (), (), 0, 1, None, None, None), "measured 0 vectors of 4"),
        (Measurement(0, 0, (10, 10, 99, 10), (0,) * 4, 0, 1, None, None, None), "never recorded"),
    ],
)
def test_lines_that_refer_to_nothing_are_found(entry: Entry, wrong: str) -> None:
    world = ring(14, 10)
    world.entries.append(entry)
    (fault,) = audited(world).faults
    assert wrong in fault.wrong
    assert fault.line == len(world.entries)


def test_a_rebase_on_what_is_unknown_is_found() -> None:
    world = ring(15, 10)
    world.lose(0)
    world.lose(1)
    world.entries.append(Rebase(0, world.newest[0], (1, world.newest[1]), 0.1))
    assert "unknown itself" in audited(world).faults[0].wrong


@pytest.mark.parametrize(
    "entry",
    [
        Publication(0, 1, 0, 1, 0, 0.1, 1.0, ()),
        Lost(0, 1),
        Rebase(0, 1, (1, 1), 0.0),
        Measurement(0, 0, (), (), 0, 0, (), 0, None),
    ],
)
def test_nothing_comes_before_a_start(entry: Entry) -> None:
    found = Audit()
    found.check(1, entry)
    assert found.fault_count == 1


@pytest.mark.parametrize("adopted", [False, True], ids=["an older version's", "adopted"])
def test_where_learners_may_have_adopted_others_vectors_distances_at_the_start_prove_nothing(
    adopted: bool, tmp_path: Path
) -> None:
    """A record that does not say so is taken at its word: what contradicts it is a violation."""
    zeros = ((0.0,) * 4,) * 4
    start = Start(1, 4, "complete", False, 0.0, zeros, (0, 2), adopted=adopted)
    entries: list[Entry] = [start]
    entries += [Publication(rank, 1, 1, 1, 0, 1e-3, 1.0, ()) for rank in (0, 1)]
    entries += [Lost(2, 1), Lost(3, 1)]
    measured = Measurement(1, 80, (1,) * 4, (0.25, 0.75, 0.25, 0.25), 1.0, 1.0)
    if adopted:
        entries += [measured, Rebase(0, 1, (0, 1), 0.0), Rebase(1, 1, (0, 1), 1.0)]
    entries += [Rebase(2, 1, (0, 1), 0.0), Rebase(3, 1, (0, 1), 0.0), measured]
    log = GossipLog(tmp_path / GOSSIP, pytest.fail)
    assert log.append([entry.as_dict() for entry in entries])
    found = audit(tmp_path)
    assert not found.fault_count
    assert found.certified == 1
    assert found.series.column("pairwise_bound")[-1] == pytest.approx(1.0 if adopted else 2e-3)
    assert found.passed == adopted


# The command


def command(*words: str) -> int:
    parser = argparse.ArgumentParser()
    audit_command.add_options(parser)
    args = parser.parse_args(words)
    return int(args.command(args))


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    world = ring(16, 60)
    world.start(0.3)
    world.live(60)
    return world.save(tmp_path_factory.mktemp("recorded"))


@pytest.fixture
def run(recorded: Path, tmp_path: Path) -> Path:
    """A run of one's own."""
    return Path(shutil.copytree(recorded, tmp_path / "run$with$dollars"))


def test_report_of_a_sound_run(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(str(run)) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    assert max(map(len, shown.out.splitlines())) <= 80
    assert shown.out.splitlines()[-1].startswith("no violation: 22 certified measurements")
    assert "4, literal, asynchronous; 2 starts" in shown.out


def test_progress_is_gone_before_anything_else_is_printed(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(screen, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(audit_module, "LINES_PER_REPORT", 50)
    assert command(str(run)) == 0
    before, told = screen.getvalue().rsplit("\r", 1)
    assert "50 lines, " in before
    assert told.startswith("\x1b[K")
    assert told.splitlines()[-1].startswith("no violation")


def test_json_says_the_same(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(str(run), "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found == json.loads(json.dumps(summary(run, audit(run))))
    assert found["passed"]
    assert found["certified"] == found["measurements"] == 22
    shares = [
        found["distances"][name][f"recorded_over_recomputed_{key}"]
        for name in ("to_mean", "pairwise")
        for key in ("median", "least", "greatest")
    ]
    assert shares == pytest.approx([1.0] * 6)
    assert 0 < found["distances"]["pairwise"]["ratio_greatest"] <= 1


def test_rounding_on_the_way_from_another_machine_is_told(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(str(run)) == 0
    assert "rounded  " not in capsys.readouterr().out
    lines = [json.loads(line) for line in (run / GOSSIP).read_text().splitlines()]
    of = [line for line in lines if line["kind"] == "publication"]
    for at, line in enumerate(of[:3]):
        line["rounded"] = 0.001 * (at + 1)
    (run / GOSSIP).write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert command(str(run)) == 0
    text = capsys.readouterr().out
    assert "rounded       3 vectors on the way from other machines, each by at most" in text
    assert "0.003: so much farther" in text
    assert max(map(len, text.splitlines())) <= 80


def test_violations_are_shown_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world = ring(17, 100)
    for skip in range(12):
        world = replaced(world, Measurement, lambda m: m._replace(pairwise=1e6, wall_s=1e6), skip)
    assert command(str(world.save(tmp_path))) == 1
    out = capsys.readouterr().out.splitlines()
    assert out[-1] == "12 violations"
    assert "... and 2 more" in out
    assert sum(line.endswith("both") for line in out) == 10
    assert max(map(len, out)) <= 80


def tampered(run: Path, change: Callable[[list[bytes]], list[bytes]]) -> Path:
    path = run / GOSSIP
    path.write_bytes(b"".join(change(path.read_bytes().splitlines(keepends=True))))
    return run


@pytest.mark.parametrize(
    "garbage",
    [
        b"garbage\x1b[31m\xff\n",
        b"\n",
        b"[" * 100_000 + b"\n",
        b'{"kind":"publication","learner":1e400}\n',
        b'{"kind":"measurement","wall_s":1e99,"global_step":' + b"9" * 5000 + b"}\n",
    ],
)
def test_a_damaged_line_is_told_in_one_line(
    run: Path, garbage: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    tampered(run, lambda lines: [*lines[:9], garbage, *lines[9:]])
    assert command(str(run)) == 1
    out = capsys.readouterr().out.splitlines()
    assert out[-1] == "log is incomplete: 1 fault; no violation among 22 measurements"
    assert sum("line 10:" in line for line in out) == 1
    assert all(line.isprintable() for line in out)


def test_a_cut_last_line_is_no_fault(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tampered(run, lambda lines: [*lines[:-1], lines[-1][:-1]])
    assert command(str(run)) == 0
    assert "21 certified" in capsys.readouterr().out


def test_an_empty_record_is_incomplete(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / GOSSIP).write_bytes(b"")
    assert command(str(run)) == 1
    assert "line 1: empty" in capsys.readouterr().out


def test_a_run_that_measured_nothing_yet_passes(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tampered(run, lambda lines: lines[:1])
    assert command(str(run), "--figure", str(run / "a.png")) == 0
    shown = capsys.readouterr()
    assert shown.out.endswith("no violation: nothing was certified\n")
    assert "not drawn" in shown.err
    assert not (run / "a.png").exists()


def test_every_text_of_a_huge_audit_fits(tmp_path: Path) -> None:
    world = ring(18, 10)
    huge = Measurement(1e9, 10**18, (10,) * 4, (1e99,) * 4, 1e99, 0.0, (0.0,) * 4, 0.0, None)
    world.entries += [huge, Lost(0, 2**62), huge, Publication(1, 2**62, 0, 0, 0, 1e99, 1.0, ())]
    found = audited(world)
    assert not found.passed
    text = list(lines(summary(Path("x" * 300), found)))
    assert len(text[0]) <= 80
    assert text[-1] == "10 violations; log is incomplete: 1 fault"


@pytest.mark.real
def test_the_plot_is_a_picture_whatever_a_matplotlibrc_says(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One that lies around would be read from the working directory, and can name programs."""
    path = run / "audit.png"
    assert command(str(run), "--figure", str(path)) == 0
    assert capsys.readouterr().err == f"written: {path}\n"
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG\r\n")
    assert struct.unpack(">II", content[16:24]) == (1500, 1125)
    assert 50_000 < len(content) < 500_000
    with pytest.raises(UserError, match="exists; choose another name, or give --overwrite"):
        command(str(run), "--figure", str(path))
    path.write_bytes(b"old")
    import matplotlib as mpl

    with mpl.rc_context({"text.usetex": True, "axes.facecolor": "red", "font.size": 30}):
        assert command(str(run), "--figure", str(path), "--overwrite") == 0
    assert path.read_bytes() == content


@pytest.mark.parametrize("distance", [also(0.0), also(1e-9), 1e99])
def test_extremes_can_be_drawn(distance: float) -> None:
    series = Series()
    series.add(Point(0, 1, 80, distance, *[math.nan] * 3, distance, *[math.nan] * 4))
    assert draw(series, "$x^").startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("words", "wrong"),
    [
        (["nowhere"], "no such run folder"),
        (["."], "runs with more than one learner record"),
        ([".", "--figure", "a.gif"], "expected a name that ends in .png"),
        ([".", "--figure", "nowhere/a.png"], "there is no folder nowhere"),
        ([".", "--overwrite"], "goes with --figure"),
    ],
)
def test_mistakes_are_told_in_one_line(
    words: list[str], wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=wrong) as told:
        command(*words)
    assert "\n" not in str(told.value)


def test_the_columns_are_consecutive_in_time(run: Path) -> None:
    found = audit(run)
    series = found.series
    starts = series.column("start").tolist()
    assert starts == sorted(starts)
    for start in set(starts):
        walls = [w for s, w in zip(starts, series.column("wall_s"), strict=True) if s == start]
        assert all(first <= second for first, second in pairwise(walls))
