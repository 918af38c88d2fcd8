"""The control block: what the supervisor tells everyone. One writer, the supervisor.

    supervisor --stop, checkpoint request, alive, incarnation--> learners, simulators

Children look at it between two pieces of work and while they wait; nothing here blocks.
"""

from __future__ import annotations

from galamp.shm import WORDS_PER_LINE, ArraySpec, SharedArrays

NEVER = 2**62
"""A round that no run reaches."""

_STOP_ROUND, _QUIT, _SAVE_ID, _SAVE_ROUND = range(4)


class ControlBlock:
    """Typed access to the block's words."""

    def __init__(self, arrays: SharedArrays) -> None:
        self._words = arrays.words("control")
        self._alive = arrays.words("control.alive")
        self._incarnation = arrays.words("control.incarnation")

    @staticmethod
    def specs(learners: int) -> list[ArraySpec]:
        """Return the arrays that hold the block."""
        return [
            ArraySpec("control", (WORDS_PER_LINE,), "int64"),
            ArraySpec("control.alive", (learners,), "int64"),
            ArraySpec("control.incarnation", (learners,), "int64"),
        ]

    def prepare(self) -> None:
        """Set the values before the first child starts: run on, save nothing."""
        self._words[_STOP_ROUND] = NEVER
        self._words[_SAVE_ROUND] = NEVER

    @property
    def stop_round(self) -> int:
        """Learners leave, state saved, at the end of the first round that is not below this one."""
        return int(self._words[_STOP_ROUND])

    @stop_round.setter
    def stop_round(self, value: int) -> None:
        self._words[_STOP_ROUND] = value

    @property
    def quit(self) -> bool:
        """Everyone leaves at once, nothing saved."""
        return bool(self._words[_QUIT])

    @quit.setter
    def quit(self, value: bool) -> None:
        self._words[_QUIT] = value

    @property
    def save_request(self) -> tuple[int, int]:
        """(id, round): save under this id at the end of the first round not below that one."""
        return int(self._words[_SAVE_ID]), int(self._words[_SAVE_ROUND])

    def request_save(self, at_round: int) -> int:
        """Ask every learner for its state at `at_round`; returns the id it will carry."""
        number = self._words[_SAVE_ID] + 1
        self._words[_SAVE_ROUND] = at_round
        self._words[_SAVE_ID] = number
        return int(number)

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
