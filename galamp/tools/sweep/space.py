"""What a sweep's [search] looks for: ranges of settings, and how many trials it may take.

    [search] --cli.search_file--> Search: Range, ... --search--> trials, each with values of its own

Plain values; Optuna is not imported here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Range:
    """What one setting may be.

    Attributes:
        name: of its flag, without the dashes: what trials call it.
        key: section and name of the setting.
        low, high: inclusive; not of `choices`.
        log: whether it is drawn by its logarithm.
        choices: all that there is, where it is no range of numbers.
    """

    name: str
    key: tuple[str, str]
    low: Any = None
    high: Any = None
    log: bool = False
    choices: tuple[Any, ...] = ()

    @property
    def ends(self) -> tuple[Any, ...]:
        """The values at its ends; all, of choices."""
        return self.choices or (self.low, self.high)

    def __str__(self) -> str:
        """The range as text: `0.0001 to 0.01 (log)`, `5, 20`."""
        if self.choices:
            return ", ".join(map(str, self.choices))
        return f"{self.low} to {self.high}{' (log)' if self.log else ''}"


@dataclass(frozen=True)
class Search:
    """The section `search` of a file.

    Attributes:
        trials: of each arm.
        sampler_seed: what is drawn follows from it, and from how earlier trials have ended.
        ranges: of the settings that are searched.
    """

    trials: int
    sampler_seed: int
    ranges: tuple[Range, ...]

    def values(self, params: Mapping[str, Any]) -> dict[tuple[str, str], Any]:
        """Return what a trial has drawn as values of settings."""
        return {each.key: params[each.name] for each in self.ranges}

    def corners(self) -> list[dict[str, Any]]:
        """Return trials that have every end, and every choice, among them: as few as do."""
        most = max(len(each.ends) for each in self.ranges)
        return [
            {each.name: each.ends[min(at, len(each.ends) - 1)] for each in self.ranges}
            for at in range(most)
        ]
