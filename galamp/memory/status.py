"""Status board: a row of shared memory per process, and a ring of finished episodes per simulator.

    learner, simulator --write own row--> StatusBoard --read--> supervisor

A row holds status (heartbeat, turns, rounds, done, ...) and gauges, the latest metrics. The main
loop of a process writes its row, never a helper thread: if the heartbeat stops, the process hangs.
Single words are consistent; different words of a row may differ in age by a few microseconds.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Iterable, Iterator
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from galamp.core.failpoints import reach
from galamp.memory.arrays import ArraySpec, SharedArrays, memory_fence

EPISODE_CAPACITY = 4096
"""Finished episodes that a simulator's ring can hold before the supervisor reads them."""


class Phase(IntEnum):
    """Current activity of a process; the time in each phase is measured."""

    BOOT = 0
    COLLECT = 1
    INFER = 2
    UPDATE = 3
    GOSSIP = 4
    OTHER = 5
    STEP = 6
    WAIT = 7


COUNTERS = (
    "beat",
    "pid",
    "done",
    "envs",
    "agent_steps",
    "updates",
    "turns",
    "rounds",
    "mixes",
    "published",
    "sent",
    "received",
    "dropped",
    "left_out",
    "retried",
    "torn",
    "staleness",
    "most_staleness",
    "overflows",
    "page_lock_refusal",
    "graph_refusal",
)
"""Integer counters of a row, in order; `beat` is the heartbeat."""

GAUGE = "status.gauge."
"""Prefix of the name of a gauge's array, before the name of the gauge."""


class StatusRow:
    """Status row of one process: `row["sent"] += 1`, `row.enter(Phase.UPDATE)`."""

    def __init__(self, arrays: SharedArrays, index: int) -> None:
        width = len(COUNTERS)
        self._counters = arrays.words("status.counters")[index * width : (index + 1) * width]
        self._phase = arrays.words("status.phase")[index : index + 1]
        self._arrays, self._index = arrays, index
        self._phase_ns = arrays["status.phase_ns"][index]
        self._since_ns = time.monotonic_ns()

    def __getitem__(self, name: str) -> int:
        return int(self._counters[_COUNTER[name]])

    def __setitem__(self, name: str, value: int) -> None:
        self._counters[_COUNTER[name]] = value

    def heartbeat(self) -> None:
        """Count a heartbeat; every loop calls this in each iteration, waiting loops too."""
        self._counters[0] += 1

    def enter(self, phase: Phase) -> None:
        """Start a phase; the time since the last call is added to the previous phase."""
        now_ns = time.monotonic_ns()
        self._phase_ns[self._phase[0]] += now_ns - self._since_ns
        self._phase[0] = phase
        self._since_ns = now_ns
        self._counters[0] += 1

    @property
    def phase(self) -> Phase:
        """The current phase."""
        return Phase(self._phase[0])

    def phase_s(self) -> npt.NDArray[np.float64]:
        """Return the time spent so far in each `Phase`, in seconds."""
        return np.asarray(self._phase_ns, dtype=np.float64) / 1e9

    @functools.cached_property
    def _gauges(self) -> dict[str, npt.NDArray[np.float64]]:
        """The gauges that the board has, in order."""
        names = [spec.name for spec in self._arrays.specs if spec.name.startswith(GAUGE)]
        return {name.removeprefix(GAUGE): self._arrays[name] for name in names}

    def report(self, gauges: dict[str, float]) -> None:
        """Store the latest measurements.

        Raises:
            KeyError: the board was made without such a gauge.
        """
        for name, value in gauges.items():
            self._gauges[name][self._index] = value

    def gauges(self) -> dict[str, float]:
        """Return the latest measurements; those never reported are missing."""
        values = {name: float(array[self._index]) for name, array in self._gauges.items()}
        return {name: value for name, value in values.items() if value == value}

    def reset(self) -> None:
        """Prepare the row for a new process; the running counts continue."""
        self["done"] = 0
        self._phase[0] = Phase.BOOT
        self._since_ns = time.monotonic_ns()
        self["pid"] = os.getpid()

    def clear(self) -> None:
        """Clear the row of a process that has ended, for its successor (supervisor only)."""
        self["pid"] = self["envs"] = 0
        self._phase[0] = Phase.BOOT


_COUNTER = {name: index for index, name in enumerate(COUNTERS)}


class EpisodeRing:
    """Ring of finished episodes of one simulator: the simulator appends, the supervisor drains.

    An entry is (true score, length in agent steps, env_index, time.time() at its end).
    """

    def __init__(self, arrays: SharedArrays, index: int) -> None:
        self._entries = arrays["status.episodes"][index]
        self._head = arrays.words("status.episodes.head")[index : index + 1]

    def append(self, score: float, length: int, env_index: int) -> None:
        """Add a finished episode; the oldest unread one is overwritten when the ring is full."""
        entry = self._entries[self._head[0] % EPISODE_CAPACITY]
        entry[:] = (score, length, env_index, time.time())
        reach("episodes.written")
        memory_fence()
        self._head[0] += 1
        reach("episodes.counted")

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


class StatusBoard:
    """All rows and episode rings; the first `learners` rows are learners', the rest simulators'."""

    def __init__(self, arrays: SharedArrays, learners: int) -> None:
        self._arrays = arrays
        self._learners = learners

    @staticmethod
    def specs(learners: int, simulators: int, gauges: Iterable[str] = ()) -> list[ArraySpec]:
        """Return the arrays that hold the board, with room for what learners measure."""
        rows = learners + simulators
        measured = [
            ArraySpec(GAUGE + name, (rows,), "float64", fill=float("nan")) for name in gauges
        ]
        return [
            ArraySpec("status.counters", (rows, len(COUNTERS)), "int64"),
            ArraySpec("status.phase", (rows,), "int64"),
            ArraySpec("status.phase_ns", (rows, len(Phase)), "float64"),
            *measured,
            ArraySpec("status.episodes", (simulators, EPISODE_CAPACITY, 4), "float64"),
            ArraySpec("status.episodes.head", (simulators,), "int64"),
        ]

    def learner(self, rank: int) -> StatusRow:
        """Return a learner's row."""
        return StatusRow(self._arrays, rank)

    def simulator(self, index: int) -> StatusRow:
        """Return a simulator's row; `index` counts over all learners."""
        return StatusRow(self._arrays, self._learners + index)

    def learners(self) -> Iterator[StatusRow]:
        """Yield every learner's row."""
        return (self.learner(rank) for rank in range(self._learners))

    def agent_steps(self) -> int:
        """Return the number of agent steps of all learners so far."""
        at = _COUNTER["agent_steps"]
        return int(self._arrays["status.counters"][: self._learners, at].sum())
