"""Metrics of a run in shared memory: counters, gauges and finished episodes. They are only shown.

    learner, simulator --write own row--> MetricsRow, EpisodeRing --read--> supervisor: Recorder

No process goes by any of them: what does count for that is in `status.py`. Of a metric that is
wrong or missing only the display, the logs and the summary know.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from galamp.core.failpoints import hit
from galamp.memory.arrays import ArraySpec, SharedArrays, memory_fence

METRICS = (
    "envs",
    "mixes",
    "published",
    "sent",
    "received",
    "dropped",
    "left_out",
    "below_floor",
    "retried",
    "torn",
    "most_staleness",
    "overflows",
    "page_lock_refusal",
)
"""Integer counters of a row, in order."""

GAUGE = "metrics.gauge."
"""Prefix of the name of a gauge's array, before the name of the gauge."""

LEARNING_RATE = "learning_rate"
"""The gauge that every learner has besides those of its algorithm: of its last update."""

POLICY_LAG = "policy_lag"
"""The gauge of learners with `--pipeline`: updates between the policy that acted and its update."""

EPISODE_CAPACITY = 4096
"""Finished episodes that a simulator's ring can hold before the supervisor reads them."""


class MetricsRow:
    """Metrics of one process: `metrics["sent"] += 1`, `metrics.report({"entropy": 0.5})`."""

    def __init__(self, arrays: SharedArrays, index: int) -> None:
        width = len(METRICS)
        self._counters = arrays.words("metrics.counters")[index * width : (index + 1) * width]
        self._arrays, self._index = arrays, index

    @staticmethod
    def specs(rows: int, gauges: Iterable[str]) -> list[ArraySpec]:
        """Return the arrays that hold the rows, with room for these gauges."""
        return [
            ArraySpec("metrics.counters", (rows, len(METRICS)), "int64"),
            *(ArraySpec(GAUGE + name, (rows,), "float64", fill=float("nan")) for name in gauges),
        ]

    def __getitem__(self, name: str) -> int:
        return int(self._counters[_METRIC[name]])

    def __setitem__(self, name: str, value: int) -> None:
        self._counters[_METRIC[name]] = value

    @functools.cached_property
    def _gauges(self) -> dict[str, npt.NDArray[np.float64]]:
        """The gauges that there are, in order."""
        names = [spec.name for spec in self._arrays.specs if spec.name.startswith(GAUGE)]
        return {name.removeprefix(GAUGE): self._arrays[name] for name in names}

    def report(self, gauges: dict[str, float]) -> None:
        """Store the latest measurements.

        Raises:
            KeyError: the rows were made without such a gauge.
        """
        for name, value in gauges.items():
            self._gauges[name][self._index] = value

    def gauges(self) -> dict[str, float]:
        """Return the latest measurements; those never reported are missing."""
        values = {name: float(array[self._index]) for name, array in self._gauges.items()}
        return {name: value for name, value in values.items() if value == value}


_METRIC = {name: index for index, name in enumerate(METRICS)}


class EpisodeRing:
    """Ring of finished episodes of one simulator: the simulator appends, the supervisor drains.

    An entry is (true score, length in agent steps, env_index, time.time() at its end).
    """

    def __init__(self, arrays: SharedArrays, index: int) -> None:
        self._entries = arrays["metrics.episodes"][index]
        self._head = arrays.words("metrics.episodes.head")[index : index + 1]

    @staticmethod
    def specs(simulators: int) -> list[ArraySpec]:
        """Return the arrays that hold the rings of all simulators."""
        return [
            ArraySpec("metrics.episodes", (simulators, EPISODE_CAPACITY, 4), "float64"),
            ArraySpec("metrics.episodes.head", (simulators,), "int64"),
        ]

    def append(self, score: float, length: int, env_index: int) -> None:
        """Add a finished episode; the oldest unread one is overwritten when the ring is full."""
        entry = self._entries[self._head[0] % EPISODE_CAPACITY]
        entry[:] = (score, length, env_index, time.time())
        hit("episodes.written")
        memory_fence()
        self._head[0] += 1
        hit("episodes.counted")

    def drain(self, tail: int) -> tuple[npt.NDArray[np.float64], int]:
        """Return the entries `[n, 4]` since `tail`, without overwritten ones, and the new tail."""
        head = int(self._head[0])
        memory_fence()
        first = max(tail, head - EPISODE_CAPACITY + 1)
        entries = self._entries[np.arange(first, head) % EPISODE_CAPACITY]
        memory_fence()
        # During the copy the simulator may have wrapped around and be writing the next entry.
        whole = max(first, self._head[0] - EPISODE_CAPACITY + 1)
        return entries[whole - first :], head
