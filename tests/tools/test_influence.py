"""Influence of each learner on the final mean, against dense matrices of the whole history."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from galamp.gossip.consensus.radius import mixing_matrix
from galamp.gossip.topologies import make_topology
from galamp.gossip.transport.publication import Publication, Source
from galamp.storage.gossip_log import GOSSIP, Lost, Rebase, Start
from galamp.tools.audit import influence as influence_module
from galamp.tools.audit.influence import Influence, Share
from tests.tools.test_audit import World, audited, command


def beginning(learners: int, number: int = 1) -> Start:
    return Start(number, learners, "any", False, 0.0, ((0.0,) * learners,) * learners)


def of(learners: int, publications: list[Publication], start: int = 1) -> list[Share]:
    found = Influence()
    found.start(beginning(learners, start))
    for one in publications:
        found.publish(one)
    assert found.exact
    return found.shares()


def dense(learners: int, publications: list[Publication]) -> np.ndarray:
    """The product of all mixing rows, as matrices over every vector that ever was.

    Row v of `whole` is what vector v is made of: of each update, its coefficient.
    """
    names = [(rank, 0) for rank in range(learners)]
    names += [(one.learner, one.number) for one in publications]
    place = {name: at for at, name in enumerate(names)}
    whole = np.zeros((len(names), len(names)))
    for one in publications:
        row = np.zeros(len(names))
        row[place[one.learner, one.number - 1]] = one.own
        for source in one.mixed:
            row[place[source.peer, source.number]] += source.weight
        me = place[one.learner, one.number]
        whole[me] = row @ whole
        whole[me, me] = 1.0
    last = {learner: place[learner, number] for learner, number in names}
    coefficients = whole[[last[rank] for rank in range(learners)]].mean(axis=0)
    found, versions = np.zeros(learners), dict.fromkeys(range(learners), 0)
    for one in publications:
        made = one.version - versions[one.learner]
        versions[one.learner] = one.version
        found[one.learner] += coefficients[place[one.learner, one.number]] * made
    return found / found.sum()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), learners=st.integers(1, 6), rounds=st.integers(1, 120))
def test_it_equals_the_product_of_all_matrices(seed: int, learners: int, rounds: int) -> None:
    random, newest = np.random.default_rng(seed), [0] * learners
    versions = [0] * learners
    publications = []
    for _ in range(rounds):
        me = int(random.integers(learners))
        peers = [p for p in range(learners) if p != me and random.random() < 0.5]
        weights = random.random(1 + len(peers)) + 0.01
        own, *shares = (weights / weights.sum()).tolist()
        late = [max(0, newest[peer] - int(random.integers(6))) for peer in peers]
        mixed = tuple(map(Source, peers, late, shares))
        newest[me] += 1
        versions[me] += int(random.integers(1, 5))
        publications.append(Publication(me, newest[me], 0, versions[me], 0, 1.0, own, mixed))
    found = of(learners, publications)
    assert np.abs([s.of_influence for s in found] - dense(learners, publications)).max() < 1e-12
    assert [s.updates for s in found] == versions
    assert [s.of_updates for s in found] == pytest.approx(np.array(versions) / sum(versions))


def lock_step(name: str, learners: int, weights: str, rounds: int = 40) -> list[Publication]:
    graph = make_topology(name, learners, weights)
    found, before = [], dict.fromkeys(range(learners), (1.0, ()))
    for k in range(rounds):
        for rank, (own, mixed) in before.items():
            found.append(Publication(rank, k + 1, k, k + 1, 0, 1.0, own, mixed))
        matrix = mixing_matrix(graph, k)
        for rank in range(learners):
            peers = graph.in_peers(rank, k)
            sources = tuple(Source(peer, k + 1, matrix[rank, peer]) for peer in peers)
            before[rank] = float(matrix[rank, rank]), sources  # type: ignore[assignment]
    return found


@pytest.mark.parametrize("name", ["ring", "base-2", "none"])
def test_in_lock_step_every_update_weighs_the_same(name: str) -> None:
    for share in of(5, lock_step(name, 5, "auto")):
        assert share.of_influence == pytest.approx(0.2, rel=1e-12)


def test_a_star_with_equal_weights_favours_its_hub() -> None:
    """Its left eigenvector: the hub has degree n, the others 2."""
    shares = of(5, lock_step("star", 5, "uniform", 400))
    assert shares[0].of_influence == pytest.approx(5 / 13, abs=0.01)
    assert shares[0].of_updates == 0.2


def test_who_is_heard_twice_as_often_weighs_more() -> None:
    """Learner 1 hears 0 in every round, 0 hears 1 in every second one."""
    publications = []
    for k in range(1, 200):
        heard = (Source(1, k - 1, 0.5),) if k % 2 and k > 1 else ()
        publications.append(Publication(0, k, k, k, 0, 1.0, 0.5 if heard else 1.0, heard))
        publications.append(Publication(1, k, k, k, 0, 1.0, 0.5, (Source(0, k, 0.5),)))
    first, second = of(2, publications)
    assert first.of_influence > 0.6
    assert first.of_updates == second.of_updates == 0.5


def test_updates_are_those_of_the_optimiser() -> None:
    """One published after 3 updates each, the other after every one."""
    publications = [Publication(0, k, k, 3 * k, 0, 1.0, 1.0, ()) for k in (1, 2, 3)]
    publications += [Publication(1, k, k, k, 0, 1.0, 1.0, ()) for k in (1, 2, 3)]
    assert of(2, publications) == [Share(0, 9, 0.75, 0.75), Share(1, 3, 0.25, 0.25)]


def test_after_a_resume_only_what_comes_then_counts() -> None:
    publications = [Publication(0, 1, 9, 901, 0, 1.0, 1.0, ())]
    publications += [Publication(1, k, 9, 900 + 2 * k, 0, 1.0, 1.0, ()) for k in (1, 2)]
    assert [share.updates for share in of(2, publications, start=2)] == [1, 1 + 2]


def test_what_was_lost_is_said_and_taken_for_its_anchor() -> None:
    found = Influence()
    found.start(beginning(2))
    found.publish(Publication(0, 1, 0, 1, 0, 1.0, 1.0, ()))
    found.lose(Lost(1, 3))
    found.publish(Publication(1, 4, 0, 4, 1, 1.0, 1.0, ()))
    assert (found.exact, found.unknown) == (False, 1)
    found.rebase(Rebase(1, 4, (0, 1), 0.5))
    found.publish(Publication(1, 5, 0, 5, 1, 1.0, 1.0, ()))
    # Vector (1, 5) is that of learner 0, and an update: s = (1, 0) and (1, 1).
    assert [share.of_influence for share in found.shares()] == [2 / 3, 1 / 3]
    assert found.placed == 1
    found.lose(Lost(0, 2))
    found.lose(Lost(1, 6))
    found.rebase(Rebase(0, 2, (0, 2), 0.0))
    assert found.shares() == [], "nothing is known any more: it begins anew"


def test_memory_is_bounded_by_the_learners(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(influence_module, "LIMIT_BYTES", 8 * 3**2 * 10)
    found = Influence()
    found.start(beginning(3))
    for k in range(1, 30):
        found.publish(Publication(0, k, k, k, 0, 1.0, 1.0, ()))
    found.publish(Publication(1, 1, 0, 1, 0, 1.0, 0.5, (Source(0, 20, 0.5),)))
    assert found.exact
    found.publish(Publication(1, 2, 0, 2, 0, 1.0, 0.5, (Source(0, 19, 0.5),)))
    assert found.unknown == 1, "too old"


def test_the_report_has_a_row_per_learner(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world = World(3, 4)
    world.live(200)
    world.save(tmp_path)
    assert command(str(tmp_path)) == 0
    out = capsys.readouterr().out.splitlines()
    assert max(map(len, out)) <= 80
    shares = audited(world).influence.shares()
    at = next(i for i, line in enumerate(out) if line.startswith("influence on the mean"))
    for share, line in zip(shares, out[at + 1 :], strict=False):
        *_, rank, updates, of_updates, of_influence, ratio = line.split()
        assert (int(rank), float(updates.replace(",", ""))) == (share.learner, share.updates)
        assert of_updates == f"{share.of_updates:.1%}"
        assert of_influence == f"{share.of_influence:.1%}"
        assert float(ratio) == pytest.approx(share.of_influence / share.of_updates, rel=1e-3)
    assert command(str(tmp_path), "--json") == 0
    found = json.loads(capsys.readouterr().out)["influence"]
    assert found["exact"]
    assert [one["of_influence"] for one in found["learners"]] == [s.of_influence for s in shares]


def test_with_outer_steps_it_is_an_estimate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A record holds them as part of the updates."""
    world = World(3, 4)
    world.live(50)
    folder = world.save(tmp_path)
    first, *lines = (folder / GOSSIP).read_text().splitlines(keepends=True)
    start = json.loads(first)
    assert "outer" not in start
    (folder / GOSSIP).write_text("".join([json.dumps(start | {"outer": True}) + "\n", *lines]))
    assert command(str(folder)) == 0
    assert "Estimated: outer steps take the place of averages" in capsys.readouterr().out
    assert command(str(folder), "--json") == 0
    found = json.loads(capsys.readouterr().out)["influence"]
    assert (found["exact"], found["outer_steps"]) == (False, True)


def test_of_many_learners_those_farthest_from_their_share_are_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world = World(4, 30)
    world.live(60)
    command(str(world.save(tmp_path)))
    out = capsys.readouterr().out
    assert out.count("learner ") >= 10
    assert "... and 20 more, whose ratios are nearer to 1" in out


def test_faults_leave_an_estimate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world = World(5, 3)
    world.live(40)
    world.lose(1)
    world.rebase(1)
    world.live(10)
    command(str(world.save(tmp_path)))
    assert "Estimated: 1 vector placed by measurement, 0 publications unknown." in (
        capsys.readouterr().out
    )


def test_of_one_of_several_machines_it_says_nothing() -> None:
    """Its record has no mixes of theirs: its own learners would seem to weigh next to nothing."""
    found = Influence()
    found.start(beginning(2)._replace(place=(0, 2)))
    found.publish(Publication(0, 1, 0, 1, 0, 1.0, 1.0, ()))
    found.publish(Publication(1, 1, 0, 5, 1, 1.0, 1.0, ()))
    assert found.shares() == []
    found.start(beginning(2))
    found.publish(Publication(0, 1, 0, 1, 0, 1.0, 1.0, ()))
    assert len(found.shares()) == 2
