"""What the viewer looks at: a view and its settings, changed by keys. Pure.

key --pressed(viewing)--> Viewing --render--> screen
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from galamp.telemetry.display.chart import known_metrics
from galamp.telemetry.snapshot import Snapshot

VIEWS = {
    "1": "overview",
    "2": "learners",
    "3": "gossip",
    "4": "system",
    "5": "events",
    "g": "game",
    "?": "help",
}
"""Key -> view; the key of the current view leads back to the overview."""
SCROLL = {"up": 1, "down": -1, "page up": 10, "page down": -10}
"""Key -> events to go back."""


@dataclass(frozen=True)
class Viewing:
    """One viewer's choices.

    Attributes:
        view: of `VIEWS`.
        metric: number of the charted metric among those that have values.
        back: newest events that are scrolled away.
        asks: whether it is asked if the run shall be stopped.
        keys: whether keys are read; the screen then tells of them.
        stops: whether `q` stops the run; else it only leaves.
        colour: whether the terminal shows colours.
    """

    view: str = "overview"
    metric: int = 0
    back: int = 0
    asks: bool = False
    keys: bool = False
    stops: bool = False
    colour: bool = True


def pressed(viewing: Viewing, key: str, snapshot: Snapshot) -> tuple[Viewing, bool]:
    """Return the choices after a key, and whether the viewer wants to leave, or stop the run."""
    if viewing.asks:
        return replace(viewing, asks=False), key == "y"
    if key == "q":
        return (replace(viewing, asks=True), False) if viewing.stops else (viewing, True)
    if key == "escape" or VIEWS.get(key) == viewing.view:
        return replace(viewing, view="overview", back=0), False
    if key in VIEWS:
        return replace(viewing, view=VIEWS[key], back=0), False
    if key in ("m", "M"):
        number = len(known_metrics(snapshot))
        return replace(viewing, metric=(viewing.metric + (1 if key == "m" else -1)) % number), False
    if key in SCROLL:
        most = max(0, len(snapshot.events) - 1)
        return replace(viewing, back=min(most, max(0, viewing.back + SCROLL[key]))), False
    return viewing, False
