"""A frame of a video: the game, and a strip below it with score, value and what the agent weighs.

    Moment --Overlay.drawn--> frame, RGB [height, width, 3] uint8

Pure; OpenCV draws.
"""

from __future__ import annotations

import cv2
import numpy as np

from galamp.core.sanitize import clean
from galamp.environments.screens import Frame
from galamp.tools.play.game import Decision, Moment

MIN_WIDTH = 320
"""Narrower games are enlarged by a whole number."""
FONT, SCALE, LINE, MARGIN = cv2.FONT_HERSHEY_SIMPLEX, 0.38, 15, 6
"""Font of the strip, its size, the height of a line and the margin, in pixels."""
COLUMN = 150
"""Least width of the column of an action: its name, a bar, its share."""
NAME, SHARE = 78, 32
"""Width of an action's name, and of its share."""
INK, QUIET, PAPER = (235, 235, 235), (130, 135, 140), (24, 26, 30)
BAR, TAKEN = (70, 110, 170), (240, 160, 60)
"""Colours, RGB; `TAKEN` is that of the action that was taken."""


class Overlay:
    """Draws the frames of one video, all of one size."""

    def __init__(self, frame: Frame, actions: tuple[str, ...]) -> None:
        """Lay out frames of the size of `frame`, and a row or more for the named `actions`."""
        height, width = frame.shape[:2]
        self._factor = max(1, -(-MIN_WIDTH // width))
        self._game = height * self._factor, width * self._factor
        self._columns = max(1, (self._game[1] - MARGIN) // COLUMN)
        self._rows = -(-max(1, len(actions)) // self._columns)
        strip = 2 * MARGIN + LINE * (2 + self._rows)
        # Codecs want even sizes.
        self.height = (self._game[0] + strip + 1) // 2 * 2
        self.width = (self._game[1] + 1) // 2 * 2

    def drawn(self, frame: Frame, moment: Moment) -> Frame:
        """Return the frame with the strip of its moment; one of another size is resized."""
        picture: Frame = np.full((self.height, self.width, 3), PAPER, np.uint8)
        height, width = self._game
        picture[:height, :width] = cv2.resize(
            frame, (width, height), interpolation=cv2.INTER_NEAREST
        )
        decision = moment.decision
        known = decision is not None and decision.value is not None
        value = f"{decision.value:.2f}" if decision is not None and known else "-"
        self._text(picture, 0, 0, f"score {moment.score:g}", INK)
        self._text(picture, 0, self.width // 2, f"value {value}", INK)
        self._text(picture, 1, 0, f"episode {moment.episode}", QUIET)
        self._text(picture, 1, self.width // 2, f"step {moment.step:,}", QUIET)
        if decision is not None and decision.shares:
            self._shares(picture, decision)
        elif decision is not None and decision.action:
            self._text(picture, 2, 0, f"action {decision.action}", INK)
        return picture

    def _shares(self, picture: Frame, decision: Decision) -> None:
        """Draw a bar per action: its probability, or its value from the lowest to the highest."""
        values = np.array(list(decision.shares.values()))
        low, high = (values.min(), values.max()) if decision.are_values else (0.0, 1.0)
        lengths = (values - low) / ((high - low) or 1.0)
        each = (self.width - MARGIN) // self._columns
        for number, (name, value) in enumerate(decision.shares.items()):
            row, x = 2 + number // self._columns, (number % self._columns) * each
            taken = number == decision.taken
            self._text(picture, row, x, clean(name)[:11], TAKEN if taken else INK)
            room = each - NAME - SHARE - 2 * MARGIN
            y, left = self._game[0] + MARGIN + LINE * row, x + MARGIN + NAME
            end = left + max(1, round(max(0, room) * float(lengths[number])))
            cv2.rectangle(picture, (left, y + 4), (end, y + 11), TAKEN if taken else BAR, -1)
            text = f"{value:.2f}" if decision.are_values else f"{100 * value:.0f}%"
            self._text(picture, row, x + each - SHARE - MARGIN, text, QUIET)

    def _text(
        self, picture: Frame, row: int, x: int, text: str, colour: tuple[int, int, int]
    ) -> None:
        place = x + MARGIN, self._game[0] + MARGIN + LINE * row + LINE - 4
        cv2.putText(picture, text, place, FONT, SCALE, colour, 1, cv2.LINE_AA)
