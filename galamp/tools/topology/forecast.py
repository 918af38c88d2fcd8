"""Forecast for given updates: distances between learners, and the cost of their messages.

    Rounds, update norm, delay --forecast--> Ball (distances, and how they were found)
    Rounds, parameters, rate   --traffic---> Traffic (messages and bytes)

Pure numpy. The rule, in lock-step, from equal parameters: in round k learner i adds an update
u_i(k) of norm L, then averages y = x + u with its in-peers by row i of P_k, with messages `delay`
rounds old (its own vector never is). Updates are taken as independent of one another and without a
preferred direction; where they agree, learners are closer together than this. Distances are those
after the averaging.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from galamp.gossip.cluster.wire import FLOAT32, NUMBER_BYTES
from galamp.tools.topology.krylov import centred
from galamp.tools.topology.mixing_matrices import Floats, Mixing, Rounds
from galamp.tools.topology.spectrum import MAX_DENSE, ByModes, Contraction, Spectrum

DIRECTIONS = 64
WORK = 8e8
"""Numbers that a simulation may touch: about two seconds on one core."""
ROUND_WORK = 60_000
"""Overhead of a round, in numbers touched."""
MEASURED = 20_000
"""Minimum of learners times rounds over which a settled ball is averaged."""
MIN_SIMULATED, MAX_SIMULATED = 50, 10_000
MAX_APART = 1000
"""Rounds for learners that never agree, whose ball grows for ever."""
MAX_PHASES = 64
ONCE_IN = 64
"""Rounds after which the common mean is subtracted, so that float32 keeps the differences."""
BLOCK = 1024
BYTES_PER_PARAMETER = NUMBER_BYTES[FLOAT32]


@dataclass(frozen=True)
class Ball:
    """Distances between learners, in the unit of the update norm.

    Attributes:
        method: `exact` or `simulated`.
        radius: root mean square over learners of the distance to their mean.
        pair: exact: the greatest root-mean-square distance between two learners; simulated: the
            greatest distance between two learners at the end.
        settled: whether `radius` is its final value; otherwise the ball is still growing.
        after: rounds that were simulated; 0 where the value is exact.
        worst: upper bound of the root mean square for any updates of at most this norm; None where
            no such bound is known.
    """

    method: str
    radius: float
    pair: float
    settled: bool
    after: int
    worst: float | None


@dataclass(frozen=True)
class Traffic:
    """Messages and bytes: per round (of all learners), and per second at a given rate."""

    messages: float
    message_bytes: int
    most_received: int
    rounds_per_s: float
    leaving: float = 0.0
    """Messages that a machine sends to others in a round, on average."""
    wire_bytes: int = 0
    """Bytes of a message between machines."""

    @property
    def bytes(self) -> float:
        """Bytes that all learners send in a round."""
        return self.messages * self.message_bytes

    @property
    def bytes_per_s(self) -> float:
        """Bytes that all learners send in a second."""
        return self.bytes * self.rounds_per_s

    @property
    def bytes_per_s_per_node(self) -> float:
        """Bytes that a machine sends to others in a second."""
        return self.leaving * self.wire_bytes * self.rounds_per_s


def traffic(
    rounds: Rounds, parameters: int, rounds_per_s: float, nodes: int = 1, wire: str = FLOAT32
) -> Traffic:
    """Return the messages and bytes of a round, averaged over a period.

    On so many machines, between which numbers go as `wire` says.
    """
    degrees = np.array([mixing.degrees for mixing in rounds.union()])
    return Traffic(
        messages=float(degrees.sum(axis=1).mean()),
        message_bytes=BYTES_PER_PARAMETER * parameters,
        most_received=int(degrees.max()),
        rounds_per_s=rounds_per_s,
        leaving=_leaving(rounds, nodes),
        wire_bytes=NUMBER_BYTES[wire] * parameters,
    )


def _leaving(rounds: Rounds, nodes: int) -> float:
    """Return the messages that one of `nodes` machines sends to others in one of the rounds."""
    graph, lanes = rounds.topology, rounds.size // nodes
    if nodes == 1:
        return 0.0
    crossing = sum(
        rank // lanes != peer // lanes
        for round_ in range(rounds.shown)
        for rank in range(rounds.size)
        for peer in graph.out_peers(rank, round_)
    )
    return crossing / rounds.shown / nodes


def forecast(
    rounds: Rounds, spectrum: Spectrum, contraction: Contraction, norm: float, delay: int = 0
) -> Ball:
    """Return the distances between learners if every update has norm `norm`."""
    if spectrum.consensus is None or delay or not _exactly_known(rounds):
        return simulate(
            rounds, spectrum, norm, delay, worst_radius(rounds, contraction, norm, delay)
        )
    radius, pair = by_modes(rounds) if rounds.circulant else by_covariance(rounds)
    worst = worst_radius(rounds, contraction, norm, delay)
    return Ball("exact", norm * radius, norm * pair, True, 0, worst)


def _exactly_known(rounds: Rounds) -> bool:
    return rounds.circulant or (rounds.period is not None and rounds.size <= MAX_DENSE)


def by_modes(rounds: Rounds) -> tuple[float, float]:
    """Return the radius and the greatest pair distance for L = 1 and circulant rounds.

    The variance of every Fourier mode follows v <- |lambda|^2 (v + 1) by itself; its fixed point
    over a period is that of an affine map. The covariance of learners d apart is the inverse
    transform of the variances, so the greatest pair distance is found exactly, too.
    """
    squares = ByModes(rounds).moduli ** 2  # [period, n - 1]
    scale, shift = np.ones(squares.shape[1]), np.zeros(squares.shape[1])
    for square in squares:
        scale, shift = square * scale, square * (shift + 1.0)
    variance = shift / (1.0 - scale)
    total, pair = 0.0, 0.0
    for square in squares:
        variance = square * (variance + 1.0)
        total += float(variance.mean()) * (len(variance) / (len(variance) + 1))
        modes = np.concatenate(([0.0], variance)).reshape(rounds[0].shape)
        covariance = np.fft.ifft2(modes).real
        pair = max(pair, float(2.0 * (covariance[0, 0] - covariance.min())))
    return float(np.sqrt(total / len(squares))), float(np.sqrt(pair))


def by_covariance(rounds: Rounds) -> tuple[float, float]:
    """Return the radius and the greatest pair distance for L = 1 and a period of matrices.

    The learners' covariance follows S <- C P (S + I) P^T C, C = I - J. Its fixed point over a
    period, A S A^T + B, is summed by doubling: S <- S + A S A^T, A <- A A (Smith 1968).
    """
    size, period = rounds.size, rounds.period or 1
    power, covariance = centred(np.eye(size)), np.zeros((size, size))
    for round_ in range(period):
        power = centred(rounds[round_].apply(power))
        covariance = _next(rounds[round_], covariance)
    while np.abs(power).max() > 1e-9:
        covariance = covariance + power @ covariance @ power.T
        power = power @ power
    total, pair = 0.0, 0.0
    for round_ in range(period):
        covariance = _next(rounds[round_], covariance)
        own = np.diag(covariance)
        total += max(float(own.mean()), 0.0)  # rounding may leave less than nothing
        pair = max(pair, float((own[:, None] + own - 2.0 * covariance).max()))
    return float(np.sqrt(total / period)), float(np.sqrt(pair))


def _next(mixing: Mixing, covariance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return C P (S + I) P^T C."""
    half = centred(mixing.apply(covariance + np.eye(mixing.size)))
    return np.asarray(centred(mixing.apply(half.T)))


