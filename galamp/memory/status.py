"""Status board: a row of shared memory per process, by which the others go.

    learner, simulator --write own row--> StatusBoard --read--> supervisor, peers, next incarnation

Every word of a status row is part of a protocol: `STATUS` says who goes by it. What is only shown
is in `metrics.py`, and reached by `row.metrics`. The main loop of a process writes its row, never a
helper thread: if the heartbeat stops, the process hangs. Single words are consistent; different
words of a row may differ in age by a few microseconds.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from galamp.memory.arrays import ArraySpec, SharedArrays
from galamp.memory.metrics import EpisodeRing, MetricsRow


class Phase(IntEnum):
    """Current activity of a process; the time in each phase is measured.

    The supervisor goes by `BOOT`: a process that starts up has more time, and is not yet absent.
    """

    BOOT = 0
    COLLECT = 1
    INFER = 2
    UPDATE = 3
    GOSSIP = 4
    OTHER = 5
    STEP = 6
    WAIT = 7


STATUS = {
    "beat": "supervisor: the process hangs if it stands still",
    "pid": "fault injection: the process has started up",
    "done": "supervisor: the process ended because the run is over",
    "agent_steps": "learners: the total is reached; supervisor: the process has worked",
    "updates": "next incarnation: continues from it",
    "turns": "learners: stop and save after it; supervisor: a learner without turns is absent",
    "rounds": "peers: whether to wait for this learner's round",
    "staleness": "the learner: at its bound it waits for its peers",
    "graph_refusal": "next incarnation: does not try again to record CUDA graphs",
}
"""Words of a row, in order, with who goes by them; `beat` is the heartbeat."""


class StatusRow:
    """Status of one process: `row["turns"] += 1`, `row.enter(Phase.UPDATE)`, `row.metrics`."""

    def __init__(self, arrays: SharedArrays, index: int) -> None:
        width = len(STATUS)
        self._words = arrays.words("status.words")[index * width : (index + 1) * width]
        self._phase = arrays.words("status.phase")[index : index + 1]
        self._phase_ns = arrays["status.phase_ns"][index]
        self._since_ns = time.monotonic_ns()
        self.metrics = MetricsRow(arrays, index)
        """What the process shows besides; nobody goes by it."""

    def __getitem__(self, name: str) -> int:
        return int(self._words[_WORD[name]])

    def __setitem__(self, name: str, value: int) -> None:
        self._words[_WORD[name]] = value

    def heartbeat(self) -> None:
        """Count a heartbeat; every loop calls this in each iteration, waiting loops too."""
        self._words[0] += 1

    def enter(self, phase: Phase) -> None:
        """Start a phase; the time since the last call is added to the previous phase."""
        now_ns = time.monotonic_ns()
        self._phase_ns[self._phase[0]] += now_ns - self._since_ns
        self._phase[0] = phase
        self._since_ns = now_ns
        self._words[0] += 1

    @property
    def phase(self) -> Phase:
        """The current phase."""
        return Phase(self._phase[0])

    def phase_s(self) -> npt.NDArray[np.float64]:
        """Return the time spent so far in each `Phase`, in seconds; it is only shown."""
        return np.asarray(self._phase_ns, dtype=np.float64) / 1e9

    def counter(self, name: str) -> int:
        """Return a counter of the status or of the metrics."""
        return self[name] if name in STATUS else self.metrics[name]

    def set_counter(self, name: str, value: int) -> None:
        """Set a counter of the status or of the metrics, as a saved state has it."""
        if name in STATUS:
            self[name] = value
        else:
            self.metrics[name] = value

    def reset(self) -> None:
        """Prepare the row for a new process; the running counts continue."""
        self["done"] = 0
        self._phase[0] = Phase.BOOT
        self._since_ns = time.monotonic_ns()
        self["pid"] = os.getpid()

    def clear(self) -> None:
        """Clear the row of a process that has ended, for its successor (supervisor only)."""
        self["pid"] = self.metrics["envs"] = 0
        self._phase[0] = Phase.BOOT


_WORD = {name: index for index, name in enumerate(STATUS)}


class StatusBoard:
    """All rows and episode rings: of learners, of other nodes' and the bridge, of simulators.

    The middle part, of `remote` learners of other nodes and of the bridge, which writes them, is
    only there in runs on several machines.
    """

    def __init__(self, arrays: SharedArrays, learners: int, remote: int = 0) -> None:
        self._arrays = arrays
        self._learners, self._counted = learners, learners + _with_bridge(remote)

    @staticmethod
    def specs(
        learners: int, simulators: int, gauges: Iterable[str] = (), remote: int = 0
    ) -> list[ArraySpec]:
        """Return the arrays that hold status and metrics, with room for what learners measure."""
        rows = learners + _with_bridge(remote) + simulators
        return [
            ArraySpec("status.words", (rows, len(STATUS)), "int64"),
            ArraySpec("status.phase", (rows,), "int64"),
            ArraySpec("status.phase_ns", (rows, len(Phase)), "float64"),
            *MetricsRow.specs(rows, gauges),
            *EpisodeRing.specs(simulators),
        ]

    def learner(self, rank: int) -> StatusRow:
        """Return a learner's row, of this node or of another."""
        return StatusRow(self._arrays, rank)

    def simulator(self, index: int) -> StatusRow:
        """Return a simulator's row; `index` counts over all learners."""
        return StatusRow(self._arrays, self._counted + index)

    def bridge(self) -> StatusRow:
        """Return the bridge's row, where there is one."""
        return StatusRow(self._arrays, self._counted - 1)

    def learners(self) -> Iterator[StatusRow]:
        """Yield the row of every learner of this node."""
        return (self.learner(rank) for rank in range(self._learners))

    def agent_steps(self) -> int:
        """Return the number of agent steps of all learners so far, those of other nodes included.

        The bridge's are those of this node's earlier starts that only the other nodes know of.
        """
        at = _WORD["agent_steps"]
        return int(self._arrays["status.words"][: self._counted, at].sum())


def _with_bridge(remote: int) -> int:
    """Return the number of rows of other nodes' learners and of the bridge."""
    return remote + 1 if remote else 0
