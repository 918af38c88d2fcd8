"""Gymnasium's action spaces as action specs.

    env.action_space --action_spec--> ActionSpec, or a UserError that names the space

Runs in simulator processes and in the probe.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete

from galamp.core.action_spec import (
    ActionSpec,
    DiscreteActions,
    MultiBinaryActions,
    MultiDiscreteActions,
)
from galamp.core.box_actions import BoxActions
from galamp.core.config import CLIP
from galamp.core.errors import UserError

MAX_SHOWN = 120
"""Most characters of a space in a message."""


def action_spec(env_id: str, space: object, bounds: str = CLIP) -> ActionSpec:
    """Return the spec of an action space.

    Args:
        env_id: the environment, for the message.
        space: the space of one environment.
        bounds: how actions are brought into the bounds of a `Box`.

    Raises:
        UserError: nothing can be trained to act in it, or `bounds` has no meaning for it.
    """
    try:
        spec = _spec(space, bounds)
    except ValueError as error:
        raise UserError(f"{env_id}: {_shown(space)}: {error}") from error
    if spec is None:
        raise UserError(
            f"{env_id}: actions in {_shown(space)} cannot be trained: expected Discrete, "
            "MultiDiscrete, MultiBinary, or a Box of floats; convert them in a wrapper"
        )
    refuse_bounds(env_id, spec, bounds)
    return spec


def refuse_bounds(env_id: str, spec: ActionSpec, bounds: str) -> None:
    """Raise UserError for `--action-bounds` where it would be silently ignored."""
    if bounds != CLIP and not isinstance(spec, BoxActions):
        raise UserError(
            f"--action-bounds {bounds}: only for Box actions, and {env_id} takes "
            f"{spec.describe()}; leave it out"
        )


def _spec(space: object, bounds: str) -> ActionSpec | None:
    """Return the spec; None if there is none.

    Raises:
        ValueError: the space is of a known kind, and has sizes or bounds that no policy can use.
    """
    if isinstance(space, Discrete):
        return DiscreteActions(int(space.n), int(space.start))
    if isinstance(space, MultiDiscrete):
        starts = _flat(space.start)
        return MultiDiscreteActions(
            _flat(space.nvec), starts if any(starts) else (), _form(space.nvec.shape)
        )
    if isinstance(space, MultiBinary):
        return MultiBinaryActions(int(np.prod(space.shape)), _form(space.shape))
    if isinstance(space, Box) and np.issubdtype(space.dtype, np.floating):
        return BoxActions(_flat(space.low), _flat(space.high), bounds, _form(space.shape))
    return None


def _flat(numbers: Any) -> tuple[Any, ...]:
    return tuple(np.asarray(numbers).ravel().tolist())


def _form(shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """Return the shape of an action; None for the usual one, of one dimension."""
    return None if len(shape) == 1 else tuple(map(int, shape))


def _shown(space: object) -> str:
    text = " ".join(str(space).split())
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."
