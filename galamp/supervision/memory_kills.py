"""Which ends of children the kernel's out-of-memory killer has caused.

    out_of_memory_kills, counted about once a second --MemoryKills--> the cause of a SIGKILL

Runs in the supervisor. The kernel counts its kills in the whole control group, so the process that
one has ended is not known. Each is put down to one child at most that SIGKILL has ended since; one
of another process, such as an evaluation, is forgotten soon.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from itertools import repeat

from galamp.core.machine.memory import out_of_memory_kills
from galamp.supervision.child_failure import ChildFailure

COUNT_EVERY_S = 1.0
RECENT_S = 2.0
"""A kill is put down to a child whose end is seen within this time after the kill was."""
MAX_UNCLAIMED = 1024
"""No more of them are kept."""

OUT_OF_MEMORY = "was ended by the kernel: out of memory (use fewer --learners or --num-envs)"


class MemoryKills:
    """Out-of-memory kills that were put down to no child yet."""

    def __init__(self) -> None:
        """Count from now on."""
        self._counted, self._due_s = out_of_memory_kills(), 0.0
        self._seen_s: deque[float] = deque(maxlen=MAX_UNCLAIMED)

    def poll(self, now_s: float) -> None:
        """Count the kills, if the interval has passed; called in every tick."""
        if now_s >= self._due_s:
            self._count(now_s)

    def explain(self, failure: ChildFailure | None, now_s: float) -> ChildFailure | None:
        """Return the failure of a child; its cause is replaced where a kill explains it."""
        if failure is None or not failure.killed:
            return failure
        self._count(now_s)
        if not self._seen_s:
            return failure
        self._seen_s.popleft()
        # Not external: who needs too much memory at the same place does so again.
        return replace(failure, cause=OUT_OF_MEMORY, external=False, killed=False)

    def _count(self, now_s: float) -> None:
        """Note the new kills, and forget those that are not recent."""
        self._due_s = now_s + COUNT_EVERY_S
        kills = out_of_memory_kills()
        self._seen_s.extend(repeat(now_s, min(MAX_UNCLAIMED, max(0, kills - self._counted))))
        self._counted = max(kills, self._counted)
        while self._seen_s and now_s - self._seen_s[0] > RECENT_S:
            self._seen_s.popleft()
