"""Kinds of actions, by their name in the JSON form, and the spec of such a form.

    JSON --action_spec_from_dict--> ActionSpec --to_dict--> JSON

Used by every process; numpy only.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

from galamp.core.action_spec import (
    ActionSpec,
    DiscreteActions,
    MultiBinaryActions,
    MultiDiscreteActions,
    require,
)
from galamp.core.box_actions import BoxActions

KINDS: dict[str, type[ActionSpec]] = {
    kind.kind: kind
    for kind in (DiscreteActions, MultiDiscreteActions, MultiBinaryActions, BoxActions)
}
"""Kinds of actions, by their name in the JSON form."""


def action_spec_from_dict(values: object) -> ActionSpec:
    """Return the spec of a JSON form, as `ActionSpec.to_dict` returns it.

    Raises:
        ValueError: it is none, in one line.
    """
    kind = KINDS.get(str(values.get("kind"))) if isinstance(values, Mapping) else None
    if kind is None or not isinstance(values, Mapping):
        raise ValueError(f"actions: expected a kind, one of {', '.join(KINDS)}")
    names = [leaf.name for leaf in dataclasses.fields(kind)]
    require(values.keys() == {"kind", *names}, f"expected exactly kind, {', '.join(names)}")
    found = {name: values[name] for name in names}
    for name, infinite in (("low", -math.inf), ("high", math.inf)):
        if isinstance(found.get(name), list):
            found[name] = [infinite if bound is None else bound for bound in found[name]]
    return kind(**{n: tuple(v) if isinstance(v, list) else v for n, v in found.items()})
