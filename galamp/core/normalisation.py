"""What normalisers keep: the statistics of a learner's own data, and the scales of its network.

    Own of every learner --Known: the newest of each--> pooled --> Scales: means and divisors
    Saved = Own + Scales --packed--> shared memory, checkpoint --unpacked--> Saved

A network is expressed in its scales while a rollout is played and learned from: observations come
as (x - mean) / std, values are in units of `return_std`. At rest, when parameters are published,
mixed or saved, they are in raw scales, of observations as they come and values in score, which are
the same for all. No torch here: evaluation reads it first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from galamp.core.config import EnvironmentConfig
from galamp.core.moments import Floats, Moments

OBSERVATION_CLIP = REWARD_CLIP = 10.0
"""Normalised observations and rewards are clipped to +- this, as in CleanRL and
Stable-Baselines3."""
VARIANCE_EPS = 1e-8
"""Added to a variance, as in CleanRL and Stable-Baselines3."""
MIN_STD_SHARE = 1e-3
"""Least std of an observation's number, as a share of its mean: raw parameters in float32 could not
hold the mean of one that varies less."""
WARM_UP = 1000
"""Observations of all learners before the first update: the first scales are taken from them."""


@dataclass(frozen=True)
class NormaliserSpec:
    """What is normalised: N numbers of an observation (0: none), rewards or not, by `gamma`."""

    inputs: int
    rewards: bool
    gamma: float = 0.99

    @property
    def returns(self) -> int:
        """Number of the returns' statistics: 1 or 0."""
        return int(self.rewards)

    @property
    def own_size(self) -> int:
        """Numbers of a learner's own moments, as it publishes them."""
        return 2 + 2 * (self.inputs + self.returns)

    @property
    def saved_size(self) -> int:
        """Numbers of all that a learner saves."""
        return self.own_size + 1 + 2 * self.inputs + 1


def normaliser_spec(
    config: EnvironmentConfig, observation_shape: Sequence[int], gamma: float = 0.99
) -> NormaliserSpec | None:
    """Return what the settings ask for; None if nothing is normalised."""
    if not (config.norm_obs or config.norm_reward):
        return None
    inputs = math.prod(observation_shape) if config.norm_obs else 0
    return NormaliserSpec(inputs, config.norm_reward, gamma)


@dataclass(frozen=True, eq=False)
class Own:
    """Moments of one learner's own valid observations [N], and of its discounted returns [1].

    Those of what is not normalised are of vectors [0].
    """

    observations: Moments
    returns: Moments

    @classmethod
    def none(cls, spec: NormaliserSpec) -> Own:
        """Return the moments of nothing."""
        return cls(Moments.none(spec.inputs), Moments.none(spec.returns))

    @classmethod
    def unpacked(cls, packed: Floats, spec: NormaliserSpec) -> Own:
        """Return what `packed` [own_size] has made of it."""
        end = 1 + 2 * spec.inputs
        return cls(Moments.unpacked(packed[:end]), Moments.unpacked(packed[end:]))

    def packed(self) -> Floats:
        """Return all as one vector [own_size]."""
        return np.concatenate((self.observations.packed(), self.returns.packed()))

    def merged(self, other: Own) -> Own:
        """Return the moments of both learners' data."""
        return Own(self.observations.merged(other.observations), self.returns.merged(other.returns))

    @property
    def count(self) -> float:
        """Number of observations, or of returns, whichever is counted."""
        return max(self.observations.count, self.returns.count)


class Known:
    """The newest moments of every rank that a learner has heard of.

    Each learner counts its own data only, so a rank's moments grow, and the newest hold all earlier
    ones. So in what is pooled each observation is once, however often and in whatever order moments
    come, and whichever are lost (a grow-only map).
    """

    def __init__(self, spec: NormaliserSpec) -> None:
        """Know of nobody's data."""
        self._nothing = Own.none(spec)
        self._newest: dict[int, Own] = {}

    def of(self, rank: int) -> Own:
        """Return the moments of a rank as far as they are known."""
        return self._newest.get(rank, self._nothing)

    def hear(self, rank: int, own: Own) -> None:
        """Take the moments of a rank, unless newer ones are known."""
        if own.count >= self.of(rank).count:
            self._newest[rank] = own

    def pooled(self) -> Own:
        """Return the moments of all, merged in order of rank: equal ones give equal bits."""
        total = self._nothing
        for rank in sorted(self._newest):
            total = total.merged(self._newest[rank])
        return total


