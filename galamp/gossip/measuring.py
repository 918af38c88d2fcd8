"""How far apart published vectors are, measured on whole vectors only, in passing.

    every learner's newest publication --look, chunk by chunk, unchanged?--> Gram matrix, distances

Runs in the supervisor. Nothing is copied as a whole: pieces of all vectors are read where they lie,
and the sum counts only if no writer came by meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from galamp.gossip.mixing import VectorSlots
from galamp.gossip.slots import Look

CHUNK = 2**15
"""Numbers of each vector that are looked at together: they fit into the cache."""
TRIES = 3


class Measured(NamedTuple):
    """Distances (L2) of vectors `numbers` [n]: to their mean [n], between them [n, n]; its norm.

    Their `versions` [n] are the updates that went into them.
    """

    numbers: tuple[int, ...]
    versions: tuple[int, ...]
    to_mean: npt.NDArray[np.float64]
    pairwise: npt.NDArray[np.float64]
    norm: float


def measure_distances(slots: Sequence[VectorSlots], size: int) -> Measured | None:
    """Measure the first `size` numbers of everyone's newest vector; None if there is no peace."""
    for _ in range(TRIES):
        looks = [one.look() for one in slots]
        whole = [look for look in looks if look is not None]
        if len(whole) < len(slots):
            continue
        inner, norm = _inner_products(slots, whole, size)
        if all(one.unchanged(look) for one, look in zip(slots, whole, strict=True)):
            squares = np.diag(inner)
            between = (squares[:, None] + squares[None, :] - 2 * inner).clip(0.0)
            np.fill_diagonal(between, 0.0)
            to_mean = (between.mean(1) - between.mean() / 2).clip(0.0)
            numbers = tuple(look.header.number for look in whole)
            versions = tuple(look.header.version for look in whole)
            return Measured(numbers, versions, np.sqrt(to_mean), np.sqrt(between), norm)
    return None


def mean_cosine(slots: Sequence[VectorSlots], size: int) -> float | None:
    """Return the mean cosine between different learners' newest vectors; None if unknown."""
    looks = [one.look() for one in slots]
    whole = [look for look in looks if look is not None]
    if len(whole) < max(2, len(slots)):
        return None
    inner, _ = _inner_products(slots, whole, size, apart=False)
    if not all(one.unchanged(look) for one, look in zip(slots, whole, strict=True)):
        return None
    norms = np.sqrt(np.diag(inner))
    if not norms.all():
        return None
    cosines = inner / np.outer(norms, norms)
    return float(cosines[~np.eye(len(slots), dtype=bool)].mean())


def distances_between(vectors: Sequence[npt.NDArray[np.float32]]) -> npt.NDArray[np.float64]:
    """Return the pairwise distances [n, n] of vectors that nobody writes to."""
    return np.array([[np.linalg.norm(a.astype(float) - b) for b in vectors] for a in vectors])


def _inner_products(
    slots: Sequence[VectorSlots], looks: Sequence[Look], size: int, *, apart: bool = True
) -> tuple[npt.NDArray[np.float64], float]:
    """Return the inner products [n, n] of the vectors' differences to the first, and a norm.

    Differences come first: the vectors are far longer than they are apart. If not `apart`, of the
    vectors themselves. The norm is that of the mean.
    """
    payloads = [one.payload[look.slot].numpy() for one, look in zip(slots, looks, strict=True)]
    inner, square = np.zeros((len(slots), len(slots))), 0.0
    for at in range(0, size, CHUNK):
        part = np.stack([payload[at : min(at + CHUNK, size)] for payload in payloads])
        mean = part.mean(0)
        square += float(mean @ mean)
        if apart:
            part -= part[0].copy()
        inner += part @ part.T
    return inner, square**0.5
