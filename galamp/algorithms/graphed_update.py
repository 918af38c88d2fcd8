"""Recorded update: one CUDA graph, or two with a `reduce` of the gradient in between.

    rollout, always in the same memory --compute_gradient--> findings, gradient
    findings, gradient --step--> numbers --> host

Runs in learners on GPUs. The host waits once per update, for the numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from galamp.algorithms.base import Rollout
from galamp.algorithms.cuda_graphs import Graphs, finish, page_locked

ComputeGradient = Callable[[], Sequence[Tensor]]
"""Computes the gradient; returns the findings for `Step`: tensors [] of any number type."""
Step = Callable[[Sequence[Tensor], bool], Tensor]
"""Takes a step along the gradient (flag: the mean over all learners); returns [n] float32."""


class RecordedUpdate:
    """Recorded update on the tensors of one rollout, with their contents at the launch.

    Attributes:
        rollout: the rollout.
        reduces: what `reduce` returns in the update; None if there is no `reduce`.
    """

    def __init__(
        self,
        graphs: Graphs,
        rollout: Rollout,
        compute_gradient: ComputeGradient,
        step: Step,
        *,
        findings: int,
        numbers: int,
        reduces: bool | None,
    ) -> None:
        """Record the update; the recording runs it a few times, with all its effects.

        Args:
            graphs: records the update.
            rollout: the rollout that `compute_gradient` learns from.
            compute_gradient: the first half.
            step: the second half.
            findings: how many tensors `compute_gradient` returns.
            numbers: how many numbers `step` returns.
            reduces: what `reduce` will return between the halves; None if there is no `reduce`.

        Raises:
            RuntimeError: see `Graphs.record`.
        """
        self.rollout, self.reduces = rollout, reduces
        self._numbers = page_locked(numbers, torch.float32)
        # Not in the first graph's scratch memory: other graphs may run between the two halves.
        kept = rollout.rewards.new_zeros(findings)

        def whole() -> None:
            self._numbers.copy_(step(compute_gradient(), False), non_blocking=True)

        def first() -> None:
            kept.copy_(torch.stack(tuple(compute_gradient())))

        def second() -> None:
            self._numbers.copy_(step(kept.unbind(), reduces is True), non_blocking=True)

        halves = [whole] if reduces is None else [first, second]
        self._launches = [graphs.record(half) for half in halves]

    def __call__(self, reduce: Callable[[], bool] | None) -> list[float]:
        """Run the update, with `reduce` in between; return the numbers of `Step`."""
        assert (reduce is None) == (self.reduces is None), "a different update was recorded"
        self._launches[0]()
        if reduce is not None:
            answer = reduce()
            assert answer == self.reduces, "a different update was recorded"
            self._launches[1]()
        finish()
        numbers: list[float] = self._numbers.tolist()
        return numbers
