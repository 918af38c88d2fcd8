"""Wire format: one published vector as bytes, and the checks that it passes before it is believed.

    Frame, vector --pack--> bytes --network--> unpack --Frame, vector, or a FrameError--> bridge

A frame is a header of fixed length and the vector's numbers, little-endian: float32, or bfloat16
in a run that has so agreed, see `rounding`. Nothing in it is executed, and nothing is allocated by
what it says: its length must be the model's. Pure.
"""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float32]
Halves = npt.NDArray[np.uint16]
"""Bits of bfloat16 numbers: the upper halves of those of float32."""

FLOAT32, BF16 = "float32", "bf16"
NUMBER_BYTES = {FLOAT32: 4, BF16: 2}
MAGIC, FORMAT = b"GALA", 2
PROTOCOL = 3
"""Number of what nodes tell and send: greater with every change of `Hello`, or of `FORMAT`. It is
part of what they must agree on, so that those of two versions of galamp say why they do not mix."""
_LAYOUT = struct.Struct("<4sHxxIQQQQQQQQQqd")
HEADER_BYTES = _LAYOUT.size
MAX_LANES = 64
"""Most learners of a node: the receivers of a frame are bits of one word."""
_LARGEST, _LARGEST_DISTANCE = 2**62, 1e50
_DTYPES = {FLOAT32: "<f4", BF16: "<u2"}


class Frame(NamedTuple):
    """Header of publication `number` of learner `rank`, ranks counted over all nodes.

    Attributes:
        rank: its learner.
        epoch: which start of the learner's node made it; see `membership`.
        incarnation: of the learner's process, within that start.
        number: of the publication, which grows within an epoch.
        round: of gossip.
        version: number of updates in the vector.
        lanes: learners of the receiving node that are to mix it, one bit each; 0: none is.
        checksum: sum of the bits of the vector that is read, as int32, see `bit_sum`.
        rounded: L2 distance of the parameters that are read to those that were published, at most;
            0 only if the vector is the one that was published.
    """

    rank: int
    epoch: int
    incarnation: int
    number: int
    round: int
    version: int
    lanes: int
    checksum: int
    rounded: float = 0.0


class WireIdentity(NamedTuple):
    """What the nodes of a run must agree on: run, model, length of vectors, number of learners.

    And how numbers go over the wire, one of `NUMBER_BYTES`.
    """

    run: int
    model: int
    size: int
    ranks: int
    wire: str = FLOAT32

    @property
    def vector_bytes(self) -> int:
        """Length of every frame without its header."""
        return NUMBER_BYTES[self.wire] * self.size

    @property
    def frame_bytes(self) -> int:
        """Length of every frame."""
        return HEADER_BYTES + self.vector_bytes


class FrameError(ValueError):
    """Bytes that are no frame of this run; the message says why."""


def pack(frame: Frame, numbers: Vector | Halves, identity: WireIdentity) -> bytearray:
    """Return a frame as bytes; `numbers` are [size], float32 or, where these are sent, halves."""
    packed = bytearray(identity.frame_bytes)
    numbers_of(packed, identity)[:] = numbers
    put_header(packed, frame, identity)
    return packed


def numbers_of(packed: bytes | bytearray, identity: WireIdentity) -> npt.NDArray[Any]:
    """Return the numbers of a frame, [size], where they are in its memory."""
    return np.frombuffer(packed, _DTYPES[identity.wire], identity.size, HEADER_BYTES)


def put_header(packed: bytearray, frame: Frame, identity: WireIdentity) -> None:
    """Write the header of a frame before its numbers."""
    _LAYOUT.pack_into(
        packed, 0, MAGIC, FORMAT, frame.rank, identity.vector_bytes, identity.run,
        identity.model, frame.epoch, frame.number, frame.incarnation, frame.round, frame.version,
        frame.lanes, frame.checksum, frame.rounded,
    )  # fmt: skip


def widened(halves: Halves) -> Vector:
    """Return bfloat16 numbers as float32, which holds them exactly."""
    bits = halves.astype("<u4")
    bits <<= 16
    vector: Vector = bits.view("<f4")
    return vector


def unpack(packed: bytes | bytearray, identity: WireIdentity) -> tuple[Frame, Vector]:
    """Return the header and the vector of a frame, which is not copied if it is float32.

    Raises:
        FrameError: it is none of this run, or its vector was altered or is not finite.
    """
    frame = header_of(packed, identity)
    numbers = numbers_of(packed, identity)
    halves = identity.wire == BF16
    if (bit_sum_of_halves(numbers) if halves else bit_sum(numbers)) != frame.checksum:
        raise FrameError("a vector does not match its checksum")
    vector = widened(numbers) if halves else numbers
    if not _is_finite(vector):
        raise FrameError("a vector is not finite")
    return frame, vector


def header_of(packed: bytes | bytearray, identity: WireIdentity) -> Frame:
    """Return the header of a frame; of its vector only the length is looked at.

    Raises:
        FrameError: it is no frame of this run.
    """
    if len(packed) < HEADER_BYTES:
        raise FrameError(f"{len(packed)} bytes, expected a header of {HEADER_BYTES}")
    magic, format_, rank, length, run, model, epoch, number, *rest = _LAYOUT.unpack_from(packed)
    if (magic, format_) != (MAGIC, FORMAT):
        raise FrameError(f"begins with {magic!r}, format {format_}, expected {MAGIC!r}, {FORMAT}")
    if run != identity.run:
        raise FrameError(f"of run {run:016x}, expected {identity.run:016x}")
    if model != identity.model:
        raise FrameError(f"of model {model:016x}, expected {identity.model:016x}")
    expected = identity.vector_bytes
    if not length == expected == len(packed) - HEADER_BYTES:
        raise FrameError(
            f"{len(packed) - HEADER_BYTES} bytes, of {length} that it tells of, expected {expected}"
        )
    incarnation, round_, version, lanes, checksum, rounded = rest
    if rank >= identity.ranks or max(epoch, number, incarnation, round_, version) > _LARGEST:
        raise FrameError(f"learner {rank}, publication {number}: out of range")
    if not 0.0 <= rounded <= (_LARGEST_DISTANCE if identity.wire == BF16 else 0.0):
        raise FrameError(f"learner {rank}: rounded by {rounded}, expected a length")
    return Frame(rank, epoch, incarnation, number, round_, version, lanes, checksum, rounded)


def bit_sum(vector: Vector) -> int:
    """Return the sum of a vector's bits as int32: what `gossip.vectors.checksum_of` gives."""
    return int(vector.view("<i4").sum(dtype=np.int64))


def bit_sum_of_halves(halves: Halves) -> int:
    """Return what `bit_sum` gives of `widened` halves, as whose upper ones they count."""
    return int(halves.view("<i2").sum(dtype=np.int64)) << 16


def _is_finite(vector: Vector) -> bool:
    """Whether all numbers are finite; where a sum of them is, they are."""
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(vector.sum()) or np.isfinite(vector).all())
