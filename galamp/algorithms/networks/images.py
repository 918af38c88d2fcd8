"""How networks read observations of three dimensions as images, by their shape alone. Pure."""

from __future__ import annotations

from typing import NamedTuple

from galamp.core.config import MAX_CHANNELS

CHANNELS_LAST = (1, 3, 4)
SMALLEST_IMAGE = 36
"""Pixels a side below which the third convolution has nothing to see: ((3 - 1) 2 + 4 - 1) 4 + 8."""
SMALLEST_MINATAR = 3
"""Pixels a side below which one convolution of 3 x 3 has nothing to see."""
SMALLEST_RESIDUAL = 1
"""Every layer is padded, so that one pixel is enough."""


class ImageLayout(NamedTuple):
    """How an image observation of three dimensions is to be read."""

    channels: int
    height: int
    width: int
    channels_first: bool


def image_layout(shape: tuple[int, ...]) -> ImageLayout:
    """Read a shape of three dimensions: [C, H, W], as environments give images.

    [H, W, C] is taken as well, where H is above `MAX_CHANNELS` and C is 1, 3 or 4, unless the last
    two sides are equal, as height and width are.
    """
    if shape[0] > MAX_CHANNELS and shape[2] in CHANNELS_LAST and shape[1] != shape[2]:
        return ImageLayout(shape[2], shape[0], shape[1], channels_first=False)
    return ImageLayout(shape[0], shape[1], shape[2], channels_first=True)
