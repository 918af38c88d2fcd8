"""Outer step of one learner: Nesterov momentum on the difference that updates and a mix have made.

    mix --mixed vector m--> OuterStep --x--> the next rollout
    g = a - m,   v = momentum v + g,   x = a - lr (g + momentum v),   a = x

a is the vector after the last outer step, so g is a pseudo-gradient over all updates and mixes
since. This is PyTorch's SGD with Nesterov momentum, as in DiLoCo and SNOO (arXiv 2510.15830), after
an exchange with peers, as in NoLoCo (arXiv 2506.10911). Unlike there, the peers' pull, which g
holds as well, has no rate of its own, and only the vectors are exchanged. So with too much momentum
the disagreement grows: `consensus/outer_growth.py` says where.

With momentum 0 and lr 1, x is m: plain gossip. Runs in a learner, on its device.
"""

from __future__ import annotations

import torch
from torch import Tensor


class OuterStep:
    """State of the outer steps of one vector [P]: where the last one led, and the momentum.

    It is not saved: after every start of the learner's process the momentum is 0.
    """

    def __init__(self, vector: Tensor, *, momentum: float, lr: float) -> None:
        self._momentum, self._lr = momentum, lr
        self._anchor, self._velocity = vector.clone(), torch.zeros_like(vector)

    def restart(self, vector: Tensor) -> None:
        """Begin anew from `vector`, without momentum."""
        self._anchor.copy_(vector)
        self._velocity.zero_()

    def step(self, mixed: Tensor, out: Tensor) -> None:
        """Take a step towards `mixed` and beyond, and write where it leads into `out`."""
        torch.sub(self._anchor, mixed, out=out)
        self._velocity.mul_(self._momentum).add_(out)
        out.add_(self._velocity, alpha=self._momentum)
        self._anchor.add_(out, alpha=-self._lr)
        out.copy_(self._anchor)
