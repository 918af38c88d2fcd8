"""Groups of runs that differ in nothing but their seed and the machine that they ran on.

    Runs --group--> Group, ... with what tells them apart as label

The key of a group is every setting but the seed, those of `OF_THE_MACHINE`, how the run was shown,
and when it was to stop by time or score.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from galamp.core.errors import UserError, did_you_mean
from galamp.core.sanitize import clean
from galamp.core.settings import shown
from galamp.tools.plot.runs import Run

OF_THE_MACHINE = frozenset(
    {
        "device", "graphs", "simulator_workers", "env_splits", "threads", "pin", "nice",
        "start_timeout_s", "hang_after_s", "max_restarts",
    }
)  # fmt: skip
"""Settings that follow the machine and change no result but its speed, or last bits."""

MAX_IN_LABEL = 3
"""Settings in a label; how many more differ is told."""


@dataclass(frozen=True)
class Group:
    """Runs of one configuration.

    Attributes:
        letter: its name: A, B, ..., AA.
        label: the settings that tell it from the others; the name of the run folder, or the
            environment, where there are no others.
    """

    letter: str
    label: str
    runs: tuple[Run, ...]

    @property
    def seeds(self) -> list[Any]:
        """Different seeds of its runs, in order."""
        return sorted({run.seed for run in self.runs}, key=str)


def group(runs: Iterable[Run], ignored: Iterable[str] = ()) -> list[Group]:
    """Return the groups in order of their first run; `ignored` settings tell none apart."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        found.setdefault(_key(run, frozenset(ignored)), []).append(run)
    members = list(found.values())
    apart = [name for name in differing(members) if name not in {"seed", *ignored}]
    apart = [name for name in apart if name not in OF_THE_MACHINE]
    return [
        Group(_letter(number), _label(runs_of_it, apart), tuple(runs_of_it))
        for number, runs_of_it in enumerate(members)
    ]


def checked(words: Iterable[str], runs: Iterable[Run]) -> list[str]:
    """Return the names of settings that a user gives, as runs have them.

    Raises:
        UserError: no run has such a setting.
    """
    known = {name for run in runs for name in run.settings}
    names = [word.removeprefix("--").replace("-", "_") for word in words]
    for name in names:
        if name not in known:
            raise UserError(
                f"--ignore {shown(name)}: no run has this setting{did_you_mean(name, known)}"
            )
    return names


def differing(members: Sequence[Sequence[Run]]) -> list[str]:
    """Return the settings, the seed aside, that are not the same in all runs."""
    runs = [run for each in members for run in each]
    names = dict.fromkeys(name for run in runs for name in run.settings)
    return [name for name in names if name != "seed" and len(values(runs, name)) > 1]


def values(runs: Iterable[Run], name: str) -> list[str]:
    """Return the different values of a setting in some runs, as text."""
    return list(dict.fromkeys(text_of(run.settings.get(name)) for run in runs))


def text_of(value: Any) -> str:
    """Return the value of a setting in one line."""
    if value is None or isinstance(value, bool):
        return {None: "-", True: "yes", False: "no"}[value]
    return f"{value:.4g}" if isinstance(value, float) else clean(str(value))


def _key(run: Run, ignored: frozenset[str]) -> str:
    kept = {
        name: value
        for name, value in run.settings.items()
        if name not in OF_THE_MACHINE | ignored and name != "seed"
    }
    return json.dumps(kept, sort_keys=True)


def _label(runs: Sequence[Run], apart: Sequence[str]) -> str:
    if not apart:
        return runs[0].label if len(runs) == 1 else clean(runs[0].env_id)
    parts = [f"{name.replace('_', ' ')} {values(runs, name)[0]}" for name in apart[:MAX_IN_LABEL]]
    more = len(apart) - MAX_IN_LABEL
    return ", ".join(parts) + (f" and {more} more" if more > 0 else "")


def _letter(number: int) -> str:
    """Return A for 0, Z for 25, AA for 26."""
    head, tail = divmod(number, 26)
    return (_letter(head - 1) if head else "") + chr(ord("A") + tail)
