"""Action specs: which actions an environment takes, and what the policy's become at its border.

    environment --ActionSpec--> rollout ring (shape, dtype), distribution, network's outputs
    action of the policy [B, ...] --to_environment--> action of the environment [B, *space_shape]

Used by every process; numpy only. A policy's actions are flat: [B] for `DiscreteActions`, [B, k]
for all others, whatever shape the environment's have. Discrete ones count from 0, and those of a
`Box` (`box_actions.py`) are unbounded: all are brought to the environment's form at its border
alone. `action_kinds.py` has the list of kinds.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

SIZE_LIMIT = 2**31
"""Limit of choices, and of numbers in an action: a network for more could not be stored."""

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class ActionSpec(ABC):
    """Spec of the actions of one environment.

    Attributes:
        kind: name in the JSON form.
        dtype: numpy name of a policy's actions, `int64` or `float32`.
    """

    kind: ClassVar[str]
    dtype: ClassVar[str] = "int64"

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Shape of one action of a policy: () or (k,)."""

    @property
    @abstractmethod
    def space_shape(self) -> tuple[int, ...]:
        """Shape of one action of the environment."""

    @abstractmethod
    def describe(self) -> str:
        """Return the spec in a few words, such as `4 actions`."""

    @abstractmethod
    def draw(self, random: np.random.Generator, envs: int) -> Array:
        """Return random actions of a policy, [envs, *shape]."""

    @abstractmethod
    def to_environment(self, actions: Array) -> Array:
        """Return a policy's actions [B, *shape] as the environment's, [B, *space_shape]."""

    @abstractmethod
    def _problem(self, actions: Array) -> str:
        """Return what is wrong with actions of the right shape and type; empty: nothing."""

    def zeros(self, envs: int) -> Array:
        """Return an action for each of so many environments, [envs, *shape]."""
        return np.zeros((envs, *self.shape), self.dtype)

    def check(self, actions: Array, envs: int) -> None:
        """Check a policy's actions.

        The check is needed because a wrong action makes ale-py's vector environment wait for ever.

        Raises:
            ValueError: they are not [envs, *shape] of `dtype`, or not in their range.
        """
        shape = (envs, *self.shape)
        if actions.shape != shape or actions.dtype != self.dtype:
            given = f"{actions.dtype} {actions.shape}"
            raise ValueError(f"actions: expected {self.dtype} of shape {shape}, got {given}")
        problem = self._problem(actions)
        if problem:
            raise ValueError(f"actions: expected {problem}, got {actions.tolist()}")

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form; a bound that is infinite is null in it."""
        values = {"kind": self.kind, **dataclasses.asdict(self)}
        for name, value in values.items():
            if isinstance(value, tuple):
                values[name] = [each if math.isfinite(each) else None for each in value]
        return values


@dataclass(frozen=True)
class DiscreteActions(ActionSpec):
    """One of `n` actions; a policy's are from 0 to n - 1, the environment's begin at `start`."""

    kind: ClassVar[str] = "discrete"
    n: int
    start: int = 0

    def __post_init__(self) -> None:
        """Raise ValueError for a spec that can be none."""
        require(_is_count(self.n) and _is_whole(self.start), "n or start is out of range")

    @property
    def shape(self) -> tuple[int, ...]:
        """See `ActionSpec.shape`."""
        return ()

    @property
    def space_shape(self) -> tuple[int, ...]:
        """See `ActionSpec.space_shape`."""
        return ()

    def describe(self) -> str:
        """See `ActionSpec.describe`."""
        return f"{self.n} actions" + (f" from {self.start}" if self.start else "")

    def draw(self, random: np.random.Generator, envs: int) -> Array:
        """See `ActionSpec.draw`."""
        return random.integers(0, self.n, envs)

    def to_environment(self, actions: Array) -> Array:
        """See `ActionSpec.to_environment`."""
        return actions + self.start if self.start else actions

    def _problem(self, actions: Array) -> str:
        # As unsigned integers, negative ones are very large.
        wrong = actions.view(np.uint64).max() >= self.n
        return f"0 to {self.n - 1}" if wrong else ""


class PartedActions(ActionSpec):
    """Spec of actions of k parts, which are flat for a policy and have a `form` elsewhere."""

    form: tuple[int, ...] | None

    @property
    @abstractmethod
    def size(self) -> int:
        """Number of parts k."""

    @property
    def shape(self) -> tuple[int, ...]:
        """See `ActionSpec.shape`."""
        return (self.size,)

    @property
    def space_shape(self) -> tuple[int, ...]:
        """See `ActionSpec.space_shape`."""
        return self.shape if self.form is None else self.form

    def to_environment(self, actions: Array) -> Array:
        """See `ActionSpec.to_environment`."""
        return actions.reshape(len(actions), *self.space_shape)

    def _check_form(self) -> None:
        shape = self.space_shape
        whole = isinstance(shape, tuple) and len(shape) <= 8 and all(map(_is_count, shape))
        require(whole and math.prod(shape) == self.size, "form is no shape of as many parts")


@dataclass(frozen=True)
class MultiDiscreteActions(PartedActions):
    """One of `nvec[i]` choices for each of k parts; the environment's begin at `start[i]`."""

    kind: ClassVar[str] = "multi-discrete"
    nvec: tuple[int, ...]
    start: tuple[int, ...] = ()
    """Empty: all begin at 0."""
    form: tuple[int, ...] | None = None
    """Shape of the environment's action; None: [k]."""

    def __post_init__(self) -> None:
        """Raise ValueError for a spec that can be none."""
        good = isinstance(self.nvec, tuple) and all(map(_is_count, self.nvec))
        require(good and 0 < sum(self.nvec) < SIZE_LIMIT, "nvec is out of range")
        starts = isinstance(self.start, tuple) and all(map(_is_whole, self.start))
        require(starts and len(self.start) in (0, len(self.nvec)), "start is not like nvec")
        self._check_form()

    @property
    def size(self) -> int:
        """See `PartedActions.size`."""
        return len(self.nvec)

    def describe(self) -> str:
        """See `ActionSpec.describe`."""
        return f"MultiDiscrete {_short(self.nvec)} actions"

    def draw(self, random: np.random.Generator, envs: int) -> Array:
        """See `ActionSpec.draw`."""
        return random.integers(0, self.nvec, (envs, self.size))

    def to_environment(self, actions: Array) -> Array:
        """See `ActionSpec.to_environment`."""
        return super().to_environment(actions + self.start if any(self.start) else actions)

    def _problem(self, actions: Array) -> str:
        wrong = ((actions < 0) | (actions >= self.nvec)).any()
        return f"0 to below {_short(self.nvec)}" if wrong else ""


