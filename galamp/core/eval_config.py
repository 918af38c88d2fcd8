"""Settings of the evaluations while a run trains, a section of `RunConfig`."""

from __future__ import annotations

from dataclasses import dataclass

from galamp.core.settings import option


@dataclass(frozen=True)
class EvalConfig:
    """How often a run is evaluated while it trains. It can be resumed with other values."""

    eval_every: int | None = option(
        None,
        "play whole games with the mean of all learners once in so many agent steps, such as 500k, "
        "in a process of the lowest priority; `best` is then chosen by it (default: never)",
        unit="agent steps",
        low=1,
        high=10**15,
        none="none",
    )
    eval_episodes: int = option(10, "games of one such evaluation", low=1, high=100_000)
