"""Overview: what `galamp` and `galamp help` print: what to do first, and every command.

    COMMANDS --overview--> text of at most 79 columns

Light: shown before anything else is loaded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

FIRST = (
    ("galamp run --preset cartpole", "train: a minute to the full score"),
    ("galamp run --game Breakout", "train on an Atari game; Ctrl-C saves and stops"),
    ("galamp show runs/latest", "what the run has done, and what to do next"),
)
"""Commands to begin with, and what each does."""

GROUPS = {
    "train": ("run", "attach", "scale", "sweep"),
    "see and compare": ("ls", "show", "plot", "compare", "report", "export-logs"),
    "use what was trained": ("eval", "play", "record", "export"),
    "configure": ("presets", "config", "games", "doctor", "keys", "completion", "help"),
    "look deeper": ("profile", "topology", "audit", "chaos"),
    "tidy up": ("prune",),
}
"""Commands by what they are for; those that are in none come last."""
REST = "more"


class Named(Protocol):
    """What is read of a command."""

    @property
    def help(self) -> str:
        """What it is for."""
        ...


def overview(commands: Mapping[str, Named]) -> str:
    """Return what to do first, and the commands by group, with a line for each."""
    return "\n".join(_lines(commands)) + "\n"


def _lines(commands: Mapping[str, Named]) -> Iterator[str]:
    yield "galamp trains deep-RL agents with actor-learners that gossip. To begin:"
    yield ""
    width = max(len(command) for command, _ in FIRST)
    yield from (f"  {command:<{width}}  {text}" for command, text in FIRST)
    width = max(map(len, commands))
    for title, names in _grouped(commands).items():
        yield ""
        yield f"{title}:"
        yield from (f"  {name:<{width}}  {commands[name].help}" for name in names)
    yield ""
    yield "Options of a command: galamp COMMAND --help"


def _grouped(commands: Mapping[str, Named]) -> dict[str, list[str]]:
    """Return the titles of the groups that have commands, with these."""
    found = {title: [name for name in names if name in commands] for title, names in GROUPS.items()}
    placed = {name for names in found.values() for name in names}
    found[REST] = [name for name in commands if name not in placed]
    return {title: names for title, names in found.items() if names}
