"""Silence: nodes that were never heard of, and the line that says so. Pure; runs in bridges.

A library that refuses another one's certificate may do so without a word, on both sides. So a node
that never comes is reported, whatever the cause.
"""

from __future__ import annotations

from galamp.core.nodes import Place

SILENT_S = 30.0
"""Time without a word from a node, since the bridge began, until it is reported."""
AGAIN_S = 600.0
"""Interval of further reports."""


class Silence:
    """What is reported of the nodes that this one connects to, and has not heard of.

    Each pair of nodes is told of by the one that connects: it knows the other one's address.
    """

    def __init__(self, place: Place, began_s: float) -> None:
        """Begin to wait for all of them, at `began_s`."""
        self._keys = place.keys is not None
        self._addresses = dict(enumerate(place.connect))
        self._due_s = dict.fromkeys(self._addresses, began_s + SILENT_S)
        self._began_s = began_s

    def heard(self, node: int) -> None:
        """Note that a node has told something, be it what is refused."""
        self._due_s.pop(node, None)

    def reports(self, now_s: float) -> list[str]:
        """Return a line for each node whose silence is to be reported now."""
        due = [node for node, due_s in self._due_s.items() if now_s >= due_s]
        for node in due:
            self._due_s[node] = now_s + AGAIN_S
        return [self._report(node, now_s - self._began_s) for node in due]

    def _report(self, node: int, passed_s: float) -> str:
        keys = "are both keys of one call of galamp keys, " if self._keys else ""
        return (
            f"node {node} at {self._addresses[node]} not heard of for {passed_s:.0f} s: is it "
            f"started, {keys}is the address its own, does a firewall stand between? "
            "Training goes on without it"
        )