@dataclass(frozen=True, eq=False)
class Scales:
    """Scales that a network is expressed in; float64 numbers that float32 holds exactly.

    Attributes:
        chosen: whether there were enough data to choose it; all is 0 and 1 before.
        mean: [N], subtracted from observations.
        std: [N], above 0, observations are divided by it.
        return_std: above 0, rewards and so values are divided by it.
    """

    chosen: bool
    mean: Floats
    std: Floats
    return_std: float

    @classmethod
    def raw(cls, inputs: int) -> Scales:
        """Return raw scales: observations as they come, values in score."""
        return cls(False, np.zeros(inputs), np.ones(inputs), 1.0)

    @classmethod
    def of(cls, total: Own) -> Scales:
        """Return the scales that the moments of all learners give.

        Numbers that have never varied are divided by 1. So are rewards, as long as returns have
        not.
        """
        inputs = len(total.observations.mean)
        if total.count < WARM_UP:
            return cls.raw(inputs)
        mean = _rounded(total.observations.mean)
        variance = total.observations.variance
        std = np.maximum(np.sqrt(variance + VARIANCE_EPS), MIN_STD_SHARE * np.abs(mean))
        std = _rounded(np.where(variance > 0.0, std, 1.0))
        varies = bool(total.returns.variance.sum() > 0.0)
        return_std = float(_rounded(np.sqrt(total.returns.variance.sum() + VARIANCE_EPS)))
        return cls(True, mean, std, return_std if varies else 1.0)

    @classmethod
    def unpacked(cls, packed: Floats) -> Scales:
        """Return what `packed` [2 + 2N] has made of it."""
        inputs = len(packed) // 2 - 1
        mean, std = packed[2 : 2 + inputs].copy(), packed[2 + inputs :].copy()
        return cls(bool(packed[0] > 0.0), mean, std, float(packed[1]))

    def packed(self) -> Floats:
        """Return all as one vector [2 + 2N]."""
        return np.concatenate(([float(self.chosen), self.return_std], self.mean, self.std))


@dataclass(frozen=True, eq=False)
class Saved:
    """What one learner saves.

    Attributes:
        own: the moments of its own data.
        scales: those of its last rollout.
        adopted: whether its network is another learner's, raw, though no scales are chosen yet;
            packed as -1 in the place of `Scales.chosen`.
    """

    own: Own
    scales: Scales
    adopted: bool = False

    @classmethod
    def unpacked(cls, packed: Floats, spec: NormaliserSpec) -> Saved:
        """Return what `packed` [saved_size] has made of it.

        Raises:
            ValueError: it has another size, or numbers that no learner saves.
        """
        if packed.size != spec.saved_size:
            raise ValueError(f"{packed.size} numbers, expected {spec.saved_size}")
        own = Own.unpacked(packed[: spec.own_size], spec)
        scales = Scales.unpacked(packed[spec.own_size :])
        saved = cls(own, scales, adopted=bool(packed[spec.own_size] < 0.0))
        sums = (own.observations.count, own.returns.count, own.observations.m2, own.returns.m2)
        divisors = (saved.scales.std, saved.scales.return_std)
        if not (
            np.isfinite(packed).all()
            and all(bool(np.all(np.asarray(each) >= 0.0)) for each in sums)
            and all(bool(np.all(np.asarray(each) > 0.0)) for each in divisors)
        ):
            raise ValueError("numbers that are no statistics")
        return saved

    def packed(self) -> Floats:
        """Return all as one vector [saved_size]."""
        scales = self.scales.packed()
        if self.adopted:
            scales[0] = -1.0
        return np.concatenate((self.own.packed(), scales))


def scales_of_all(saved: Sequence[Saved], spec: NormaliserSpec) -> Scales:
    """Return the scales of the pooled statistics of these learners."""
    known = Known(spec)
    for rank, each in enumerate(saved):
        known.hear(rank, each.own)
    return Scales.of(known.pooled())


NORMALISER_GAUGES = {
    "norm_count": "observations, or rewards, in the statistics of all learners",
    "return_std": "standard deviation of the discounted returns, which rewards are divided by",
}
"""What learners with a normaliser report besides their algorithm's gauges."""


def _rounded(values: Floats) -> Floats:
    """Return the values that float32 can hold, so that networks compute with the very same."""
    return np.asarray(values, np.float32).astype(np.float64)
