"""Settings of the stop conditions, a section of `RunConfig`."""

from __future__ import annotations

from dataclasses import dataclass

from galamp.core.settings import option


@dataclass(frozen=True)
class StopConfig:
    """When a run ends before its total of agent steps. It can be resumed with other conditions."""

    max_time: float | None = option(
        None,
        "save and stop once this command has run so long: 90s, 30m, 2h or 1d; a resumed run has "
        "the whole time again, as in a batch system (default: no limit)",
        unit="s",
        low=1.0,
        duration=True,
        none="none",
    )
    stop_score: float | None = option(
        None,
        "finish once the mean score of the last 100 training episodes is this high, not before "
        "there are 100 (default: none)",
        none="none",
    )
    stop_when_flat: int | None = option(
        None,
        "finish once the best mean score of 100 episodes has not risen for so many agent steps "
        "(default: none)",
        unit="agent steps",
        low=1,
        high=10**15,
        none="none",
    )
