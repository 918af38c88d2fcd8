"""How fast graphs agree and how far apart learners stay: closed forms, and slow literal sums."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from galamp.gossip.topologies import make_topology
from galamp.gossip.topologies.base import Topology
from galamp.tools.topology.forecast import (
    Walk,
    by_covariance,
    by_modes,
    forecast,
    simulate,
    traffic,
    worst_radius,
)
from galamp.tools.topology.krylov import largest_eigenvalue, largest_singular_value
from galamp.tools.topology.mixing_matrices import Rounds
from galamp.tools.topology.spectrum import (
    ByModes,
    Dense,
    Sparse,
    Spectrum,
    contraction_of,
    study,
)

GRAPHS = [
    ("ring", 8),
    ("bidirectional-ring", 9),
    ("exponential", 12),
    ("one-peer-exponential", 6),
    ("one-peer-exponential", 16),
    ("bipartite-exponential", 8),
    ("bipartite-exponential", 7),
    ("torus", 12),
    ("torus", 16),
    ("star", 9),
    ("complete", 5),
    ("complete", 100),
    ("random-pairs", 10),
]


def rounds_of(name: str, size: int, weights: str = "auto") -> Rounds:
    return Rounds(make_topology(name, size, weights, seed=3))


@cache
def literal(topology: Topology, round_: int) -> NDArray[np.float64]:
    """The mixing matrix, entry by entry."""
    matrix = np.zeros((topology.size, topology.size))
    for rank in range(topology.size):
        own, *others = topology.weights(rank, round_)
        matrix[rank, rank] = own
        for peer, weight in zip(topology.in_peers(rank, round_), others, strict=True):
            matrix[rank, peer] = weight
    return matrix


def left(topology: Topology, count: int, start: int = 0) -> float:
    """What so many rounds leave of disagreement, by dense matrices."""
    product = np.eye(topology.size)
    for round_ in range(start, start + count):
        product = literal(topology, round_) @ product
    centre = np.eye(topology.size) - 1.0 / topology.size
    return float(np.linalg.norm(centre @ product @ centre, 2))


# Rounds as arrays


@pytest.mark.parametrize(("name", "size"), GRAPHS)
def test_a_round_is_the_matrix_of_the_topology(name: str, size: int) -> None:
    rounds = rounds_of(name, size)
    values = np.random.default_rng(1).standard_normal((size, 3))
    for round_ in range(min(rounds.topology.horizon(), 5)):
        matrix = literal(rounds.topology, round_)
        mixing = rounds[round_]
        assert np.allclose(mixing.apply(values), matrix @ values)
        assert np.allclose(mixing.apply(values[:, 0]), matrix @ values[:, 0])
        assert np.allclose(mixing.apply_transposed(values[:, 0]), matrix.T @ values[:, 0])
        assert np.allclose(mixing.apply(values.astype(np.float32)), matrix @ values, atol=1e-5)
        assert list(mixing.degrees) == [np.count_nonzero(row) - 1 for row in matrix]


def test_many_peers_are_mixed_as_few_are(tmp_path: Path) -> None:
    links = np.random.default_rng(0).random((80, 80)) < 0.9
    np.fill_diagonal(links, False)
    file = tmp_path / "graph.txt"
    np.savetxt(file, links.astype(int), fmt="%d")
    rounds = rounds_of(f"file:{file}", 80)
    values = np.random.default_rng(1).standard_normal((80, 3))
    assert np.allclose(rounds[0].apply(values), literal(rounds.topology, 0) @ values)


def test_circles_and_grids_are_recognised_and_nothing_else() -> None:
    alike = {name: rounds_of(name, 12).circulant for name in ("ring", "complete", "torus")}
    assert all(alike.values())
    assert rounds_of("one-peer-exponential", 12).circulant
    assert not rounds_of("star", 12).circulant
    assert not rounds_of("bipartite-exponential", 12).circulant
    assert not rounds_of("random-pairs", 12).circulant


def test_everyone_with_everyone_is_never_listed_edge_by_edge() -> None:
    mixing = rounds_of("complete", 2000)[0]
    assert mixing.complete
    assert mixing.peer_weights.size < 2000


# Closed forms


@pytest.mark.parametrize("size", [4, 8, 64])
def test_the_directed_ring_has_beta_cos_pi_over_n(size: int) -> None:
    found = study(rounds_of("ring", size))
    assert found.beta == pytest.approx(math.cos(math.pi / size), abs=1e-14)
    assert found.consensus == math.ceil(math.log(0.01) / math.log(math.cos(math.pi / size)))


@pytest.mark.parametrize("size", [8, 12, 64, 1024])
def test_the_exponential_graph_has_beta_by_its_degree(size: int) -> None:
    degree = math.ceil(math.log2(size))
    assert study(rounds_of("exponential", size)).beta == pytest.approx((degree - 1) / (degree + 1))


def test_the_complete_graph_and_the_one_peer_one_average_exactly() -> None:
    assert study(rounds_of("complete", 7)) == Spectrum(0.0, True, 0.0, 0, 1, True, 1)
    assert study(rounds_of("one-peer-exponential", 16)).exactly_after == 4
    assert study(rounds_of("one-peer-exponential", 6)).exactly_after is None
    assert study(rounds_of("bipartite-exponential", 16)).exactly_after == 5


def test_the_star_by_metropolis_weights() -> None:
    # Leaves at 1/n keep 1 - 1/n of any difference between them.
    assert study(rounds_of("star", 9)).beta == pytest.approx(8 / 9)
    found = study(rounds_of("star", 4096))
    assert found.beta == pytest.approx(4095 / 4096, abs=1e-12)
    assert found.converged


def test_the_torus_by_its_cosines() -> None:
    wave = 1 / 5 + 2 / 5 * (1 + math.cos(2 * math.pi / 8))
    assert study(rounds_of("torus", 64)).beta == pytest.approx(wave)


def test_learners_that_never_meet_never_agree() -> None:
    found = study(rounds_of("none", 6))
    assert (found.beta, found.consensus, found.exactly_after) == (1.0, None, None)


# Three ways to the same numbers


@pytest.mark.parametrize(("name", "size"), [*GRAPHS, ("torus", 144), ("star", 200)])
def test_modes_matrices_and_lanczos_agree(name: str, size: int) -> None:
    rounds = rounds_of(name, size)
    ways = [Dense(rounds), Sparse(rounds)] + ([ByModes(rounds)] if rounds.circulant else [])
    for count, start in ((1, 0), (rounds.period or 3, 0), (7, 1)):
        expected = left(rounds.topology, count, start)
        for way in ways:
            value = way.after(count, start).value
            assert value == pytest.approx(expected, rel=1e-6, abs=1e-9), type(way).__name__


def test_lanczos_finds_a_singular_value_that_no_symmetric_matrix_has() -> None:
    matrix = np.random.default_rng(0).random((60, 60)) / 60
    centre = np.eye(60) - 1 / 60
    found = largest_singular_value(lambda v: matrix @ v, lambda v: matrix.T @ v, 60)
    assert found.converged
    assert found.value == pytest.approx(np.linalg.norm(centre @ matrix @ centre, 2), rel=1e-9)


def test_lanczos_says_when_it_has_not_converged() -> None:
    rounds = rounds_of("bidirectional-ring", 2000)
    mixing = rounds[0]
    found = largest_singular_value(mixing.apply, mixing.apply_transposed, 2000, steps=20)
    assert not found.converged
    assert found.value < (study(rounds).beta or 0.0)


def test_arnoldi_finds_the_eigenvalue_of_a_directed_graph() -> None:
    matrix = np.random.default_rng(0).random((50, 50)) ** 4
    matrix /= matrix.sum(axis=1, keepdims=True)
    expected = np.sort(np.abs(np.linalg.eigvals(matrix)))[-2]
    assert largest_eigenvalue(lambda v: matrix @ v, 50).value == pytest.approx(expected)


# Consensus


@pytest.mark.parametrize(("name", "size"), GRAPHS)
def test_rounds_to_one_percent_are_the_first_that_leave_so_little(name: str, size: int) -> None:
    rounds = rounds_of(name, size)
    found = study(rounds)
    assert found.consensus is not None
    assert found.consensus_exact
    assert left(rounds.topology, found.consensus) <= 0.01
    assert left(rounds.topology, found.consensus - 1) > 0.01


def test_where_the_mean_is_not_kept_the_rate_is_an_eigenvalue() -> None:
    rounds = rounds_of("star", 9, "uniform")
    found = study(rounds)
    moduli = np.sort(np.abs(np.linalg.eigvals(literal(rounds.topology, 0))))
    assert found.rate == pytest.approx(moduli[-2])
    assert not found.consensus_exact
    assert study(Rounds(rounds.topology), Sparse(rounds)).rate == pytest.approx(moduli[-2])


@pytest.mark.real
def test_the_rate_of_random_pairs_is_near_that_of_the_mean_square() -> None:
    # A pair halves what it has between it, so a matching halves the sum of squares: 0.707.
    found = study(rounds_of("random-pairs", 600))
    assert found.rate == pytest.approx(math.sqrt(0.5), abs=0.005)
    assert found.measured_rounds > 100


# The ball


def literal_walk(
    topology: Topology, delay: int, updates: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The rule with messages `delay` rounds old, by dense matrices; updates [rounds, n, m]."""
    values: NDArray[np.float64] = np.zeros_like(updates[0])
    sent: list[NDArray[np.float64]] = []
    for round_, update in enumerate(updates):
        sent.append(values + update)
        matrix = literal(topology, round_)
        own = np.diag(np.diag(matrix))
        values = own @ sent[-1]
        if round_ >= delay:
            values += (matrix - own) @ sent[round_ - delay]
    return values


