"""Adam and RAdam on flat vectors, with gradient clipping and without a host wait.

Runs in learners, once per minibatch, over the vectors of `FlatParameters`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from galamp.algorithms.flat_parameters import FlatParameters
from galamp.algorithms.rmsprop import CLIP_EPS

BETA1, BETA2 = 0.9, 0.999
RECTIFIED_FROM = 5.0
"""RAdam divides by the second moment from this length of the approximated moving average on."""


class FlatAdam:
    """Adam (Kingma and Ba 2015), or RAdam (Liu et al. 2020), in PyTorch's form.

        m = 0.9 m + 0.1 g;   v = 0.999 v + 0.001 g^2;   both corrected for their start at zero
        Adam:   x = x - learning_rate m / (sqrt(v) + eps)
        RAdam:  the same times a rectification of the second moment's variance; for the first five
                steps x = x - learning_rate m

    The moments and the number of steps are part of the learner's state.

    Attributes:
        first_moment: [P] float32, m.
        second_moment: [P] float32, v; never negative, so it can be averaged between learners.
        steps: [1] float32, the number of steps so far; where learners average their moments, the
            mean of their numbers, which need not be whole.
    """

    def __init__(self, parameters: FlatParameters, *, eps: float, rectified: bool = False) -> None:
        """Optimise `parameters.data` along `parameters.grad`."""
        self.first_moment = torch.zeros_like(parameters.data)
        self.second_moment = torch.zeros_like(parameters.data)
        self.steps = parameters.data.new_zeros(1)
        self._parameters = parameters
        self._eps = eps
        self._apply = self._radam_step if rectified else self._adam_step

    def step(self, active: Tensor, max_norm: float, learning_rate: float) -> Tensor:
        """Clip the gradient to an L2 norm of at most `max_norm`, and take one step along it.

        If `active` ([] bool, on the device) is false, nothing changes. The device decides, so the
        host need not wait for the value.

        Returns:
            the gradient's norm before clipping, [].
        """
        norm: Tensor = torch.linalg.vector_norm(self._parameters.grad)
        self._apply(((norm + CLIP_EPS) / max_norm).clamp(min=1.0), active, learning_rate)
        return norm

    def state(self) -> dict[str, Tensor]:
        """Return the live tensors of the optimiser's state."""
        return {
            "first_moment": self.first_moment,
            "second_moment": self.second_moment,
            "steps": self.steps,
        }

    def _adam_step(self, scale: Tensor, active: Tensor, learning_rate: float) -> None:
        """Divide the gradient by `scale` and take the step, in one pass of PyTorch's fused Adam."""
        self.steps += active
        torch._fused_adam_(
            [self._parameters.data],
            [self._parameters.grad],
            [self.first_moment],
            [self.second_moment],
            [],
            [self.steps.view(())],
            lr=learning_rate,
            beta1=BETA1,
            beta2=BETA2,
            weight_decay=0.0,
            eps=self._eps,
            amsgrad=False,
            maximize=False,
            grad_scale=scale,
            found_inf=(~active).to(torch.float32),
        )

    def _radam_step(self, scale: Tensor, active: Tensor, learning_rate: float) -> None:
        """Divide the gradient by `scale` and take the step.

        If `active` is false, the gradient becomes 0 and nothing changes, even if it is not finite.
        """
        data, grad = self._parameters.data, self._parameters.grad
        first, second = self.first_moment, self.second_moment
        grad.div_(scale).masked_fill_(~active, 0.0)
        self.steps += active
        first.mul_(torch.where(active, BETA1, 1.0)).add_(grad, alpha=1.0 - BETA1)
        second.mul_(torch.where(active, BETA2, 1.0))
        second.addcmul_(grad, grad, value=1.0 - BETA2)
        steps = self.steps.double()
        first_weight, second_weight = 1.0 - BETA1**steps, 1.0 - BETA2**steps
        longest = 2.0 / (1.0 - BETA2) - 1.0
        length = longest - 2.0 * steps * BETA2**steps / second_weight
        rectification = torch.sqrt(
            ((length - 4.0) * (length - 2.0) * longest).clamp(min=0.0)
            / ((longest - 4.0) * (longest - 2.0) * length.clamp(min=1.0))
        )
        divisor = second.sqrt().add_(self._eps).div_(second_weight.sqrt().to(second.dtype))
        divided = (rectification / first_weight).to(data.dtype) * first / divisor
        plain = first / first_weight.to(data.dtype)
        change = torch.where(length > RECTIFIED_FROM, divided, plain).masked_fill_(~active, 0.0)
        data.add_(change, alpha=-learning_rate)
