"""Help view: the keys, and what the figures mean; and the line of keys below a screen. Pure."""

from __future__ import annotations

from rich.text import Text

from galamp.telemetry.display import quantities
from galamp.telemetry.display.panels import titled
from galamp.telemetry.display.text import clip, fit
from galamp.telemetry.display.viewing import Viewing
from galamp.telemetry.snapshot import Snapshot

KEYS = (
    ("1 2 3 4 5", "overview, learners, gossip, system, events"),
    ("g", "the game that learner 0 plays, as it sees it"),
    ("m M", "next, previous metric on the chart"),
    ("↑ ↓ PgUp PgDn", "older, newer events"),
    ("q", "leave: attach detaches, run asks whether to stop"),
    ("Ctrl-C", "attach detaches, run saves and stops"),
)
MEANINGS = (
    ("steps/s", "agent steps per second; one is --frame-skip emulator frames"),
    ("score", "return, undiscounted and unclipped: mean of 100 episodes"),
    ("stale≤N", "rounds since it last mixed; at N it waits for its peers"),
    ("sent, received", "messages with parameters to and from peers"),
    ("overwr", "messages overwritten unread by newer ones; harmless"),
    ("dist", "L2 distance of its parameters to the mean of all"),
    (quantities.CONSENSUS_DISTANCE, "the same as root mean square over all learners"),
    (quantities.PAIRWISE_DISTANCE, "the greatest L2 distance between two learners"),
    (quantities.CERTIFICATE, f"what the {quantities.PAIRWISE_DISTANCE} can be at most"),
    ("explained", "share of the returns' variance that the values explain"),
    ("collect, infer", "waiting for simulators, choosing actions"),
    ("update, gossip", "learning, exchanging parameters"),
)
FIRST = 20
"""Columns of the names."""


def help_view(snapshot: Snapshot, width: int) -> list[Text]:
    """Return keys and meanings, one line each."""
    lines = titled("keys", width)
    lines += [_entry(*each, width) for each in KEYS]
    lines += [Text(), *titled("figures", width)]
    return lines + [_entry(*each, width) for each in MEANINGS]


def _entry(name: str, meaning: str, width: int) -> Text:
    return Text(f"{name:<{FIRST}}", "bold").append(clip(meaning, width - FIRST), "default")


def footer(viewing: Viewing, width: int) -> list[Text]:
    """Return the line of keys, or the question whether to stop."""
    if viewing.asks:
        ask = "Save and stop this run? y stops it, any other key goes on"
        return [Text(clip(ask, width), "bold yellow")]
    leave = "q stop" if viewing.stops else "q detach"
    keys = ["? help", leave, "1-5 views", "m metric", "g game"]
    return [Text(fit(keys, width), "dim")]
