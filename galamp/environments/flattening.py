"""Flattening of observations that are no Box into one array, checked entry by entry.

    Discrete, MultiDiscrete, MultiBinary, Dict, Tuple --Flattening--> float32 [N]
    Dict and Tuple of images of one size              --Flattening--> float32 or uint8 [C, H, W]

Runs in simulator processes and in the probe. The order is that of `gymnasium.spaces.utils.flatten`,
of which this differs in three things: an entry that is not of its space is refused, bounded
integers and images are scaled, and images of one size are stacked.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple
from numpy.typing import NDArray

from galamp.core.errors import UserError
from galamp.environments.observations import IMAGE_DIMENSIONS, channels_are_last, scale_of

MAX_NUMBERS = 2**20
"""Most numbers of a flattened vector: a rollout of longer ones would take gigabytes."""

MAX_SHOWN = 100
"""Most characters of a space in a message."""


class NotInSpaceError(ValueError):
    """An observation is not of its space; the text goes behind "observation of environment 0"."""


class Leaf(NamedTuple):
    """One entry of an observation that is not made of others."""

    path: tuple[Any, ...]
    """Keys of Dicts and indices of Tuples that lead to it."""
    space: Box | Discrete | MultiDiscrete | MultiBinary
    size: int
    """Numbers that it becomes."""
    scale: float = 1.0
    """Factor of a Box."""

    @property
    def what(self) -> str:
        """The entry in a message, after the word observation; empty if it is all there is."""
        return _entry(self.path)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of its values."""
        return self.space.shape or ()


class Flattening:
    """Flattening of one space.

    Attributes:
        space: the Box that results.
        stacks: whether that is of images, whose channels are first.
        note: how it is done, in one printable line.
    """

    def __init__(self, env_id: str, space: gymnasium.Space[Any]) -> None:
        """Visit all entries of a space.

        Raises:
            UserError: there is one that cannot be trained on, or too many numbers.
        """
        self._root, self._leaves = space, list(_leaves(env_id, space, ()))
        count = sum(leaf.size for leaf in self._leaves)
        self.stacks = _of_one_size(self._leaves)
        if self.stacks:
            self.space = _stacked(self._leaves)
            self.note = f"{len(self._leaves)} images of {shown(space)}, stacked as channels"
            return
        if count > MAX_NUMBERS:
            raise UserError(
                f"{env_id}: observations in the space {shown(space)} would become {count:,} "
                f"numbers: expected {MAX_NUMBERS:,} at most; make them smaller in the environment"
            )
        self.space = Box(-np.inf, np.inf, (count,), np.float32)
        how = "one-hot" if isinstance(space, Discrete | MultiDiscrete) else "flattened"
        self.note = f"{how}: {count} numbers of {shown(space)}"

    def __call__(self, observation: Any) -> NDArray[Any]:
        """Return an observation as a new array of `space`.

        Raises:
            NotInSpaceError: it is not of the space.
        """
        values = _values(self._root, observation, ())
        if self.stacks:
            pairs = zip(self._leaves, values, strict=True)
            with np.errstate(over="ignore"):  # as below
                return np.concatenate([_image(*pair, self.space.dtype) for pair in pairs])
        flat = np.zeros(self.space.shape, np.float32)
        start = 0
        with np.errstate(over="ignore"):  # it becomes infinite, which the batch's check tells
            for leaf, value in zip(self._leaves, values, strict=True):
                _write(leaf, value, flat[start : start + leaf.size])
                start += leaf.size
        return flat


def fitted(value: Any, shape: tuple[int, ...], dtype: Any, what: str = "") -> NDArray[Any]:
    """Return `value` as an array, if it has the shape and a type that fits.

    `what` names an entry of the observation.

    Raises:
        NotInSpaceError: it does not.
    """
    array = None if value is None else as_array(value)
    if array is None:
        kind = "None" if value is None else "no array of numbers"
        raise NotInSpaceError(f"{what} is {kind}: expected an array")
    if array.shape != shape:
        raise NotInSpaceError(
            f"{what} has shape {list(array.shape)}: its observation_space says {list(shape)}; "
            "return that shape, or correct the space"
        )
    if not np.can_cast(array.dtype, dtype or array.dtype, "same_kind"):
        raise NotInSpaceError(
            f"{what} has dtype {array.dtype}: its observation_space says {dtype}; "
            "return that dtype, or correct the space"
        )
    return array


def as_array(value: Any) -> NDArray[Any] | None:
    """Return `value` as an array; None if that is not possible."""
    try:
        return np.asarray(value)
    except (TypeError, ValueError, RuntimeError):  # such as lists of different lengths
        return None


def shown(space: object) -> str:
    """Return a space as text for one line of a message."""
    text = " ".join(str(space).split())
    text = text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."
    return text if text.isprintable() else repr(text)


def _entry(path: tuple[Any, ...]) -> str:
    return f", entry {'.'.join(map(str, path))!r:.80}," if path else ""


