"""Observations as a network's input: checked, and brought to the form of the training.

    array or nested lists of one observation or B --InputForm.batch--> Batch --> network

Runs wherever a trained agent acts. Numpy only.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from galamp.core.errors import UserError
from galamp.environments.names import ATARI
from galamp.environments.observations import IMAGE_DIMENSIONS, channels_are_last
from galamp.storage.checkpoint import Identity


class Batch(NamedTuple):
    """A batch of observations for a network."""

    array: npt.NDArray[Any]
    """[B, *observation_shape], contiguous and writable, as torch wants them; of `dtype`."""
    dtype: str
    """`uint8` or `float32`, by the rule by which the training converted them."""
    single: bool
    """Whether one observation was given, and no batch."""


class InputForm:
    """Form of the observations that a training's network takes."""

    def __init__(self, identity: Identity) -> None:
        """Take shape and environment from the training's identity."""
        self.shape, self._env_id = identity.observation_shape, identity.env_id
        self._is_atari = identity.env_id.startswith(ATARI)

    @property
    def usual_dtype(self) -> str:
        """The type of most observations of this shape: frames are bytes, vectors are floats."""
        return "uint8" if len(self.shape) == IMAGE_DIMENSIONS else "float32"

    def batch(self, observations: Any) -> Batch:
        """Return observations as a batch; see `Agent.act` for what is taken.

        Raises:
            UserError: they have another shape or type, or one of them is not finite.
        """
        given = _array(observations)
        dtype, batch = self._dtype(given), self._batch(given)
        with np.errstate(over="ignore"):
            # torch accepts only writable arrays.
            batch = np.require(batch, np.dtype(dtype), ["C", "W"])
        single = len(batch) == 1 and given.ndim == batch.ndim - 1
        if dtype != "uint8":
            _check_finite(batch, single)
        return Batch(batch, dtype, single)

    def channels_last(self) -> tuple[int, ...] | None:
        """Return the shape `[H, W, C]` of the images in training; None for other observations."""
        shape = self.shape
        if len(shape) != IMAGE_DIMENSIONS or self._is_atari or channels_are_last(shape):
            return None
        channels, height, width = shape
        last = height, width, channels
        return last if channels_are_last(last) else None

    def _batch(self, given: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return one observation or a batch as a batch in the network's input shape."""
        shape = self.shape
        batch = given[np.newaxis] if given.ndim == len(shape) else given
        if batch.shape[1:] == shape:
            return batch
        last = self.channels_last()
        if last is not None and batch.shape[1:] == last:
            return np.moveaxis(batch, -1, 1)
        more = f"; or {list(last)} with channels last" if last else ""
        raise UserError(
            f"observations of shape {list(given.shape)}: expected {list(shape)} for one, "
            f"or [B, {', '.join(map(str, shape))}] for a batch{more}"
        )

    def _dtype(self, given: npt.NDArray[Any]) -> str:
        """Return which of the network's two input types the observations have.

        This is the rule by which the training converted them.
        """
        if given.dtype == np.uint8:
            return "uint8"
        if self._is_atari or given.dtype.kind not in "biuf":
            expected = "uint8" if self._is_atari else "numbers"
            raise UserError(f"observations of {given.dtype}: expected {expected}")
        return "float32"


def _array(observations: Any) -> npt.NDArray[Any]:
    """Return observations as an array.

    Raises:
        UserError: they are no array, such as lists of different lengths.
    """
    try:
        return np.asarray(observations)
    except (ValueError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"observations: expected one array of numbers ({reason})") from None


def _check_finite(batch: npt.NDArray[Any], single: bool) -> None:
    """Raise UserError for the first row of `[B, ...]` that holds NaN or infinity."""
    # One number that is not finite makes the sum so; float32 numbers cannot overflow it.
    with np.errstate(invalid="ignore"):
        if np.isfinite(batch.sum(dtype=np.float64)):
            return
    row = int(np.argmin(np.isfinite(batch).reshape(len(batch), -1).all(axis=1)))
    where = "the observation" if single else f"observations: row {row}"
    raise UserError(f"{where} holds NaN, infinity or a number beyond float32: expected finite ones")