@pytest.mark.parametrize("delay", [0, 1, 3])
@pytest.mark.parametrize(
    ("name", "size"), [("ring", 5), ("star", 6), ("one-peer-exponential", 6), ("complete", 70)]
)
def test_the_simulation_is_the_rule(name: str, size: int, delay: int) -> None:
    count, norm = 70, 0.5
    rounds = rounds_of(name, size)
    walk = Walk(rounds, norm, delay, seed=4)
    for _ in range(count):
        walk.step()
    random = np.random.default_rng(4)
    draws = [random.standard_normal((size, 64), np.float32) for _ in range(count)]
    updates = np.array(draws, dtype=np.float64) * norm / 8.0
    expected = literal_walk(rounds.topology, delay, updates)
    expected -= expected.mean(axis=0)
    assert np.allclose(walk.values - walk.values.mean(axis=0), expected, atol=1e-5)
    assert walk.spread() == pytest.approx((expected**2).sum(axis=1).mean(), rel=1e-4)
    apart = np.linalg.norm(expected[:, None] - expected[None], axis=2)
    assert walk.pair() == pytest.approx(apart.max(), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize(
    ("name", "size"), [("ring", 8), ("one-peer-exponential", 8), ("torus", 12), ("star", 6)]
)
def test_the_exact_ball_is_what_a_long_walk_shows(name: str, size: int) -> None:
    rounds = rounds_of(name, size)
    contraction = contraction_of(rounds)
    found = forecast(rounds, study(rounds, contraction), contraction, 0.2)
    assert found.method == "exact"
    walk = Walk(rounds, 0.2, 0, seed=1)
    squares = []
    for round_ in range(2400):
        walk.step()
        if round_ >= 400:
            squares.append(walk.spread())
    # 2,000 rounds of 64 directions: their mean is within 2 % (three standard errors and more).
    assert float(np.sqrt(np.mean(squares))) == pytest.approx(found.radius, rel=0.02)


@pytest.mark.real
@pytest.mark.parametrize(("name", "size"), [g for g in GRAPHS if g[0] != "random-pairs"])
def test_the_exact_ball_is_the_sum_over_all_updates(name: str, size: int) -> None:
    rounds = rounds_of(name, size)
    period = rounds.period or 1
    centre = np.eye(size) - 1 / size
    covariance = np.zeros((size, size))
    radii, pairs = [], []
    for round_ in range(400 * period if period < 5 else 40 * period):
        mixing = centre @ literal(rounds.topology, round_ % period)
        covariance = mixing @ (covariance + np.eye(size)) @ mixing.T
        own = np.diag(covariance)
        radii.append(own.mean())
        pairs.append((own[:, None] + own - 2 * covariance).max())
    expected = math.sqrt(np.mean(radii[-period:])), math.sqrt(max(pairs[-period:]))
    assert by_covariance(rounds) == pytest.approx(expected, abs=1e-6)
    if rounds.circulant:
        assert by_modes(rounds) == pytest.approx(expected, abs=1e-6)


def test_the_worst_radius_is_that_of_the_paper_and_holds() -> None:
    rounds = rounds_of("ring", 8)
    beta = math.cos(math.pi / 8)
    found = worst_radius(rounds, ByModes(rounds), 0.1, 0)
    assert found == pytest.approx(0.1 * beta / (1 - beta))
    # Updates along the slowest mode, turned with it in every round, reach the bound.
    turn = np.exp(2j * np.pi * np.arange(8) / 8)
    factor = (1 + np.exp(-2j * np.pi / 8)) / 2
    value, total = 0.1 * turn, np.zeros(8, dtype=complex)
    for _ in range(400):
        total = factor * (total + value)
        value = value * factor / abs(factor)
    assert float(np.sqrt((np.abs(total) ** 2).mean())) == pytest.approx(found, rel=1e-6)


@pytest.mark.parametrize("size", [6, 16, pytest.param(24, marks=pytest.mark.slow)])
def test_the_worst_radius_of_a_period_sums_what_past_rounds_leave(size: int) -> None:
    rounds = rounds_of("one-peer-exponential", size)
    period = rounds.period or 1
    bounds, sums = [], []
    for end in range(20 * period, 21 * period):
        parts = [left(rounds.topology, count, end - count) for count in range(1, 12 * period)]
        bounds.append(sum(parts[:period]) / (1 - parts[period - 1]))
        sums.append(sum(parts))
    found = worst_radius(rounds, ByModes(rounds), 1.0, 0)
    assert found == pytest.approx(max(bounds))
    assert found is not None
    assert found >= max(sums) - 1e-9


def test_the_worst_radius_is_known_only_where_it_holds() -> None:
    rounds = rounds_of("one-peer-exponential", 8)
    exact = worst_radius(rounds, ByModes(rounds), 1.0, 0)
    pairs_of_rounds = rounds_of("bipartite-exponential", 8)
    crude = worst_radius(pairs_of_rounds, Dense(pairs_of_rounds), 1.0, 0)
    assert exact is not None
    assert crude is not None
    assert exact <= crude
    assert worst_radius(rounds, ByModes(rounds), 1.0, 2) is None
    star = rounds_of("star", 6, "uniform")
    assert worst_radius(star, Dense(star), 1.0, 0) is None
    pairs = rounds_of("random-pairs", 6)
    assert worst_radius(pairs, Dense(pairs), 1.0, 0) is None
    apart = rounds_of("none", 6)
    assert worst_radius(apart, ByModes(apart), 1.0, 0) is None


def test_a_ball_that_is_still_growing_is_said_to_be() -> None:
    apart = rounds_of("none", 200)
    found = simulate(apart, study(apart), 1.0, 0)
    assert not found.settled
    # Nobody averages: independent updates add up as their squares do.
    assert found.radius == pytest.approx(math.sqrt(found.after * 0.99 * (1 - 1 / 200)), rel=0.02)
    ring = rounds_of("ring", 8)
    assert simulate(ring, study(ring), 1.0, 2).settled


def test_delays_widen_the_ball_of_a_ring() -> None:
    rounds = rounds_of("ring", 8)
    found = study(rounds)
    radii = [simulate(rounds, found, 1.0, delay).radius for delay in (0, 2, 5)]
    assert radii == sorted(radii)


def test_messages_are_counted_over_all_rounds() -> None:
    cost = traffic(rounds_of("exponential", 8), 1000, 2.0)
    assert (cost.messages, cost.message_bytes, cost.most_received) == (24.0, 4000, 3)
    assert cost.bytes_per_s == 2 * 24 * 4000
    assert traffic(rounds_of("bipartite-exponential", 7), 1, 1.0).messages == 6.0