def worst_radius(rounds: Rounds, contraction: Contraction, norm: float, delay: int) -> float | None:
    """Return the bound on the root-mean-square distance for any updates of norm <= `norm`.

    That of all learners together is at most sqrt(n) `norm` (the Frobenius norm), and one round
    leaves beta of it: sqrt(n) L beta / (1 - beta) in all, L beta / (1 - beta) per learner. Over a
    period p the norms of 1, 2, ..., p rounds are summed, over 1 - that of p.
    """
    period = rounds.period
    if period is None or delay or not rounds.topology.doubly_stochastic:
        return None
    worst = 0.0
    # The products of a period that begins elsewhere differ in norm, unless the rounds commute.
    for end in range(period if period <= MAX_PHASES else 0):
        whole = contraction.after(period, end)
        if not whole.converged or whole.value >= 1.0 - 1e-13:
            return None
        parts = float(period - 1)
        if rounds.circulant:
            starts = (end - np.arange(1, period)) % period
            counts = range(1, period)
            parts = sum(
                contraction.after(c, int(s)).value for c, s in zip(counts, starts, strict=True)
            )
        worst = max(worst, (parts + whole.value) / (1.0 - whole.value))
    return norm * worst if period <= MAX_PHASES else None


def simulate(
    rounds: Rounds, spectrum: Spectrum, norm: float, delay: int, worst: float | None = None
) -> Ball:
    """Simulate the rule with Gaussian updates in 64 directions, within the time limit."""
    until, longest = _lengths(rounds, spectrum, delay)
    fewest = min(max(MEASURED // rounds.size, 20), 400)
    settled = until is not None and until + fewest <= longest
    last, first = longest, longest - max(1, longest // 50)
    if until is not None and settled:
        last, first = min(longest, until + max(until, fewest)), until
    walk = Walk(rounds, norm, delay)
    squares = []
    for round_ in range(last):
        walk.step()
        if round_ >= first:
            squares.append(walk.spread())
    return Ball("simulated", float(np.sqrt(np.mean(squares))), walk.pair(), settled, last, worst)


def _lengths(rounds: Rounds, spectrum: Spectrum, delay: int) -> tuple[int | None, int]:
    """Return rounds until the ball has settled (None: never), and most rounds to simulate."""
    received = int(rounds[0].degrees.sum())
    if rounds[0].kernel is not None and rounds[0].complete:
        received = 8 * rounds.size  # two Fourier transforms
    touched = DIRECTIONS * (received + 4 * rounds.size) + ROUND_WORK
    longest = int(min(max(WORK / touched, MIN_SIMULATED), MAX_SIMULATED))
    if rounds.period is None:
        longest = min(longest, max(rounds.most, 2 * MIN_SIMULATED))
    if spectrum.consensus is None:
        return None, min(longest, MAX_APART)
    return spectrum.consensus * (1 + delay), longest


class Walk:
    """Simulation of the rule on `values` [n, 64], float32."""

    def __init__(self, rounds: Rounds, norm: float, delay: int, seed: int = 0) -> None:
        self.rounds, self.delay, self.round = rounds, delay, 0
        self.random = np.random.default_rng(seed)
        self.scale = np.float32(norm / np.sqrt(DIRECTIONS))
        self.values: Floats = np.zeros((rounds.size, DIRECTIONS), np.float32)
        # y of the last delay + 1 rounds; before the first all learners had the same parameters.
        self.sent = [np.zeros_like(self.values) for _ in range(delay + 1)]

    def step(self) -> None:
        """Simulate a round."""
        mixing = self.rounds[self.round]
        updated = self.random.standard_normal(self.values.shape, np.float32)
        updated *= self.scale
        updated += self.values
        self.sent[self.round % (self.delay + 1)] = updated
        heard = self.sent[(self.round + 1) % (self.delay + 1)]
        self.values = mixing.from_peers(heard)
        self.values += mixing.own.astype(np.float32)[:, None] * updated
        self.round += 1
        if self.round % ONCE_IN == 0:
            mean = self.values.mean(axis=0)
            self.values -= mean
            self.sent = [each - mean for each in self.sent]

    def spread(self) -> float:
        """Return the current mean square distance to the mean over learners."""
        difference = self.values - self.values.mean(axis=0)
        return float(np.vdot(difference, difference)) / self.rounds.size

    def pair(self) -> float:
        """Return the current greatest distance between two learners."""
        values = self.values - self.values.mean(axis=0)
        squares = np.einsum("nm,nm->n", values, values)
        most = 0.0
        for start in range(0, len(values), BLOCK):
            products = values[start : start + BLOCK] @ values.T
            apart = squares[start : start + BLOCK, None] + squares - 2.0 * products
            most = max(most, float(apart.max()))
        return float(np.sqrt(most))