def _leaves(env_id: str, space: Any, path: tuple[Any, ...]) -> Iterator[Leaf]:
    if isinstance(space, Dict):
        for key, part in space.spaces.items():
            yield from _leaves(env_id, part, (*path, key))
    elif isinstance(space, Tuple):
        for index, part in enumerate(space.spaces):
            yield from _leaves(env_id, part, (*path, index))
    elif isinstance(space, Discrete):
        yield Leaf(path, space, int(space.n))
    elif isinstance(space, MultiDiscrete):
        yield Leaf(path, space, int(space.nvec.sum()))
    elif isinstance(space, MultiBinary):
        yield Leaf(path, space, math.prod(space.shape))
    elif isinstance(space, Box):
        yield Leaf(path, space, math.prod(space.shape), scale_of(space))
    else:
        entry = f" (entry {'.'.join(map(str, path))!r:.80})" if path else ""
        instead = (
            "leave that entry out (gymnasium.wrappers.FilterObservation), or turn it into numbers"
            if path
            else "turn them into numbers"
        )
        raise UserError(
            f"{env_id}: observations in the space {shown(space)}{entry} cannot be trained on: "
            "expected Box, Discrete, MultiDiscrete, MultiBinary, or Dict and Tuple of these; "
            f"{instead} in a factory of your own"
        )


def _values(space: Any, value: Any, path: tuple[Any, ...]) -> list[Any]:
    """Return the values of all leaves, in their order."""
    entry = _entry(path)
    parts: list[tuple[Any, Any, Any]]
    if isinstance(space, Dict):
        keys = list(space.spaces)
        if not isinstance(value, Mapping) or set(value) != set(keys):
            has = f"keys {list(value)!r:.80}" if isinstance(value, Mapping) else f"{_kind(value)}"
            raise NotInSpaceError(f"{entry} has {has}: its observation_space has {keys!r:.80}")
        parts = [(key, space.spaces[key], value[key]) for key in keys]
    elif isinstance(space, Tuple):
        count = len(space.spaces)
        if not isinstance(value, tuple | list) or len(value) != count:
            has = f"{len(value)} parts" if isinstance(value, tuple | list) else f"{_kind(value)}"
            raise NotInSpaceError(f"{entry} has {has}: its observation_space has {count} parts")
        parts = [(i, part, value[i]) for i, part in enumerate(space.spaces)]
    else:
        return [value]
    return [leaf for key, part, each in parts for leaf in _values(part, each, (*path, key))]


def _kind(value: Any) -> str:
    return "nothing in it (None)" if value is None else f"the type {type(value).__name__}"


def _write(leaf: Leaf, value: Any, flat: NDArray[np.float32]) -> None:
    """Write an entry into its part of a vector of zeros, `[size]`."""
    space = leaf.space
    array = fitted(value, leaf.shape, space.dtype, leaf.what)
    if isinstance(space, Box):
        flat[:] = array.reshape(-1)
        flat *= leaf.scale
        return
    low: Any = 0 if isinstance(space, MultiBinary) else space.start
    counts = _counts(space)
    places = array.astype(np.int64) - low
    if not ((places >= 0) & (places < counts)).all():
        raise NotInSpaceError(
            f"{leaf.what} is outside its observation_space {shown(space)}: return what the space "
            "contains, or correct the space"
        )
    if isinstance(space, MultiBinary):
        flat[:] = places.reshape(-1)
        return
    sizes = counts.reshape(-1)
    flat[np.cumsum(sizes) - sizes + places.reshape(-1)] = 1.0


def _counts(space: Discrete | MultiDiscrete | MultiBinary) -> NDArray[np.int64]:
    """Return how many values each element can have."""
    if isinstance(space, MultiDiscrete):
        return space.nvec.astype(np.int64)
    return np.asarray(2 if isinstance(space, MultiBinary) else space.n, np.int64)


def _of_one_size(leaves: list[Leaf]) -> bool:
    """Whether all entries are images of one height and width."""
    images = (
        isinstance(each.space, Box) and len(each.shape) == IMAGE_DIMENSIONS for each in leaves
    )
    return all(images) and len({_channels_first(leaf.shape)[1:] for leaf in leaves}) == 1


def _channels_first(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (shape[2], *shape[:2]) if channels_are_last(shape) else shape


def _stacked(leaves: list[Leaf]) -> Box:
    """Return the Box of stacked images; bytes stay bytes if all have the same scale."""
    shapes = [_channels_first(leaf.shape) for leaf in leaves]
    shape = (sum(each[0] for each in shapes), *shapes[0][1:])
    scales = {leaf.scale for leaf in leaves}
    if len(scales) == 1 and all(leaf.space.dtype == np.uint8 for leaf in leaves):
        (scale,) = scales
        return Box(0, round(1 / scale), shape, np.uint8)
    return Box(-np.inf, np.inf, shape, np.float32)


def _image(leaf: Leaf, value: Any, dtype: Any) -> NDArray[Any]:
    """Return an entry as an image [C, H, W] of `dtype`; floats are scaled."""
    array = fitted(value, leaf.shape, leaf.space.dtype, leaf.what)
    image = np.moveaxis(array, -1, 0) if channels_are_last(leaf.shape) else array
    if dtype == np.uint8:
        return image.astype(np.uint8, copy=False)
    return image.astype(np.float32) * np.float32(leaf.scale)
