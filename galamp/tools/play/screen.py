"""A game on a terminal: the picture at the left, what is known of it at the right, keys below.

    frame, Moment --composed--> rows of text with colours, none wider than the terminal

Pure, but for `OnTerminal`.
"""

from __future__ import annotations

from dataclasses import dataclass

from galamp.core.sanitize import clean
from galamp.environments.screens import Frame
from galamp.telemetry.display.text import clip
from galamp.tools.play.game import Decision, Moment
from galamp.tools.play.half_blocks import fitted, lines
from galamp.tools.play.terminal import Terminal

PANEL, GAP = 26, 2
"""Columns of what stands beside the picture, and between the two."""
MIN_WIDTH = 56
"""Columns from which there is room beside the picture."""
BAR = 10
BOLD, DIM, TAKEN, RESET = "\x1b[1m", "\x1b[2m", "\x1b[33m", "\x1b[0m"


@dataclass(frozen=True)
class View:
    """How a game is shown.

    Attributes:
        title: environment.
        keys: what the keys do, in one line.
        true_colour: whether the terminal has 24-bit colours.
    """

    title: str
    keys: str
    true_colour: bool


class OnTerminal:
    """A game on a terminal that is entered; see `show.Screen`."""

    def __init__(self, terminal: Terminal, title: str, keys: str) -> None:
        """Show it under `title`; `keys` is what the keys do."""
        self._terminal = terminal
        self._view = View(title, keys, terminal.true_colour)

    def show(self, frame: Frame, moment: Moment, state: str) -> None:
        """Show a frame."""
        size = self._terminal.size()
        self._terminal.draw(composed(frame, moment, self._view, size, state))

    def keys(self, timeout_s: float) -> list[str]:
        """Return the keys that were pressed."""
        return self._terminal.keys(timeout_s)


def composed(
    frame: Frame, moment: Moment, view: View, size: tuple[int, int], state: str
) -> list[str]:
    """Return the rows of a screen of `size` columns and rows; `state` is such as `x 2, paused`."""
    columns, rows = size
    height = max(1, rows - 1)
    beside = columns >= MIN_WIDTH
    if not beside:
        height = max(1, height - 1)
    width = columns - (PANEL + GAP if beside else 0)
    small = fitted(frame, width, height)
    picture = lines(small, true_colour=view.true_colour)
    taken = small.shape[1]
    panel = facts(moment, view.title, state, height) if beside else []
    blank = " " * taken
    shown = []
    for number in range(height):
        left = picture[number] if number < len(picture) else blank
        right = panel[number] if number < len(panel) else ""
        shown.append(left + " " * GAP + right if right else left)
    if not beside:
        told = f"score {moment.score:g}  episode {moment.episode}  {state}"
        shown.append(clip(told, columns))
    return [*shown, f"{DIM}{clip(view.keys, columns)}{RESET}"][:rows]


def facts(moment: Moment, title: str, state: str, rows: int) -> list[str]:
    """Return what is known of a moment, in `rows` lines of `PANEL` columns at most."""
    decision = moment.decision
    top = [
        f"{BOLD}{clip(clean(title), PANEL)}{RESET}",
        f"{DIM}{clip(state, PANEL)}{RESET}",
        "",
        f"{'score':<9}{moment.score:>10g}",
        f"{'episode':<9}{moment.episode:>10,}",
        f"{'step':<9}{moment.step:>10,}",
    ]
    if decision is not None and decision.value is not None:
        top.append(f"{'value':<9}{decision.value:>10.2f}")
    if decision is None:
        return top[:rows]
    bars = _shares(decision)
    if not bars and decision.action:
        bars = [clip(f"action {decision.action}", PANEL)]
    room = rows - len(top) - 1
    if len(bars) > room:
        bars = [*bars[: max(0, room - 1)], f"{DIM}… and {len(bars) - room + 1} more{RESET}"]
    return [*top, "", *bars][:rows]


def _shares(decision: Decision) -> list[str]:
    """Return a line per action: its name, a bar and its share; the one that was taken is marked."""
    values = list(decision.shares.values())
    low, high = (min(values, default=0.0), max(values, default=0.0))
    if not decision.are_values:
        low, high = 0.0, 1.0
    found = []
    for number, (name, value) in enumerate(decision.shares.items()):
        length = round(BAR * (value - low) / ((high - low) or 1.0))
        bar = ("█" * length).ljust(BAR, "·")
        text = f"{value:5.2f}" if decision.are_values else f"{100 * value:3.0f}%"
        row = f"{clip(clean(name), 10):<10} {bar} {text}"[:PANEL]
        found.append(f"{TAKEN}{row}{RESET}" if number == decision.taken else row)
    return found
