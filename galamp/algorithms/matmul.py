"""Matrix products on CPUs, by the quicker of PyTorch's two libraries.

PyTorch gives float32 products to MKL, which on processors that are not Intel's leaves half the
vector unit unused. oneDNN, which computes its convolutions, uses all of it on every processor; its
one way to a float32 product is the operator that PyTorch's compiler puts in place of linear layers.
"""

from __future__ import annotations

import torch
from torch import Tensor


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    result: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return result


def _has_onednn() -> bool:
    """Return whether the operator is there and does what is asked of it below."""
    ones = torch.ones(2, 2)
    try:
        return bool((_linear(ones, ones, None) == 2.0).all())
    except (AttributeError, NotImplementedError, RuntimeError):
        return False


ONEDNN = _has_onednn()


def product(left: Tensor, right: Tensor) -> Tensor:
    """Return left @ right, [N, I] x [I, M], in the type that both have.

    Both must be whole matrices or transposes of such: for parts of larger ones oneDNN has nothing
    but its reference implementation, which is slower beyond use.
    """
    if ONEDNN and left.dtype is torch.float32:
        return _linear(left, right.t(), None)
    return left @ right


def rectified_linear(x: Tensor, weight: Tensor, bias: Tensor, to: Tensor) -> None:
    """Put max(0, x weight^T + bias) into `to` [N, O]; x is [N, I], weight [O, I], bias [O]."""
    if ONEDNN and x.dtype is torch.float32:
        # Not by oneDNN's own rectifier: it makes 0 of what is no number, and hides a divergence.
        torch.clamp_min(_linear(x, weight, bias), 0.0, out=to)
    else:
        torch.addmm(bias, x, weight.t(), out=to).relu_()
