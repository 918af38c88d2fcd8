"""A game in a window, by OpenCV: with the strip of a video below it.

Moment --Overlay--> frame --cv2.imshow--> window; cv2.waitKey --> keys
"""

from __future__ import annotations

import os
import time

import cv2

from galamp.core.errors import UserError
from galamp.core.pip_commands import pip_install
from galamp.environments.screens import Frame
from galamp.tools.play.game import Moment
from galamp.tools.play.overlay import Overlay
from galamp.tools.play.show import Quit

DISPLAYS = ("DISPLAY", "WAYLAND_DISPLAY")
SYMBOL = 0xFFFF
"""The bits of `cv2.waitKeyEx` that are the key, as X11 numbers it; those above are Shift, Num Lock
and others. Of no key it is this number itself."""
ARROWS = {65361: "left", 65362: "up", 65363: "right", 65364: "down"}
LAST_CHARACTER = 0xFF
"""Keys up to this one are characters."""


def check_display() -> None:
    """Check that there is a display.

    Raises:
        UserError: there is none.
    """
    if not any(os.environ.get(name) for name in DISPLAYS):
        raise UserError(
            "--window: there is no display (DISPLAY); without --window it is shown in the terminal"
        )


class Window:
    """A window that shows a game; closing it ends the game."""

    def __init__(self, title: str, actions: tuple[str, ...]) -> None:
        """Show frames under `title`, with the named actions."""
        self._title, self._actions = title, actions
        self._overlay: Overlay | None = None

    def show(self, frame: Frame, moment: Moment, state: str) -> None:
        """Show a frame; see `show.Screen`.

        Raises:
            UserError: OpenCV has no windows here.
            Quit: the window was closed.
        """
        try:
            if self._overlay is None:
                self._overlay = Overlay(frame, self._actions)
                cv2.namedWindow(self._title, cv2.WINDOW_AUTOSIZE)
            elif cv2.getWindowProperty(self._title, cv2.WND_PROP_VISIBLE) < 1:
                raise Quit
            picture = self._overlay.drawn(frame, moment)
            cv2.imshow(self._title, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
            cv2.setWindowTitle(self._title, f"{self._title}   {state}")
        except cv2.error as error:
            why = " ".join(str(error).split())
            raise UserError(
                f"--window: OpenCV shows no windows here ({why[:200]}); leave out --window, or, "
                "where opencv-python-headless is installed: "
                + pip_install("--force-reinstall", "--no-deps", "opencv-python")
            ) from error

    def keys(self, timeout_s: float) -> list[str]:
        """Return a key that was pressed; see `show.Screen`."""
        until_s = time.monotonic() + timeout_s
        while True:
            left_ms = max(1, round(1000 * (until_s - time.monotonic())))
            key = cv2.waitKeyEx(left_ms) & SYMBOL
            if key in ARROWS:
                return [ARROWS[key]]
            if key <= LAST_CHARACTER:
                return [chr(key)]
            if time.monotonic() >= until_s:
                return []

    def close(self) -> None:
        """Close the window."""
        if self._overlay is not None:
            cv2.destroyAllWindows()
