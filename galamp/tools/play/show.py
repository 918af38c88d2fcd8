"""A game at its own pace, on a terminal or in a window, with keys to pause and to change the pace.

    moments --chunks--> frame, seconds --Screen.show--> what is seen; Screen.keys --> Player

Runs in `galamp play`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

import numpy as np

from galamp.environments.screens import Frame
from galamp.tools.play.game import Moment

MAX_FPS = 30.0
"""Pictures per second that are shown at most."""
MAX_LATE_S = 0.25
"""A game that is late by more goes on from now, instead of hurrying after its time."""
SPEEDS = (0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 4.0, 8.0, 16.0)
QUIT, PAUSE, FASTER, SLOWER = ("q", "Q"), " pP", "+=", "-_"
PAUSED_S = 0.25
"""Longest wait for a key at a time, while the game is paused."""


class Screen(Protocol):
    """What shows a game."""

    def show(self, frame: Frame, moment: Moment, state: str) -> None:
        """Show a frame; `state` is the pace, and whether the game is paused."""

    def keys(self, timeout_s: float) -> list[str]:
        """Return the keys that were pressed; waits for one, `timeout_s` at most."""


class Quit(Exception):
    """The user has ended the game."""


class Player:
    """Shows moments one after the other, each for as long as it lasts."""

    def __init__(
        self,
        screen: Screen,
        fps: float,
        *,
        merges: bool,
        press: Callable[[str], None] | None = None,
    ) -> None:
        """Show on `screen`.

        Args:
            screen: what shows it.
            fps: frames per second of the game.
            merges: whether frames that are shown as one show their maximum.
            press: takes the keys of a person who plays; space is then no pause.
        """
        self._screen, self._fps, self._merges, self._press = screen, fps, merges, press
        self._speed, self._is_paused = SPEEDS.index(1.0), False

    @property
    def state(self) -> str:
        """The pace, and whether the game is paused."""
        return f"x {SPEEDS[self._speed]:g}" + (", paused" if self._is_paused else "")

    def play(self, game: Iterable[Moment]) -> None:
        """Show a game to its end.

        Raises:
            Quit: the user has ended it.
        """
        due_s = time.monotonic()
        for moment in game:
            fps = self._fps * SPEEDS[self._speed]
            for frame, number in chunks(moment.frames, fps, merges=self._merges):
                self._screen.show(frame, moment, self.state)
                due_s = max(due_s + number / fps, time.monotonic() - MAX_LATE_S)
                if self._wait(due_s, frame, moment):
                    due_s = time.monotonic()

    def _wait(self, due_s: float, frame: Frame, moment: Moment) -> bool:
        """Wait until it is time for the next frame; returns whether the game was paused."""
        was_paused = False
        while True:
            left_s = due_s - time.monotonic()
            for key in self._screen.keys(PAUSED_S if self._is_paused else max(0.0, left_s)):
                if self._take(key):
                    self._screen.show(frame, moment, self.state)
            was_paused = was_paused or self._is_paused
            if not self._is_paused and (was_paused or due_s <= time.monotonic()):
                return was_paused

    def _take(self, key: str) -> bool:
        """Take a key; returns whether it has changed the state.

        Raises:
            Quit: it ends the game.
        """
        if key in QUIT:
            raise Quit
        if key in FASTER or key in SLOWER:
            step = 1 if key in FASTER else -1
            self._speed = min(max(self._speed + step, 0), len(SPEEDS) - 1)
            return True
        if key in PAUSE and not (self._press is not None and key == " "):
            self._is_paused = not self._is_paused
            return True
        if self._press is not None:
            self._press(key)
        return False


def chunks(frames: Sequence[Frame], fps: float, *, merges: bool) -> Iterator[tuple[Frame, int]]:
    """Yield the frames to show, `MAX_FPS` of them a second at most, and how many each stands for.

    Args:
        frames: of one moment.
        fps: at which they follow one another.
        merges: whether a frame shows the maximum of those that it stands for.
    """
    size = max(1, round(fps / MAX_FPS))
    for first in range(0, len(frames), size):
        part = frames[first : first + size]
        yield (np.maximum.reduce(part) if merges else part[-1]), len(part)
