"""Finding: one line of `galamp doctor`."""

from __future__ import annotations

from typing import NamedTuple


class Finding(NamedTuple):
    """What was found.

    Attributes:
        what: what was looked at, in a word or two.
        text: how it is.
        fix: what to do; empty where all is well.
        prevents: whether no run is possible.
    """

    what: str
    text: str
    fix: str = ""
    prevents: bool = False
