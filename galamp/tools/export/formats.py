"""Base class of the formats of an export, and what all of them give.

    PolicyModule, example --Format.written--> bytes --Format.read--> Function

Runs in `galamp export`.
"""

from __future__ import annotations

import importlib
import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from galamp.core.errors import UserError
from galamp.core.pip_commands import install_extra
from galamp.tools.evaluation.policy_module import PolicyModule
from galamp.tools.export.config import FORMATS

Array = NDArray[Any]
Function = Callable[[Array, Array | None], list[Array]]
"""Observations [B, ...] and states [B, S], or None, to outputs [B, A], values [B] and, of a
recurrent network, the next states [B, S]."""

INPUTS, OUTPUTS = ("observations", "state"), ("logits", "values", "next_state")
"""Names of what goes in and comes out; without a state the last of each is missing."""


class Example(NamedTuple):
    """Two observations, and their states if the network is recurrent, to trace it with."""

    observations: NDArray[Any]
    states: NDArray[np.float32] | None

    @property
    def arrays(self) -> tuple[Array, ...]:
        """What goes in, in the order of `INPUTS`."""
        return tuple(each for each in self if each is not None)


class Format(ABC):
    """A format of files.

    Attributes:
        ending: of the files' names.
        needs: packages of others.
        extra: the extra of galamp that brings these.
    """

    ending: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ()
    extra: ClassVar[str] = ""

    @abstractmethod
    def written(self, module: PolicyModule, example: Example) -> bytes:
        """Return the content of a file with `module`."""

    @abstractmethod
    def read(self, content: bytes, module: PolicyModule) -> Function:
        """Return what such a file computes; only what it does not hold may be taken of `module`."""


def format_of(name: str) -> Format:
    """Return the format of that name.

    Raises:
        UserError: a package is missing that it needs.
    """
    module, _, kind = FORMATS[name].partition(":")
    found: Format = getattr(importlib.import_module(module), kind)()
    missing = [each for each in found.needs if importlib.util.find_spec(each) is None]
    if missing:
        raise UserError(
            f"--format {name}: {', '.join(missing)} missing; choose another --format, or: "
            f"{install_extra(found.extra)}"
        )
    return found
