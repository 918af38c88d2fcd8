"""RMSprop and gradient clipping on flat vectors: a few fused passes, no host synchronisation.

Runs in learners, once per update, over the vectors of `FlatParameters`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from galamp.parameters import FlatParameters

CLIP_EPS = 1e-6
"""What PyTorch adds to the norm before it divides by it."""


def clip_(grad: Tensor, max_norm: float) -> Tensor:
    """Scale `grad` [P] in place to an L2 norm of at most `max_norm`; return the norm before, []."""
    norm: Tensor = torch.linalg.vector_norm(grad)
    grad.mul_((max_norm / (norm + CLIP_EPS)).clamp(max=1.0))
    return norm


class FlatRMSprop:
    """RMSprop (Tieleman and Hinton 2012) in PyTorch's form: eps is added after the square root.

    s = alpha s + (1 - alpha) g^2;  x = x - learning_rate g / (sqrt(s) + eps).

    Where s starts (`initial`) decides how large the first steps are. From zero, as in PyTorch, the
    first one moves every weight by learning_rate / sqrt(1 - alpha), ten times the step size, which
    leaves most of the first layer's rectifiers dead for good; from one, as in OpenAI Baselines,
    the first few hundred steps are small instead.

    Attributes:
        square_average: [P] float32, s.
    """

    def __init__(
        self,
        parameters: FlatParameters,
        *,
        learning_rate: float,
        alpha: float,
        eps: float,
        initial: float = 0.0,
    ) -> None:
        """Optimise `parameters.data` along `parameters.grad`."""
        self.square_average = torch.full_like(parameters.data, initial)
        self._parameters = parameters
        self._learning_rate = learning_rate
        self._alpha = alpha
        self._eps = eps
        # Kept, because a fresh allocation of this size costs as much as the pass that fills it.
        self._scratch = torch.empty_like(parameters.data)

    def step(self, active: Tensor) -> None:
        """Take one step where `active` ([] bool, on the device) holds.

        Where it does not, nothing changes provided that the gradient is zero: an answer of the
        device decides, so the host need not wait for it.
        """
        decay = self.square_average.new_full((), self._alpha).masked_fill(~active, 1.0)
        grad, average = self._parameters.grad, self.square_average
        average.mul_(decay).addcmul_(grad, grad, value=1.0 - self._alpha)
        root = torch.sqrt(average, out=self._scratch).add_(self._eps)
        self._parameters.data.addcdiv_(grad, root, value=-self._learning_rate)
