"""A person's keys as actions: arrows and space for Atari, arrows or numbers for other games.

    keys, when they were pressed --Keyboard.decide--> Decision

A terminal does not tell when a key is released: it counts as held for a short while after it was
pressed, or repeated.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from galamp.core.action_spec import DiscreteActions
from galamp.core.errors import UserError
from galamp.environments.base import EnvironmentSpec
from galamp.tools.play.game import Decision

HELD_S = 0.3
"""A key counts as held for so long; terminals repeat one after 0.25 to 0.5 s, then more often."""
ARROWS = ("up", "down", "right", "left")
FIRE, NOOP = "FIRE", "NOOP"
IN_A_ROW = {2: {"left": 0, "right": 1}, 3: {"left": 0, "right": 2}}
"""Number of actions -> what left and right are, as in CartPole and MountainCar."""
OPPOSITE = {"up": "down", "down": "up", "left": "right", "right": "left"}


class Keyboard:
    """Keys of one person, and the actions of one environment."""

    def __init__(self, spec: EnvironmentSpec) -> None:
        """Prepare for the actions of an environment.

        Raises:
            UserError: they cannot be chosen by keys.
        """
        if not isinstance(spec.actions, DiscreteActions):
            raise UserError(
                f"--human: {spec.env_id} takes {spec.actions.describe()}, and keys can only choose "
                "discrete ones; without --human the agent plays"
            )
        self._meanings = spec.action_meanings
        self._numbers = {name: number for number, name in enumerate(self._meanings)}
        self._is_atari = NOOP in self._numbers
        self._in_a_row = IN_A_ROW.get(len(self._meanings), {})
        self._pressed_s: dict[str, float] = {}

    @property
    def help(self) -> str:
        """What the keys do."""
        if self._is_atari:
            return "arrows move, space fires"
        numbers = f"0-{min(9, len(self._meanings) - 1)} take that action"
        return f"left and right, or {numbers}" if self._in_a_row else numbers

    def press(self, key: str) -> None:
        """Take a key."""
        now_s = time.monotonic()
        self._pressed_s.pop(OPPOSITE.get(key, ""), None)
        self._pressed_s[key] = now_s

    def decide(self, observations: NDArray[Any], first: bool) -> Decision:
        """Return the action of the keys that are held; nothing is done where none is."""
        now_s = time.monotonic()
        self._pressed_s = {k: s for k, s in self._pressed_s.items() if now_s - s < HELD_S}
        number = self._atari() if self._is_atari else self._other()
        return Decision(np.array([number]), self._meanings[number], taken=number)

    def _atari(self) -> int:
        """Return the action of ALE: FIRE, UP, RIGHTFIRE, UPLEFT, ...; the nearest that there is."""
        held = [key for key in ARROWS if key in self._pressed_s]
        fire = FIRE if " " in self._pressed_s else ""
        whole = "".join(held).upper()
        last = max(held, key=lambda key: self._pressed_s[key], default="").upper()
        for name in (whole + fire, last + fire, whole, last, fire, NOOP):
            if name in self._numbers:
                return self._numbers[name]
        return 0

    def _other(self) -> int:
        latest = max(self._pressed_s, key=lambda key: self._pressed_s[key], default="")
        if latest in self._in_a_row:
            return self._in_a_row[latest]
        if latest.isdigit() and latest.isascii() and int(latest) < len(self._meanings):
            return int(latest)
        return 1 if len(self._meanings) == 3 else 0
