"""Identity: the environment and network of a run, which its checkpoints must match.

    run --training.identity_of--> Identity --to_dict--> state.json --from_dict--> Identity
    Identity of a checkpoint --difference--> one line for the user, where another's is expected
                             --misfit------> the same, where its own network has other parameters

Runs in the supervisor and in evaluation. Values from a file are checked here, field by field.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from galamp.core.action_kinds import action_spec_from_dict
from galamp.core.action_spec import SIZE_LIMIT, ActionSpec, DiscreteActions
from galamp.core.decode import Limits
from galamp.core.errors import CheckpointError
from galamp.core.sanitize import is_tensor_name
from galamp.storage.canonical_json import need, need_count, need_decoded

LONGEST_LINE = 1000
"""Most characters of a name or a protocol: Atari's, with all settings changed, has about 300."""
LIMITS = Limits(characters=LONGEST_LINE, items=10_000)

Layout = Sequence[tuple[str, tuple[int, ...]]]
"""Names and shapes of parameters."""


@dataclass(frozen=True)
class _Decoded:
    """The fields of an identity that a JSON form has by the same name."""

    env_id: str
    protocol: str
    observation_shape: tuple[int, ...]
    algorithm: str
    network: str
    layout: tuple[tuple[str, tuple[int, ...]], ...]
    observation_scale: float | None = None
    outputs_are_values: bool = False


@dataclass(frozen=True)
class Identity:
    """The identity of a checkpoint; compared before any tensor is read."""

    env_id: str
    protocol: str
    observation_shape: tuple[int, ...]
    actions: ActionSpec
    algorithm: str
    network: str
    layout: tuple[tuple[str, tuple[int, ...]], ...]
    """Names and shapes of the parameters, in standard PyTorch layout and order."""
    observation_scale: float | None = None
    """Factor of observations; None, as before there was a choice: what goes with their type."""
    outputs_are_values: bool = False
    """Whether the network gives values of actions; never said before, and of `pqn` not needed."""

    @property
    def num_parameters(self) -> int:
        """P, the length of the flat parameter vector."""
        return sum(math.prod(shape) for _, shape in self.layout)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form, as older versions wrote it where they could have.

        Discrete actions from 0 are a number; a scale that is None is left out, and so is that
        outputs are no values.
        """
        values = dataclasses.asdict(self)
        del values["actions"]
        if self.observation_scale is None:
            del values["observation_scale"]
        if not self.outputs_are_values:
            del values["outputs_are_values"]
        if isinstance(self.actions, DiscreteActions) and self.actions.start == 0:
            return values | {"num_actions": self.actions.n}
        return values | {"actions": self.actions.to_dict()}

    @classmethod
    def from_dict(cls, values: object) -> Identity:
        """Create an identity from its JSON form.

        Raises:
            CheckpointError: a field is missing, unknown, of the wrong type, or beyond its limit.
        """
        values = dict(values) if isinstance(values, dict) else {}
        actions = _actions(values)
        found = need_decoded(_Decoded, values, "identity", LIMITS)
        for name in ("env_id", "protocol", "algorithm", "network"):
            # Text that is shown must not contain terminal control sequences.
            good = getattr(found, name).isprintable()
            need(good, f"identity: {name} is not a short line of text")
        _check_shape(found.observation_shape, "observation_shape")
        large = math.prod(found.observation_shape) >= SIZE_LIMIT
        need(not large, "identity: observation_shape is too large")
        _check_layout(found.layout)
        scale = found.observation_scale
        need(scale is None or scale > 0.0, "identity: observation_scale is no factor")
        return cls(actions=actions, **vars(found))

    def difference(self, other: Identity) -> str | None:
        """Return in one line how a run's identity differs from this one; None if it does not."""
        sentences = {
            "env_id": "is of game {}, this run plays {}",
            "protocol": "is of protocol {}, this run uses {}",
            "observation_shape": "sees observations of shape {}, this run's have {}",
            "observation_scale": "multiplies observations by {}, this run by {}",
            "actions": "takes {}, this run {}",
            "algorithm": "is of algorithm {}, this run uses {}",
            "network": "is of network {}, this run uses {}",
        }
        for name, sentence in sentences.items():
            mine, others = getattr(self, name), getattr(other, name)
            same = _same_protocol(mine, others) if name == "protocol" else mine == others
            if not same:
                return sentence.format(*map(_told, (mine, others)))
        unlike = _first_unlike(self.layout, other.layout)
        return f"has the parameter {unlike[0]} where this run has {unlike[1]}" if unlike else None

    def misfit(self, network: Layout) -> str | None:
        """Return in one line how the parameters differ from a network's; None if they are equal.

        Their order does not count. A parameter is as long as its learner's file says, and no
        longer: a network that fits takes as much memory.
        """
        unlike = _first_unlike(sorted(self.layout), sorted(network))
        if unlike is None:
            return None
        return (
            f"has the parameter {unlike[0]} where the network {self.network}, for observations "
            f"{list(self.observation_shape)} and {self.actions.describe()}, has {unlike[1]}"
        )


def _told(value: object) -> object:
    if isinstance(value, ActionSpec):
        return value.describe()
    return "what goes with their type" if value is None else value


def _first_unlike(mine: Layout, others: Layout) -> tuple[str, str] | None:
    """Return the first two parameters, as text, in which two layouts differ."""
    for pair in itertools.zip_longest(mine, others):
        if pair[0] != pair[1]:
            has, wants = (f"{each[0]} {list(each[1])}" if each else "none" for each in pair)
            return has, wants
    return None


def _same_protocol(stored: str, run: str) -> bool:
    """Return whether a checkpoint's protocol equals a run's."""
    return stored in (run, _as_before_fire(run))


def _as_before_fire(protocol: str) -> str | None:
    """Return an Atari protocol as older versions wrote it: FIRE was pressed and not mentioned.

    None where FIRE is not pressed at resets: older versions did not support that.
    """
    if ", FIRE at reset" not in protocol:
        return None
    text = protocol.replace(", FIRE at reset", "").replace("no no-ops", "no-ops 0")
    text = re.sub(r"fewer than (\d+) no-ops", r"no-ops \1", text)
    return (
        text.replace(" (changed: fire_reset)", "")
        .replace("fire_reset, ", "", 1)
        .replace(", fire_reset)", ")", 1)
    )


def _actions(values: dict[str, Any]) -> ActionSpec:
    """Take the actions out of a JSON form; older ones have their number alone."""
    if "actions" not in values:
        count = need_count(values.pop("num_actions", None), "identity: num_actions")
        need(0 < count < SIZE_LIMIT, "identity: num_actions is out of range")
        return DiscreteActions(count)
    try:
        return action_spec_from_dict(values.pop("actions"))
    except ValueError as error:
        raise CheckpointError(f"identity: {error}") from None


def _check_layout(layout: Layout) -> None:
    """Check the names and shapes of all parameters."""
    need(len(layout) >= 1, "layout: expected names and shapes")
    names = [name for name, _ in layout]
    need(all(map(is_tensor_name, names)), "layout: unexpected name")
    need(len(set(names)) == len(names), "layout: a name stands twice")
    for name, shape in layout:
        _check_shape(shape, f"layout: {name}")


def _check_shape(shape: tuple[int, ...], what: str) -> None:
    need(len(shape) <= 8 and all(size > 0 for size in shape), f"{what} is not a shape")