@dataclass(frozen=True)
class MultiBinaryActions(PartedActions):
    """`n` switches, each 0 or 1."""

    kind: ClassVar[str] = "multi-binary"
    n: int
    form: tuple[int, ...] | None = None
    """Shape of the environment's action; None: [n]."""

    def __post_init__(self) -> None:
        """Raise ValueError for a spec that can be none."""
        require(_is_count(self.n), "n is out of range")
        self._check_form()

    @property
    def size(self) -> int:
        """See `PartedActions.size`."""
        return self.n

    def describe(self) -> str:
        """See `ActionSpec.describe`."""
        return f"MultiBinary {self.n} actions"

    def draw(self, random: np.random.Generator, envs: int) -> Array:
        """See `ActionSpec.draw`."""
        return random.integers(0, 2, (envs, self.n))

    def _problem(self, actions: Array) -> str:
        return "0 or 1" if ((actions < 0) | (actions > 1)).any() else ""


def require(good: bool, problem: str) -> None:
    """Raise ValueError with a spec's problem, unless all is good."""
    if not good:
        raise ValueError(f"actions: {problem}")


def _is_whole(value: object) -> bool:
    return type(value) is int and abs(value) < 2**62


def _is_count(value: object) -> bool:
    return type(value) is int and 0 < value < SIZE_LIMIT


def _short(numbers: tuple[int, ...]) -> str:
    """Return a list of numbers, the first few of many."""
    return str([*numbers]) if len(numbers) <= 8 else f"{[*numbers[:8]]} and more"
