"""Lengths of updates: whatever is measured, it is not too short, and hardly too long."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from galamp.gossip.cluster.lengths import CHUNK, distance_at_most
from galamp.gossip.cluster.wire import Vector

SIZE = 3 * CHUNK + 5
DICE = np.random.default_rng(11)
NUMBERS = st.floats(width=32, allow_nan=False, allow_infinity=False)


def measured(one: Vector, other: Vector) -> float:
    return distance_at_most(one, other, np.empty(CHUNK, np.float32))


def exact(one: Vector, other: Vector) -> float:
    """The distance of vectors of any finite numbers, in numbers that are not rounded."""
    pairs = zip(one.tolist(), other.tolist(), strict=True)
    square = sum(((Fraction(a) - Fraction(b)) ** 2 for a, b in pairs), Fraction())
    bits = 2 * 400  # digits of the root after the point
    return float(Fraction(math.isqrt(int(square * 2**bits)), 2 ** (bits // 2)))


def is_tight(found: float, true: float) -> bool:
    return true <= found <= true * (1 + 2e-5)


def full(value: float) -> Vector:
    return np.full(SIZE, value, np.float32)


def normal(scale: float) -> Vector:
    return (DICE.normal(size=SIZE) * scale).astype(np.float32)


def mixed_scales() -> Vector:
    exponents = DICE.integers(-140, 60, SIZE)
    vector: Vector = np.ldexp(DICE.normal(size=SIZE), exponents).astype(np.float32)
    return vector


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (normal(1.0), normal(1.0)),
        *((full(value), full(0.0)) for value in (0.1, 1 / 3, 0.7, 1.0, 1.2345678, 3e-9, 7e11)),
        (full(1e8), full(1e8 + 8)),  # tiny differences of large numbers
        (normal(1e6), normal(1e6)),
        (full(1 + 2**-23), full(1.0)),
        (mixed_scales(), mixed_scales()),
        (full(1e-12), full(0.0)),  # squares near the least normal number
        (full(1e-21), full(0.0)),  # and below it
        (full(1e-30), full(0.0)),
        (full(1e-42), full(2e-45)),  # below it themselves
        (full(2e19), full(-1e19)),  # squares beyond the greatest number
        (full(3e38), full(-3e38)),  # differences beyond it
        (full(0.5), full(0.5)),
    ],
)
def test_a_length_is_never_too_short_and_hardly_too_long(one: Vector, other: Vector) -> None:
    wide = one.astype(np.float64) - other
    true = math.sqrt(math.fsum((wide * 2.0**200) ** 2)) / 2.0**200 if wide.any() else 0.0
    assert is_tight(measured(one, other), true)
    assert measured(other, one) == measured(one, other)


def test_one_number_that_differs_is_found_wherever_it_is() -> None:
    for at in (0, CHUNK - 1, CHUNK, SIZE - 1):
        one = full(1.0)
        one[at] = 1.5
        assert is_tight(measured(one, full(1.0)), 0.5)


@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=20))
def test_of_any_finite_numbers(pairs: list[tuple[float, float]]) -> None:
    one, other = (np.array(values, np.float32) for values in zip(*pairs, strict=True))
    assert is_tight(measured(one, other), exact(one, other))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_it_is_finite_only_if_both_vectors_are(value: float) -> None:
    for at in (0, CHUNK, SIZE - 1):
        bad = full(1.0)
        bad[at] = value
        for one, other in ((bad, full(1.0)), (full(1.0), bad), (bad, bad)):
            assert not math.isfinite(measured(one, other))
