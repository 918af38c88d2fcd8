"""Frames of the wire: what is packed comes back, and whatever is not of this run is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from galamp.gossip.cluster.rounding import Rounding
from galamp.gossip.cluster.wire import (
    BF16,
    HEADER_BYTES,
    Frame,
    FrameError,
    WireIdentity,
    bit_sum,
    header_of,
    pack,
    unpack,
)
from galamp.gossip.vectors import checksum_of

IDENTITY = WireIdentity(run=7, model=2**64 - 1, size=5, ranks=4)
VECTOR = np.array([1.0, -2.5, 0.0, 3e-38, 1e30], np.float32)
HALF = IDENTITY._replace(wire=BF16)
FULL_HEX = (
    "47414c41020000000300000014000000000000000700000000000000ffffffffffffffff020000000000000009"
    "000000000000000100000000000000080000000000000007000000000000000000000000000080b0480d720000"
    "000000000000000000000000803f000020c000000000e6552301caf24971"
)
"""Frames of `VECTOR` as every version of this format has them on the wire."""
HALF_HEX = (
    "47414c4102000000030000000a000000000000000700000000000000ffffffffffffffff020000000000000009"
    "0000000000000001000000000000000800000000000000070000000000000001000000000000000000"
    "0d7200000000e7e3da50116c6a45803f20c0000023014a71"
)
WORD = st.integers(0, 2**62)


def framed(vector: np.ndarray = VECTOR) -> bytearray:
    frame = Frame(3, 2, 1, 9, 8, 7, 2**63, bit_sum(vector))
    return pack(frame, vector, IDENTITY)


@given(WORD, WORD, WORD, WORD, WORD, st.integers(0, 2**64 - 1))
def test_what_is_packed_comes_back(
    epoch: int, incarnation: int, number: int, round_: int, version: int, lanes: int
) -> None:
    frame = Frame(3, epoch, incarnation, number, round_, version, lanes, bit_sum(VECTOR))
    packed = pack(frame, VECTOR, IDENTITY)
    found, vector = unpack(bytes(packed), IDENTITY)
    assert found == header_of(packed, IDENTITY) == frame
    assert (vector == VECTOR).all()
    assert len(packed) == IDENTITY.frame_bytes == HEADER_BYTES + 20


def test_frames_are_the_same_bytes_in_every_version_of_the_format() -> None:
    assert framed().hex() == FULL_HEX
    rounded = Rounding(5).encode(VECTOR)
    frame = Frame(3, 2, 1, 9, 8, 7, 1, bit_sum(rounded.vector), rounded.distance)
    assert pack(frame, rounded.halves, HALF).hex() == HALF_HEX


def test_half_the_bytes_carry_what_was_rounded() -> None:
    rounded = Rounding(5).encode(VECTOR)
    frame = Frame(3, 2, 1, 9, 8, 7, 1, bit_sum(rounded.vector), rounded.distance)
    packed = pack(frame, rounded.halves, HALF)
    assert len(packed) == HALF.frame_bytes == HEADER_BYTES + 10
    found, vector = unpack(bytes(packed), HALF)
    assert found == frame
    assert (vector == rounded.vector).all()
    with pytest.raises(FrameError, match="10 bytes, of 10 that it tells of, expected 20"):
        unpack(bytes(packed), IDENTITY)
    packed[-1] ^= 64
    with pytest.raises(FrameError, match="checksum"):
        unpack(packed, HALF)
    for wrong in (-1.0, math.nan, math.inf):
        with pytest.raises(FrameError, match="expected a length"):
            header_of(pack(frame._replace(rounded=wrong), rounded.halves, HALF), HALF)
    with pytest.raises(FrameError, match="expected a length"):
        header_of(pack(frame, VECTOR, IDENTITY), IDENTITY)


def test_its_checksum_is_the_one_that_learners_put_on_what_they_publish() -> None:
    for values in (VECTOR, np.random.default_rng(1).normal(size=1000).astype(np.float32)):
        assert bit_sum(values) == checksum_of([torch.from_numpy(values)])


@pytest.mark.parametrize(
    ("wrong", "identity"),
    [
        ("of run 0000000000000007, expected 0000000000000008", IDENTITY._replace(run=8)),
        ("of model ffffffffffffffff", IDENTITY._replace(model=1)),
        ("20 bytes, of 20 that it tells of, expected 24", IDENTITY._replace(size=6)),
        ("learner 3, publication 9: out of range", IDENTITY._replace(ranks=3)),
    ],
)
def test_frames_of_another_run_are_refused(wrong: str, identity: WireIdentity) -> None:
    with pytest.raises(FrameError, match=wrong):
        header_of(framed(), identity)


def test_what_is_not_finite_is_refused() -> None:
    for value in (np.nan, np.inf, -np.inf):
        with pytest.raises(FrameError, match="not finite"):
            unpack(framed(np.array([value, 0, 0, 0, 0], np.float32)), IDENTITY)


def test_finite_numbers_are_taken_whatever_their_sum() -> None:
    for values in ((3e38,) * 5, (3e38, 3e38, -3e38, -3e38, -3e38)):
        vector = np.array(values, np.float32)
        assert (unpack(framed(vector), IDENTITY)[1] == vector).all()


@given(st.integers(0, 8 * IDENTITY.frame_bytes - 1))
def test_no_flipped_bit_alters_a_vector(bit: int) -> None:
    """A bit of the header may give another header, if it is one; never another vector."""
    packed = framed()
    packed[bit // 8] ^= 1 << bit % 8
    try:
        frame, vector = unpack(packed, IDENTITY)
    except FrameError:
        return
    assert bit // 8 < HEADER_BYTES
    assert (vector == VECTOR).all()
    assert frame.rank < IDENTITY.ranks


@given(st.binary(max_size=300), st.integers(0, HEADER_BYTES + 40))
def test_random_and_truncated_bytes_are_refused(noise: bytes, length: int) -> None:
    for packed in (noise, b"GALA" + noise, bytes(framed())[:length], bytes(framed()) + noise):
        if packed == bytes(framed()):
            continue
        with pytest.raises(FrameError):
            unpack(packed, IDENTITY)
