"""Control block: the supervisor's requests to all children. One writer, the supervisor.

    supervisor --stop, checkpoint request, incarnations of all children--> learners, simulators

Incarnation k of a child is its process after k restarts. Children read the block between two steps
of work and while they wait; nothing here blocks.
"""

from __future__ import annotations

from galamp.memory.arrays import WORDS_PER_LINE, ArraySpec, SharedArrays, memory_fence

NEVER = 2**62
"""A number of turns that no run reaches."""

_STOP_TURN, _QUIT, _SAVE_ID, _SAVE_TURN, _NO_GOSSIP, _TRACER = range(6)


class ControlBlock:
    """Typed access to the block's words."""

    def __init__(self, arrays: SharedArrays) -> None:
        self._words = arrays.words("control")
        self._alive = arrays.words("control.alive")
        self._incarnation = arrays.words("control.incarnation")
        self._simulators = arrays.words("control.simulators")

    @staticmethod
    def specs(learners: int, simulators: int = 1) -> list[ArraySpec]:
        """Return the arrays that hold the block."""
        return [
            ArraySpec("control", (WORDS_PER_LINE,), "int64"),
            ArraySpec("control.alive", (learners,), "int64"),
            ArraySpec("control.incarnation", (learners,), "int64"),
            ArraySpec("control.simulators", (simulators,), "int64"),
        ]

    def prepare(self) -> None:
        """Set the initial values, before the first child starts: no stop, no save request."""
        self._words[_STOP_TURN] = NEVER
        self._words[_SAVE_TURN] = NEVER

    @property
    def stop_turn(self) -> int:
        """Turn after which learners save their state and exit: the first turn >= this one."""
        return int(self._words[_STOP_TURN])

    @stop_turn.setter
    def stop_turn(self, value: int) -> None:
        self._words[_STOP_TURN] = value

    @property
    def quit(self) -> bool:
        """Whether all children must exit at once, without saving."""
        return bool(self._words[_QUIT])

    @quit.setter
    def quit(self, value: bool) -> None:
        self._words[_QUIT] = value

    @property
    def save_request(self) -> tuple[int, int]:
        """(id, turn): save the state under this id at the end of the first turn >= `turn`."""
        return int(self._words[_SAVE_ID]), int(self._words[_SAVE_TURN])

    def request_save(self, at_turn: int) -> int:
        """Request the state of every learner at `at_turn`; return the id of this request."""
        number = self._words[_SAVE_ID] + 1
        self._words[_SAVE_TURN] = at_turn
        memory_fence()
        self._words[_SAVE_ID] = number
        return int(number)

    @property
    def gossip_enabled(self) -> bool:
        """Whether learners gossip now; if not, they publish without sending tokens."""
        return not self._words[_NO_GOSSIP]

    @gossip_enabled.setter
    def gossip_enabled(self, value: bool) -> None:
        self._words[_NO_GOSSIP] = not value

    @property
    def tracer(self) -> int:
        """Process that may trace all children, as for a profile; 0: none."""
        return int(self._words[_TRACER])

    @tracer.setter
    def tracer(self, pid: int) -> None:
        self._words[_TRACER] = pid

    def alive(self, rank: int) -> bool:
        """Whether learner `rank` is running; other learners wait only for running ones."""
        return bool(self._alive[rank])

    def set_alive(self, rank: int, alive: bool) -> None:
        """Mark learner `rank` as running or not."""
        self._alive[rank] = alive

    def incarnation(self, rank: int) -> int:
        """Return the incarnation of learner `rank`: its number of restarts."""
        return int(self._incarnation[rank])

    def set_incarnation(self, rank: int, value: int) -> None:
        """Start a new incarnation of learner `rank`: messages of earlier ones are ignored."""
        self._incarnation[rank] = value

    def simulator_incarnation(self, index: int) -> int | None:
        """Return the incarnation of a simulator, None if it does not run.

        `index` counts the simulators of all learners.
        """
        incarnation = int(self._simulators[index])
        return incarnation - 1 if incarnation > 0 else None

    def set_simulator_incarnation(self, index: int, incarnation: int | None) -> None:
        """Start a new incarnation of a simulator; None: its learner continues without it."""
        self._simulators[index] = 0 if incarnation is None else incarnation + 1
