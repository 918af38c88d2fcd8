"""An update as CUDA graphs: one, or two where somebody is to change the gradient in between.

    rollout, always in the same memory --descend--> findings, gradient --step--> numbers --> host

Runs in learners on GPUs. The host waits once, for the numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from galamp.algorithms.base import Rollout
from galamp.algorithms.cuda_graphs import Graphs, finish, page_locked

Descend = Callable[[], Sequence[Tensor]]
"""Sets the gradient, and returns what `Step` goes by and tells: tensors [], any number type."""
Step = Callable[[Sequence[Tensor], bool], Tensor]
"""Takes a step along the gradient, which may be everyone's; returns numbers, [n] float32."""


class RecordedUpdate:
    """The update on one rollout's tensors, whatever they hold by then.

    Attributes:
        rollout: the rollout.
        reduces: what `reduce` returns in it; None if there is none.
    """

    def __init__(
        self,
        graphs: Graphs,
        rollout: Rollout,
        descend: Descend,
        step: Step,
        *,
        findings: int,
        numbers: int,
        reduces: bool | None,
    ) -> None:
        """Record it; what it changes is changed on the way.

        Args:
            graphs: records it.
            rollout: what `descend` learns from.
            descend: the first half.
            step: the second half.
            findings: how many tensors `descend` returns.
            numbers: how many numbers `step` returns.
            reduces: what `reduce` will return between the two; None if there will be none.

        Raises:
            RuntimeError: see `Graphs.record`.
        """
        self.rollout, self.reduces = rollout, reduces
        self._numbers = page_locked(numbers, torch.float32)
        # No scratch of the first graph: between the two there may be others.
        kept = rollout.rewards.new_zeros(findings)

        def whole() -> None:
            self._numbers.copy_(step(descend(), False), non_blocking=True)

        def first() -> None:
            kept.copy_(torch.stack(tuple(descend())))

        def second() -> None:
            self._numbers.copy_(step(kept.unbind(), reduces is True), non_blocking=True)

        halves = [whole] if reduces is None else [first, second]
        self._launches = [graphs.record(half) for half in halves]

    def __call__(self, reduce: Callable[[], bool] | None) -> list[float]:
        """Update, with `reduce` in between; returns the numbers of `Step`."""
        assert (reduce is None) == (self.reduces is None), "another update was recorded"
        self._launches[0]()
        if reduce is not None:
            answer = reduce()
            assert answer == self.reduces, "another update was recorded"
            self._launches[1]()
        finish()
        numbers: list[float] = self._numbers.tolist()
        return numbers
