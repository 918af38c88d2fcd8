"""The largest singular value, and the largest eigenvalue, of a matrix given by its products.

Pure numpy. Both build an orthonormal basis of the Krylov space, orthogonalised in full twice, so
that no value is found again and again (Golub & Van Loan 2013, chapter 10).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]
Product = Callable[[Vector], NDArray[np.floating]]

MAX_STEPS = 300
EVERY = 10
VANISHED = 1e-12
TOLERANCE = 1e-7
"""Relative to the distance from 1, which decides the rate of consensus."""


class Found(NamedTuple):
    """A value, and whether it has converged; if not, it is a lower bound (singular value)."""

    value: float
    converged: bool


def centred(vector: NDArray[np.floating]) -> Vector:
    """Return `vector` [n, ...] minus its mean over n."""
    return np.asarray(vector - vector.mean(axis=0), dtype=np.float64)


def largest_singular_value(
    forward: Product, backward: Product, size: int, steps: int = MAX_STEPS
) -> Found:
    """Return the 2-norm of (I - J) M (I - J), J the matrix of all 1/n, by Lanczos.

    Args:
        forward: the product of M with a vector [n].
        backward: the product of its transpose with a vector [n].
        size: n.
        steps: most products to spend.
    """
    basis = _start(size, steps)
    diagonal: list[float] = []
    beside: list[float] = []
    for step in range(min(steps, size - 1)):
        image = centred(backward(centred(forward(basis[step]))))
        diagonal.append(float(basis[step] @ image))
        norm = _extend(basis, step, image)
        last = norm < VANISHED or step == min(steps, size - 1) - 1
        if last or step % EVERY == EVERY - 1:
            values, vectors = np.linalg.eigh(_tridiagonal(diagonal, beside))
            top = max(float(values[-1]), 0.0)
            residual = 0.0 if step == size - 2 else norm * abs(float(vectors[-1, -1]))
            done = norm < VANISHED or residual <= TOLERANCE * abs(1.0 - top) + VANISHED
            if done or last:
                return Found(0.0 if top < VANISHED**2 else top**0.5, done)
        beside.append(norm)
    raise AssertionError("the last step returns")


def largest_eigenvalue(forward: Product, size: int, steps: int = MAX_STEPS // 2) -> Found:
    """Return the largest modulus of the eigenvalues of (I - J) M (I - J), by Arnoldi."""
    basis = _start(size, steps)
    most = min(steps, size - 1)
    upper = np.zeros((most + 1, most))
    for step in range(most):
        image = centred(forward(basis[step]))
        upper[: step + 1, step] = basis[: step + 1] @ image
        norm = _extend(basis, step, image)
        upper[step + 1, step] = norm
        last = norm < VANISHED or step == most - 1
        if last or step % EVERY == EVERY - 1:
            values, vectors = np.linalg.eig(upper[: step + 1, : step + 1])
            at = int(np.argmax(np.abs(values)))
            top = float(np.abs(values[at]))
            residual = 0.0 if step == size - 2 else norm * float(np.abs(vectors[-1, at]))
            done = norm < VANISHED or residual <= TOLERANCE * abs(1.0 - top) + VANISHED
            if done or last:
                return Found(top, done)
    raise AssertionError("the last step returns")


def _start(size: int, steps: int) -> NDArray[np.float64]:
    """Return room for the basis [steps + 1, n], its first vector drawn at random."""
    basis = np.zeros((min(steps, size - 1) + 1, size))
    first = centred(np.random.default_rng(0).standard_normal(size))
    basis[0] = first / np.linalg.norm(first)
    return basis


def _extend(basis: NDArray[np.float64], step: int, image: Vector) -> float:
    """Orthogonalise `image` against the basis, append it, and return what was left of its norm."""
    for _ in range(2):
        image = image - basis[: step + 1].T @ (basis[: step + 1] @ image)
    norm = float(np.linalg.norm(image))
    if norm >= VANISHED:
        basis[step + 1] = image / norm
    return norm


def _tridiagonal(diagonal: list[float], beside: list[float]) -> NDArray[np.float64]:
    return np.diag(diagonal) + np.diag(beside, 1) + np.diag(beside, -1)
