"""What learners have saved in the newest checkpoints of two runs, side by side."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from safetensors.numpy import load_file

Pairs = dict[str, tuple[NDArray[Any], NDArray[Any]]]


def saved_by_both(one: Path, other: Path, learners: int) -> Iterator[Pairs]:
    """Yield each learner's tensors, (of `one`, of `other`) by name; both must have the same."""
    for rank in range(learners):
        first, second = (
            load_file(folder / "checkpoints" / "latest" / f"learner-{rank}.safetensors")
            for folder in (one, other)
        )
        assert first.keys() == second.keys()
        yield {name: (first[name], second[name]) for name in first}
