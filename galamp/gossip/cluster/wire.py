"""Wire format: one published vector as bytes, and the checks that it passes before it is believed.

    Frame, vector --pack--> bytes --network--> unpack --Frame, vector, or a FrameError--> bridge

A frame is a header of fixed length and the vector's numbers, float32, little-endian. Nothing in it
is executed, and nothing is allocated by what it says: its length must be the model's. Pure.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float32]

MAGIC, FORMAT = b"GALA", 1
_LAYOUT = struct.Struct("<4sHxxIQQQQQQQQQq")
HEADER_BYTES = _LAYOUT.size
NUMBER_BYTES = 4
MAX_LANES = 64
"""Most learners of a node: the receivers of a frame are bits of one word."""
_LARGEST = 2**62


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
        checksum: sum of the vector's bits as int32, see `bit_sum`.
    """

    rank: int
    epoch: int
    incarnation: int
    number: int
    round: int
    version: int
    lanes: int
    checksum: int


class WireIdentity(NamedTuple):
    """What the nodes of a run must agree on: run, model, length of vectors, number of learners."""

    run: int
    model: int
    size: int
    ranks: int

    @property
    def frame_bytes(self) -> int:
        """Length of every frame."""
        return HEADER_BYTES + NUMBER_BYTES * self.size


class FrameError(ValueError):
    """Bytes that are no frame of this run; the message says why."""


def pack(frame: Frame, vector: Vector, identity: WireIdentity) -> bytearray:
    """Return a frame as bytes; `vector` is [size] float32."""
    packed = bytearray(identity.frame_bytes)
    _LAYOUT.pack_into(
        packed, 0, MAGIC, FORMAT, frame.rank, NUMBER_BYTES * identity.size, identity.run,
        identity.model, frame.epoch, frame.number, frame.incarnation, frame.round, frame.version,
        frame.lanes, frame.checksum,
    )  # fmt: skip
    np.frombuffer(packed, "<f4", identity.size, HEADER_BYTES)[:] = vector
    return packed


def unpack(packed: bytes | bytearray, identity: WireIdentity) -> tuple[Frame, Vector]:
    """Return the header and the vector of a frame, which is not copied.

    Raises:
        FrameError: it is none of this run, or its vector was altered or is not finite.
    """
    frame = header_of(packed, identity)
    vector = np.frombuffer(packed, "<f4", identity.size, HEADER_BYTES)
    if bit_sum(vector) != frame.checksum:
        raise FrameError("a vector does not match its checksum")
    if not np.isfinite(vector).all():
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
    if not length == NUMBER_BYTES * identity.size == len(packed) - HEADER_BYTES:
        expected = NUMBER_BYTES * identity.size
        raise FrameError(
            f"{len(packed) - HEADER_BYTES} bytes, of {length} that it tells of, expected {expected}"
        )
    incarnation, round_, version, lanes, checksum = rest
    if rank >= identity.ranks or max(epoch, number, incarnation, round_, version) > _LARGEST:
        raise FrameError(f"learner {rank}, publication {number}: out of range")
    return Frame(rank, epoch, incarnation, number, round_, version, lanes, checksum)


def bit_sum(vector: Vector) -> int:
    """Return the sum of a vector's bits as int32: what `gossip.vectors.checksum_of` gives."""
    return int(vector.view("<i4").sum(dtype=np.int64))
