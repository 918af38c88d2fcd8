"""The control block: what the supervisor tells everyone. One writer, the supervisor.

    supervisor --stop, checkpoint request, who lives in which life--> learners, simulators

Children look at it between two pieces of work and while they wait; nothing here blocks.
"""

from __future__ import annotations

from galamp.memory.arrays import WORDS_PER_LINE, ArraySpec, SharedArrays, memory_fence

NEVER = 2**62
"""A turn that no run reaches."""

_STOP_TURN, _QUIT, _SAVE_ID, _SAVE_TURN, _NO_GOSSIP = range(5)


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
        """Set the values before the first child starts: run on, save nothing."""
        self._words[_STOP_TURN] = NEVER
        self._words[_SAVE_TURN] = NEVER

    @property
    def stop_turn(self) -> int:
        """Learners leave, state saved, at the end of the first turn that is not below this one."""
        return int(self._words[_STOP_TURN])

    @stop_turn.setter
    def stop_turn(self, value: int) -> None:
        self._words[_STOP_TURN] = value

    @property
    def quit(self) -> bool:
        """Everyone leaves at once, nothing saved."""
        return bool(self._words[_QUIT])

    @quit.setter
    def quit(self, value: bool) -> None:
        self._words[_QUIT] = value

    @property
    def save_request(self) -> tuple[int, int]:
        """(id, turn): save under this id at the end of the first turn not below that one."""
        return int(self._words[_SAVE_ID]), int(self._words[_SAVE_TURN])

    def request_save(self, at_turn: int) -> int:
        """Ask every learner for its state at `at_turn`; returns the id it will carry."""
        number = self._words[_SAVE_ID] + 1
        self._words[_SAVE_TURN] = at_turn
        memory_fence()
        self._words[_SAVE_ID] = number
        return int(number)

    @property
    def gossip_enabled(self) -> bool:
        """Whether learners gossip for now; if not, they publish without sending."""
        return not self._words[_NO_GOSSIP]

    @gossip_enabled.setter
    def gossip_enabled(self, value: bool) -> None:
        self._words[_NO_GOSSIP] = not value

    def alive(self, rank: int) -> bool:
        """Whether learner `rank` takes part: waiting for one that does not is pointless."""
        return bool(self._alive[rank])

    def set_alive(self, rank: int, alive: bool) -> None:
        """Count learner `rank` in or out."""
        self._alive[rank] = alive

    def incarnation(self, rank: int) -> int:
        """Return how often learner `rank` was started anew."""
        return int(self._incarnation[rank])

    def set_incarnation(self, rank: int, value: int) -> None:
        """Open a new life of learner `rank`: messages of former ones are ignored."""
        self._incarnation[rank] = value

    def simulator_incarnation(self, index: int) -> int | None:
        """Return which life simulator `index`, over all learners, is in; None if it has none."""
        incarnation = int(self._simulators[index])
        return incarnation - 1 if incarnation > 0 else None

    def set_simulator_incarnation(self, index: int, incarnation: int | None) -> None:
        """Open a new life of a simulator, or end its last: its learner goes on without it."""
        self._simulators[index] = 0 if incarnation is None else incarnation + 1
