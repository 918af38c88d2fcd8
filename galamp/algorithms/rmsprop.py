"""RMSprop and gradient clipping on flat vectors, in few passes over memory, without a host wait.

Runs in learners, once per update, over the vectors of `FlatParameters`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from galamp.algorithms.flat_parameters import FlatParameters

CLIP_EPS = 1e-6
"""PyTorch adds this to the norm before it divides by it."""

LATE = 1e9
"""A number of steps after which Adam's bias correction is 1: 1 - alpha ** LATE is 1."""


class FlatRMSprop:
    """RMSprop (Tieleman and Hinton 2012) in one of two forms.

        s = alpha s + (1 - alpha) g^2
        torch:  x = x - learning_rate g / (sqrt(s) + eps)
        tf:     x = x - learning_rate g / sqrt(s + eps)

    The first form is PyTorch's, and that of the published GALA code. The second is TensorFlow's,
    that of OpenAI Baselines and of `RMSpropTFLike` in Stable-Baselines3. All of them use alpha 0.99
    and eps 1e-5 for A2C. The forms differ if s is not large compared to eps, that is for gradients
    of sqrt(eps), 0.003, and below: eps inside the root makes those steps smaller.

    The initial s (`initial`) decides the size of the first steps. From zero, as in PyTorch, the
    first step moves every weight by learning_rate / sqrt(1 - alpha), ten times the step size: most
    ReLU units of the first layer then stay at zero for ever. From one, as in OpenAI Baselines, the
    first steps are small instead, until alpha^t has come down to the gradients' mean square: some
    hundred updates, and 1,300 where clipping to 0.5 leaves 130,000 weights 2e-6 each.

    Attributes:
        square_average: [P] float32, s.
        learning_rate: of the next step. One that changes under steps that are recorded is a tensor,
            [] float32 on the device.
    """

    def __init__(
        self,
        parameters: FlatParameters,
        *,
        learning_rate: float | Tensor,
        alpha: float,
        eps: float,
        initial: float = 0.0,
        form: str = "torch",
    ) -> None:
        """Optimise `parameters.data` along `parameters.grad`."""
        self.square_average = torch.full_like(parameters.data, initial)
        self._parameters = parameters
        self.learning_rate = learning_rate
        self._alpha = alpha
        self._eps = eps
        self._apply = {"torch": self._torch_step, "tf": self._tf_step}[form]
        self._steps = parameters.data.new_full((), LATE)

    def step(self, active: Tensor, max_norm: float) -> Tensor:
        """Clip the gradient to an L2 norm of at most `max_norm`, and take one step along it.

        If `active` ([] bool, on the device) is false, nothing changes. The device decides, so the
        host need not wait for the value.

        Returns:
            the gradient's norm before clipping, [].
        """
        norm: Tensor = torch.linalg.vector_norm(self._parameters.grad)
        self._apply(((norm + CLIP_EPS) / max_norm).clamp(min=1.0), active)
        return norm

    def _torch_step(self, scale: Tensor, active: Tensor) -> None:
        """Divide the gradient by `scale` and take the step, in one pass.

        This is PyTorch's fused Adam without momentum and without bias correction: the first moment
        then equals the gradient, which is passed for it.
        """
        data, grad, average = self._parameters.data, self._parameters.grad, self.square_average
        torch._fused_adam_(
            *([data], [grad], [grad], [average], [], [self._steps]),
            lr=self.learning_rate,
            beta1=0.0,
            beta2=self._alpha,
            weight_decay=0.0,
            eps=self._eps,
            amsgrad=False,
            maximize=False,
            grad_scale=scale,
            found_inf=(~active).to(torch.float32),
        )

    def _tf_step(self, scale: Tensor, active: Tensor) -> None:
        """Divide the gradient by `scale` and take the step, in eight passes; in nine by a tensor.

        If `active` is false, the gradient becomes 0 and s keeps its value, even if either is not
        finite; the divisor is then never 0, so there is no 0 / 0.
        """
        data, grad, average = self._parameters.data, self._parameters.grad, self.square_average
        grad.div_(scale).masked_fill_(~active, 0.0)
        average.mul_(torch.where(active, self._alpha, 1.0))
        average.addcmul_(grad, grad, value=1.0 - self._alpha)
        divisor = average.add(torch.where(active, self._eps, 1.0)).sqrt_()
        if isinstance(self.learning_rate, Tensor):
            data.addcdiv_(grad.mul_(self.learning_rate), divisor, value=-1.0)
        else:
            data.addcdiv_(grad, divisor, value=-self.learning_rate)
