"""Reading of a Gymnasium Box: shape, type and scale of the observations that a network takes.

    Box, --observation-reading --read--> Reading --> EnvironmentSpec

Pure. Used where environments are built, in simulator processes and in the probe, and by agents.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from gymnasium.spaces import Box

SPACE, DTYPE = "space", "dtype"
"""Values of --observation-reading: by the space's bounds and shape; by its type, as once."""

MAX_BOUND = 65535.0
"""Greatest bound that observations are scaled by; with a greater one a space has no bounds."""

IMAGE_DIMENSIONS = 3


class Reading(NamedTuple):
    """How observations of a Box are given to the network."""

    shape: tuple[int, ...]
    """Of one observation; images have channels first."""
    dtype: str
    """`uint8` or `float32`."""
    scale: float | None
    """Factor that brings observations to the unit interval; None: the one that goes with the
    type, 1/255 or 1."""
    channels_last: bool
    """Whether the Box has channels last: they are moved."""
    note: str
    """The same in one printable line; empty for vectors that are taken as they are."""


def read(space: Box, how: str, *, channels_first: bool = False) -> Reading:
    """Return how observations of a Box are read.

    Args:
        space: the Box.
        how: `SPACE` or `DTYPE`.
        channels_first: images of the Box are known to have their channels first.
    """
    shape, is_bytes = space.shape, space.dtype == np.uint8
    dtype = "uint8" if is_bytes else "float32"
    if how == DTYPE:
        last = len(shape) == IMAGE_DIMENSIONS and shape[2] < min(shape[:2])
        return Reading((shape[2], *shape[:2]) if last else shape, dtype, None, last, "")
    last = len(shape) == IMAGE_DIMENSIONS and not channels_first and channels_are_last(shape)
    scale = scale_of(space)
    usual = 1 / 255 if is_bytes else 1.0
    return Reading(
        shape=(shape[2], *shape[:2]) if last else shape,
        dtype=dtype,
        scale=None if scale == usual else scale,
        channels_last=last,
        note=_note(shape, scale, last),
    )


def channels_are_last(shape: tuple[int, ...]) -> bool:
    """Whether an image of shape [a, b, c] is [H, W, C], and not [C, H, W].

    Two neighbouring sides that are equal are height and width. Otherwise the smaller of the first
    and the last is the channels. In doubt they are last, as in Gymnasium and MinAtar.
    """
    first, middle, last = shape
    if (first == middle) != (middle == last):
        return first == middle
    return last <= first


def scale_of(space: Box) -> float:
    """Return the factor that brings numbers between the bounds to [-1, 1]; it never magnifies.

    Vectors of floats are taken as they are, and so is what has no bounds, or a greater one than
    `MAX_BOUND`. The type does not matter: bytes from 0 to 1 are taken as they are, too.
    """
    if np.issubdtype(space.dtype, np.floating) and len(space.shape) != IMAGE_DIMENSIONS:
        return 1.0
    bound = greatest_bound(space)
    return 1.0 / bound if 1.0 < bound <= MAX_BOUND else 1.0


def greatest_bound(space: Box) -> float:
    """Return the greatest absolute value that a Box contains; infinity if it has no bounds."""
    bounds = (np.asarray(limit, np.float64) for limit in (space.low, space.high))
    return max(float(np.abs(each).max(initial=0.0)) for each in bounds)


def layout_note(shape: tuple[int, ...], last: bool) -> str:
    """Return in words how a shape of three dimensions is read."""
    sides, channels = (shape[:2], shape[2]) if last else (shape[1:], shape[0])
    place = "last" if last else "first"
    return f"images of {sides[0]} x {sides[1]}, {channels} channels, which come {place}"


def _note(shape: tuple[int, ...], scale: float, last: bool) -> str:
    scaled = "" if scale == 1.0 else f"divided by {1 / scale:g}"
    if len(shape) == IMAGE_DIMENSIONS:
        return f"{layout_note(shape, last)}; {scaled or 'taken as they are'}"
    many = f"arrays of {list(shape)}, a vector to galamp's own networks" if len(shape) != 1 else ""
    return "; ".join(filter(None, (many, scaled)))
