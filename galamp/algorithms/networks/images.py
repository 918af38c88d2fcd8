"""How observations of three dimensions are read as images, by their shape alone. Pure."""

from __future__ import annotations

from typing import NamedTuple

from galamp.core.config import MAX_CHANNELS
from galamp.core.errors import UserError

CHANNELS_LAST = (1, 3, 4)
SMALLEST_IMAGE = 36
"""Pixels a side below which the third convolution has nothing to see: ((3 - 1) 2 + 4 - 1) 4 + 8."""


class ImageLayout(NamedTuple):
    """How an image observation of three dimensions is to be read."""

    channels: int
    height: int
    width: int
    channels_first: bool


def image_layout(shape: tuple[int, ...]) -> ImageLayout:
    """Read a shape of three dimensions; no shape fits both forms, for C is below the least H.

    Raises:
        UserError: it is no image that convolutions can take.
    """
    if shape[0] <= MAX_CHANNELS:
        layout = ImageLayout(shape[0], shape[1], shape[2], channels_first=True)
    elif shape[2] in CHANNELS_LAST:
        layout = ImageLayout(shape[2], shape[0], shape[1], channels_first=False)
    else:
        raise UserError(
            f"images of shape {list(shape)} are not supported: expected [C, H, W] with C up to "
            f"{MAX_CHANNELS}, or [H, W, C] with C of 1, 3 or 4"
        )
    if min(layout.height, layout.width) < SMALLEST_IMAGE:
        raise UserError(
            f"images of {layout.height} x {layout.width} pixels are too small for convolutions: "
            f"expected at least {SMALLEST_IMAGE} x {SMALLEST_IMAGE}; enlarge them, or flatten them "
            "for mlp"
        )
    return layout
