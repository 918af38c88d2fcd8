"""Titles of a run's children, as they are shown in `ps`, in messages and in events."""

from __future__ import annotations


def title_of(role: str, rank: int, worker: int | None) -> str:
    """Return role and rank of a child: `learner 0`, `simulator 0.1`; learners have no `worker`."""
    return f"{role} {rank}" + ("" if worker is None else f".{worker}")
