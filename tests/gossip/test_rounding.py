"""Rounding for the wire: to the nearest, what is left out comes later, and the error is told."""

from __future__ import annotations

import hashlib
import struct

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from galamp.gossip.cluster.rounding import Rounding, halved
from galamp.gossip.cluster.wire import Vector, bit_sum, widened

DICE = np.random.default_rng(5)


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=50))
def test_every_number_is_rounded_as_torch_does(bits: list[int]) -> None:
    """All bit patterns, of infinities and of what is no number, too."""
    vector = np.array(bits, np.uint32).view(np.float32)
    expected = torch.from_numpy(vector.copy()).bfloat16().float().numpy()
    found = widened(halved(vector))
    assert np.array_equal(found, expected, equal_nan=True)


def test_what_is_half_as_long_is_kept_exactly() -> None:
    vector = np.array([0.0, 1.0, -2.5, 2.0**-120, 3e38], np.float32)
    vector = widened(halved(vector))
    rounded = Rounding(5).encode(vector)
    assert np.array_equal(rounded.vector, vector)
    assert rounded.distance == 0.0


def test_what_is_told_is_the_distance_to_what_was_published() -> None:
    rounding = Rounding(70_000)
    for _ in range(3):
        vector = DICE.normal(size=70_000).astype(np.float32)
        rounded = rounding.encode(vector)
        exact = float(np.linalg.norm(vector.astype(np.float64) - rounded.vector))
        assert exact <= rounded.distance <= 1.0001 * exact
        assert 0 < exact < 2**-7 * np.linalg.norm(vector)


def test_of_parameters_and_what_goes_with_them_the_distance_of_parameters_is_told() -> None:
    """A number of steps, say, is larger than any of them, and so is its error."""
    parameters = 20_000  # in the second chunk
    vector = DICE.normal(size=70_000).astype(np.float32)
    vector[parameters:] *= 1000.0
    rounded, whole = Rounding(vector.size, parameters).encode(vector), Rounding(70_000)
    errors = vector.astype(np.float64) - rounded.vector
    exact = float(np.linalg.norm(errors[:parameters]))
    assert exact <= rounded.distance <= 1.0001 * exact
    assert np.array_equal(rounded.halves, whole.encode(vector).halves)


def test_where_only_what_goes_with_the_parameters_is_rounded_it_is_told_nevertheless() -> None:
    """Such a vector is none that was published: its checksum is another one."""
    vector = np.array([1.0, 2.0, 1.0 + 2.0**-10], np.float32)
    assert 0.0 < Rounding(3, 2).encode(vector).distance < 1e-30
    assert Rounding(3, 2).encode(np.array([1.0, 2.0, 4.0], np.float32)).distance == 0.0


def test_what_is_sent_is_the_same_in_every_version_of_the_format() -> None:
    """Of vectors of several chunks, one after the other: halves and checksums."""
    numbers = np.arange(40_000, dtype=np.uint32) * np.uint32(2654435761) >> np.uint32(9)
    vector = numbers.astype(np.float32) * np.float32(2**-22) - np.float32(1)
    sent, rounding = hashlib.sha256(), Rounding(vector.size)
    for step in range(3):
        rounded = rounding.encode(vector * np.float32(1 + step / 128))
        sent.update(rounded.halves.astype("<u2").tobytes())
        sent.update(struct.pack("<q", bit_sum(rounded.vector)))
    assert sent.hexdigest() == "c263c480ab3a73b1fb7f692e216037b7db675eb180f9c9b7e3dcf6a89a1ac051"


def test_what_is_left_out_comes_later() -> None:
    """Small steps would be rounded away for ever; with feedback what was sent follows."""
    vector, rounding = np.full(100, 1.0, np.float32), Rounding(100)
    plain, fed, meant = (np.zeros(100) for _ in range(3))
    for _ in range(200):
        vector = vector + np.float32(1e-5)
        fed += rounding.encode(vector).vector
        plain += widened(halved(vector))
        meant += vector
    assert abs(fed - meant).max() < 0.01, "up to what is left out at the end"
    assert abs(plain - meant).min() > 0.15


@pytest.mark.parametrize("before", [1.005, -1.005, 1.0e30])
def test_a_number_that_has_become_far_smaller_is_sent_as_such(before: float) -> None:
    """A mean of squares as a negative number would have no root."""
    rounding, now = Rounding(3), np.array([1e-4, -1e-4, 0.0], np.float32)
    assert rounding.encode(np.full(3, before, np.float32)).distance > 0
    for _ in range(3):
        assert rounding.encode(now).vector == pytest.approx(now, rel=2**-6, abs=0.0)


def test_a_vector_that_is_not_finite_leaves_nothing_behind() -> None:
    vector: Vector = np.array([np.nan, np.inf, -np.inf, 3.4e38, 1.0], np.float32)
    rounding = Rounding(5)
    first = rounding.encode(vector)
    assert not np.isfinite(first.vector[:4]).any()
    again = rounding.encode(np.ones(5, np.float32))
    assert np.array_equal(again.vector, np.ones(5, np.float32))
